# A stand-in for crane: each builder is a derivation that depends on what it was given, and refuses what the
# real one would not know.
{
  outputs = _: {
    mkLib =
      pkgs:
      let
        build =
          suffix: more: args:
          let
            known = [
              "buildInputs"
              "cargoArtifacts"
              "cargoExtraArgs"
              "doCheck"
              "env"
              "meta"
              "nativeBuildInputs"
              "pname"
              "src"
              "strictDeps"
              "version"
            ]
            ++ more;
            unknown = builtins.filter (key: !(builtins.elem key known)) (builtins.attrNames args);
          in
          if unknown != [ ] then
            throw "crane: ${toString unknown} is not known to this stand-in"
          else
            derivation (
              {
                name = "${args.pname}${suffix}-${args.version}";
                inherit (pkgs) system;
                builder = "/bin/sh";
              }
              // removeAttrs args [
                "meta"
                "env"
              ]
            )
            // {
              meta = args.meta or { };
              inherit (args) pname version;
            };
      in
      {
        buildDepsOnly = build "-deps" [ ];
        buildPackage = build "" [ ];
        cargoClippy = build "-clippy" [ "cargoClippyExtraArgs" ];
        cargoDoc = build "-doc" [ ];
        cargoFmt = build "-fmt" [ ];
        cargoNextest = build "-nextest" [ ];
      };
  };
}
