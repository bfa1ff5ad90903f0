# The node's disk: found by serial or WWN, guarded, and divided as the inventory says. See README.md.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.plasma.disk;
  inherit (config.plasma) inventory node;
  disks = import ../../nix/disks.nix { inherit lib; };
  rules = import ../../nix/inventory.nix { inherit lib; };
  known = rules.faults inventory == [ ] && inventory.nodes ? ${node}.disk;
  here = inventory.nodes.${node};

  guard = pkgs.writeShellApplication {
    name = "plasma-disk-guard";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.util-linux
    ];
    text = builtins.readFile ./guard.sh;
  };
  members = disks.of node here;
  # every member is looked at before the first is written to
  look = lib.concatMapStrings (
    disk: "${lib.getExe guard} ${lib.escapeShellArgs (disks.guard node here disk)}\n"
  ) members;

  # one disk in disko's words: the partition for booting, and the rest
  disk = member: boot: rest: {
    type = "disk";
    device = disks.device member;
    destroy = false; # disko's own wiping asks nobody; the agent takes old things down, with proof
    preCreateHook = look;
    content = {
      type = "gpt";
      # What lay where a partition begins must not be taken for a filesystem of ours: disko formats only what it
      # does not recognize. It goes before there is a table, so that a cut in between does it again.
      preCreateHook = ''
        if ! blkid "$device" >&2; then
          for at in 1 ${toString (1 + bootMiB)}; do
            dd if=/dev/zero of="$device" bs=1M seek="$at" count=64 conv=fsync,notrunc
          done
        fi
      '';
      partitions = {
        ESP = {
          priority = 1;
          type = "EF00";
          size = cfg.bootSize;
          # not by label: another disk may bear the same
          device = disks.partition member 1;
          content = {
            type = "filesystem";
            format = "vfat";
            mountpoint = boot;
            # without it a machine that lost one disk of a mirror would not boot
            mountOptions = [ "umask=0077" ] ++ lib.optional (here.disk.layout == "mirror") "nofail";
          };
        };
        root = {
          priority = 2;
          size = "100%";
          device = disks.partition member 2;
          content = rest;
        };
      };
    };
  };
  bootMiB =
    let
      parts = builtins.match "([0-9]+)([MG])" cfg.bootSize;
    in
    lib.toInt (builtins.head parts) * (if lib.last parts == "G" then 1024 else 1);
  root = {
    type = "filesystem";
    format = cfg.rootFormat;
    mountpoint = "/";
  };
  layout = import ./layouts/${here.disk.layout}.nix {
    inherit
      cfg
      disk
      lib
      members
      pkgs
      root
      ;
  };
in
{
  imports = [
    ../base/inventory.nix
    ../base/name.nix
  ];

  options.plasma.disk = {
    enable = lib.mkEnableOption "the disk layout that the inventory gives this node";
    bootSize = mkOption {
      type = types.strMatching "[0-9]+[MG]";
      default = "512M";
      description = "Size of the partition that the firmware boots from.";
    };
    rootFormat = mkOption {
      type = types.enum [
        "ext4"
        "xfs"
      ];
      default = "ext4";
      description = "Filesystem of the root, where the state of all services lies.";
    };
    keyFile = mkOption {
      type = types.strMatching "/run/.+";
      default = "/run/credentials/firstboot.service/plasma.disk-key";
      description = "File with the passphrase of the layout luks, read when the disk is formatted. By default firstboot's systemd credential `plasma.disk-key`.";
    };
  };

  # which options are set never depends on the inventory, only what they say
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = known;
        message = "plasma.disk.enable: the inventory gives node ${builtins.toJSON node} no disk.";
      }
    ];
    disko.devices = lib.mkIf known layout.devices;
    boot = {
      swraid.mdadmConf = lib.mkIf (known && layout ? mdadm) layout.mdadm;
      loader.systemd-boot.extraInstallCommands = lib.mkIf (
        known && layout ? afterBootLoader
      ) layout.afterBootLoader;
      initrd.services.udev.rules = lib.mkIf known (disks.rules { ${node} = here; });
    };
    services.udev.extraRules = lib.mkIf known (disks.rules { ${node} = here; });
  };
}
