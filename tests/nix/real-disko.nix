# The nodes' and the layouts' disks under disko's own types, from the checkout that PLASMA_DISKO names: the scripts
# that it makes of them, one after each line `==> name`. Needs nixpkgs' own library (PLASMA_NIXPKGS_LIB).
let
  flake = import ./outputs.nix;
  inherit (flake.nixpkgs) lib;
  disko = import (/. + builtins.getEnv "PLASMA_DISKO" + "/lib") {
    inherit lib;
    rootMountPoint = "/mnt";
    makeTest = null;
    eval-config = null;
    qemu-common = null;
  };
  typed =
    devices:
    (lib.evalModules {
      modules = [
        {
          options.devices = lib.mkOption { type = disko.toplevel; };
          config = { inherit devices; };
        }
      ];
    }).config.devices;
  layout =
    disk:
    (lib.nixosSystem {
      modules = [
        flake.nixosModules.default
        {
          plasma = {
            inventory = lib.recursiveUpdate (import ../../nodes/cluster.nix) {
              nodes.node02 = { inherit disk; };
            };
            node = "node02";
            disk.enable = true;
          };
        }
      ];
    }).config;
  systems = builtins.mapAttrs (_: node: node.config) flake.nixosConfigurations // {
    mirror = layout {
      layout = "mirror";
      mirror.wwn = "0x5000c500a1b2c3d4";
    };
    luks = layout { layout = "luks"; };
  };
in
lib.concatStrings (
  lib.mapAttrsToList (
    name: config:
    let
      devices = typed config.disko.devices;
    in
    builtins.unsafeDiscardStringContext "==> ${name}-format.sh\n${devices._create}\n==> ${name}-mount.sh\n${devices._mount}\n==> ${name}-filesystems.json\n${
      builtins.toJSON (lib.foldl' lib.recursiveUpdate { } devices._config.fileSystems.contents)
    }\n"
  ) systems
)
