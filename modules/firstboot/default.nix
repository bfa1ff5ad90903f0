# firstboot, the agent that makes a booted machine a member of the cluster. See README.md.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.firstboot;
  inherit (lib) mkOption types;
  inherit (import ../../nix/text.nix { inherit lib; }) toml;
  inherit (import ../../nix/hardening.nix { inherit lib; }) harden;
  disks = import ../../nix/disks.nix { inherit lib; };
  installs = cfg.install.nodes != { };
  locked = harden (
    {
      CapabilityBoundingSet = {
        to = "CAP_SYS_TIME CAP_DAC_READ_SEARCH";
        because = "it sets a wrong clock before any certificate is used, and looks whether Chainfire's folder, which is another user's, is empty";
      };
      PrivateUsers = {
        to = false;
        because = "setting the clock and starting units are asked of the host, not of a user namespace";
      };
      ProcSubset = {
        to = "all";
        because = "/proc/mounts says whether the system runs from memory or is installed, /proc/cmdline how it was booted";
      };
      ProtectClock = {
        to = false;
        because = "the step clock sets it";
      };
      RestrictAddressFamilies = {
        to = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_UNIX"
        ];
        because = "the step network asks the kernel, by netlink, which addresses the machine holds";
      };
      SystemCallFilter = {
        to = [
          "@system-service"
          "~@privileged @resources"
          "clock_settime"
        ];
        because = "the step clock calls clock_settime";
      };
    }
    // lib.optionalAttrs installs (import ./installer.nix)
  );

  stateDir = cfg.dataDir;
  credentials = "/run/credentials/firstboot.service";
  # a name in the inventory whose disk is to be divided and filled
  machine = types.submodule {
    options = {
      formatMount = mkOption {
        type = types.path;
        description = "disko's program that formats what is empty and mounts it; it destroys nothing.";
      };
      mount = mkOption {
        type = types.path;
        description = "disko's program that mounts only.";
      };
      devices = mkOption {
        type = types.listOf types.str;
        description = "The disks that these programs use; the agent compares them with the inventory's.";
      };
      system = mkOption {
        type = types.path;
        description = "The node's system, as `nixos-install --system` takes it.";
      };
    };
  };
  # Without a path systemd looks for the name in its credential stores (/etc/credstore, SMBIOS, …); one that
  # isn't there is no error, so a node whose token is spent still boots.
  load = name: file: if file == null then name else "${name}:${toString file}";
