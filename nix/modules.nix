# nixosModules: one per folder of modules/, each with the packages it starts.
{ inputs, lib }:
let
  names = builtins.attrNames (
    lib.filterAttrs (_: kind: kind == "directory") (builtins.readDir ../modules)
  );
  # modules/disk speaks disko
  brings = name: lib.optional (name == "disk") inputs.disko.nixosModules.disko;
  module = name: {
    imports = [ ../modules/${name} ] ++ brings name;
    nixpkgs.overlays = [ inputs.self.overlays.default ];
  };
in
lib.genAttrs names module
// {
  default.imports = map (name: ../modules/${name}) names ++ lib.concatMap brings names;
  default.nixpkgs.overlays = [ inputs.self.overlays.default ];
}
