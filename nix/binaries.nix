# One derivation per binary, all on one build of the dependencies.
{
  lib,
  pkgs,
  crane,
}:
let
  common = {
    pname = "plasmacloud";
    version = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package.version;
    src = lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.unions [
        ../Cargo.toml
        ../Cargo.lock
        ../.cargo
        ../nodes/cluster.json # `plasma up` carries it
        ../packages
        ../rustfmt.toml
      ];
    };
    strictDeps = true;
    # plasma speaks SSH with libssh2
    nativeBuildInputs = [ pkgs.pkg-config ];
    buildInputs = [
      pkgs.libssh2
      pkgs.openssl
    ];
  };
  cargoArtifacts = crane.buildDepsOnly common;
  shared = common // {
    inherit cargoArtifacts;
  };

  binary =
    pname: description:
    crane.buildPackage (
      shared
      // {
        inherit pname;
        cargoExtraArgs = "--locked --package ${pname} --bin ${pname}";
        doCheck = false; # the checks run all tests, once
        meta = {
          inherit description;
          license = lib.licenses.asl20;
          mainProgram = pname;
          platforms = lib.platforms.linux;
        };
      }
    );
in
{
  chainfire = binary "chainfire" "The cluster's store, with etcd's v3 API";
  bootserver = binary "bootserver" "Enrols nodes: inventory, cluster CA, join tokens";
  firstboot = binary "firstboot" "Makes a booted machine a member of the cluster";
  plasma = binary "plasma" "The operator's command, and a whole cloud on one machine";

  # what nix/checks.nix runs over the whole workspace
  plasmaChecks = {
    clippy = crane.cargoClippy (
      shared // { cargoClippyExtraArgs = "--workspace --all-targets -- --deny warnings"; }
    );
    doc = crane.cargoDoc (shared // { env.RUSTDOCFLAGS = "--deny warnings"; });
    fmt = crane.cargoFmt { inherit (common) pname version src; };
    nextest = crane.cargoNextest shared;
  };
}