in
{
  imports = [ ../chainfire ];

  options.services.firstboot = {
    enable = lib.mkEnableOption "firstboot, which makes this machine a member of the cluster";
    package = lib.mkPackageOption pkgs "firstboot" { };
    dataDir = mkOption {
      type = types.strMatching "/var/lib/[^/]+";
      default = "/var/lib/firstboot";
      description = "Where ledger, keys and certificates are kept; a folder of /var/lib.";
    };
    joinTokenFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "File with the join token. By default the systemd credential `plasma.join-token`.";
    };
    caFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      description = "The certificate of the cluster's CA, which is public. By default the systemd credential `plasma.ca`.";
    };
    install = {
      nodes = mkOption {
        type = types.attrsOf machine;
        default = { };
        description = "What to install on which node; given in the image that new machines boot, and nowhere else. Without it the agent touches no disk.";
      };
    };
    diskKeyFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "File with the passphrase for disks with the layout luks. By default the systemd credential `plasma.disk-key`.";
    };
    settings = mkOption {
      description = "What /etc/plasma/firstboot.toml says; README.md lists the keys.";
      default = { };
      type = types.submodule {
        freeformType = (pkgs.formats.toml { }).type;
        options = {
          node = mkOption {
            type = types.nullOr types.str;
            default = null;
            description = "The node's name; without it the machine is found by its serial number and cards.";
          };
          bootserver = mkOption {
            type = types.strMatching "https://.+";
            description = "The boot server's enrolment address.";
          };
        };
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = !(lib.hasPrefix builtins.storeDir (toString cfg.joinTokenFile));
        message = "services.firstboot.joinTokenFile is in the Nix store, which everybody can read. Give the path as a string, of a file outside the store.";
      }
      {
        assertion = !(lib.hasPrefix builtins.storeDir (toString cfg.diskKeyFile));
        message = "services.firstboot.diskKeyFile is in the Nix store, which everybody can read. Give the path as a string, of a file outside the store.";
      }
      {
        assertion = lib.all (key: !(cfg.settings ? ${key})) [
          "ca"
          "mode"
          "state_dir"
          "target"
          "token_file"
        ];
        message = "services.firstboot.settings: ca, mode, state_dir, target and token_file follow from caFile, dataDir, install and joinTokenFile; set those.";
      }
    ];

    environment.etc =
      lib.concatMapAttrs (name: it: {
        "plasma/nixos/${name}/format-mount".source = it.formatMount;
        "plasma/nixos/${name}/mount".source = it.mount;
        "plasma/nixos/${name}/devices".text = lib.concatMapStrings (device: device + "\n") it.devices;
        "plasma/nixos/${name}/system".text = it.system + "\n";
      }) cfg.install.nodes
      // {
        "plasma/firstboot.toml".text = toml (
          cfg.settings
          // lib.optionalAttrs installs {
            target = "nixos";
          }
          // {
            ca = "${credentials}/plasma.ca";
            mode = "systemd";
            state_dir = stateDir;
            token_file = "${credentials}/plasma.join-token";
          }
        );
      };

    systemd.services.firstboot = {
      description = "firstboot, which makes this machine a member of the cluster";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      path = [
        config.systemd.package # systemctl
        pkgs.iproute2 # ip
        pkgs.util-linux # lsblk, for the report of the hardware
      ]
      ++ lib.optionals installs [
        pkgs.cryptsetup
        pkgs.dosfstools
        pkgs.e2fsprogs
        pkgs.gptfdisk
        pkgs.kexec-tools
        pkgs.lvm2
        pkgs.mdadm
        pkgs.nix
        pkgs.nixos-install-tools
      ];
      restartTriggers = [ config.environment.etc."plasma/firstboot.toml".text ];
      unitConfig = locked.unitConfig // {
        StartLimitIntervalSec = 0;
      };
      serviceConfig = locked.serviceConfig // {
        # not oneshot: it waits for its peers for ever, and the boot must not wait with it
        Type = "exec";
        ExecStart = "${lib.getExe cfg.package} --config /etc/plasma/firstboot.toml";
        RemainAfterExit = true;
        LoadCredential = [
          (load "plasma.ca" cfg.caFile)
          (load "plasma.join-token" cfg.joinTokenFile)
        ]
        ++ lib.optional installs (load "plasma.disk-key" cfg.diskKeyFile);
        StateDirectory = lib.removePrefix "/var/lib/" stateDir;
        StateDirectoryMode = "0700";
        # a step that failed for good is looked at again, since an operator may have mended its cause
        Restart = "on-failure";
        RestartSec = 5;
        RestartSteps = 6;
        RestartMaxDelaySec = 300;
        # but for erasing a disk that failed again and again: started anew it would erase for ever
        RestartPreventExitStatus = 3;
      };
    };

    # the claim on a disk is made under the name that the inventory gives it
    services.udev.extraRules = lib.mkIf installs (disks.rules config.plasma.inventory.nodes);

    # What firstboot writes is what Chainfire's unit reads. Once it is there, a boot needs no boot server.
    services.chainfire = lib.mkIf config.services.chainfire.enable {
      credentials = {
        cert = "${stateDir}/identity/chainfire.cert.pem";
        key = "${stateDir}/identity/chainfire.key.pem";
        ca = "${stateDir}/identity/ca.pem";
      };
      environmentFile = "${stateDir}/chainfire.env";
      waitForCredentials = true;
    };
  };
}
