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
  locked = harden {
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
      because = "/proc/mounts says whether the system runs from memory or is installed";
    };
    ProtectClock = {
      to = false;
      because = "the step clock sets it";
    };
    SystemCallFilter = {
      to = [
        "@system-service"
        "~@privileged @resources"
        "clock_settime"
      ];
      because = "the step clock calls clock_settime";
    };
  };

  stateDir = cfg.dataDir;
  credentials = "/run/credentials/firstboot.service";
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
        assertion = lib.all (key: !(cfg.settings ? ${key})) [
          "ca"
          "mode"
          "state_dir"
          "token_file"
        ];
        message = "services.firstboot.settings: ca, mode, state_dir and token_file follow from caFile, dataDir and joinTokenFile; set those.";
      }
    ];

    environment.etc."plasma/firstboot.toml".text = toml (
      cfg.settings
      // {
        ca = "${credentials}/plasma.ca";
        mode = "systemd";
        state_dir = stateDir;
        token_file = "${credentials}/plasma.join-token";
      }
    );

    systemd.services.firstboot = {
      description = "firstboot, which makes this machine a member of the cluster";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      path = [ config.systemd.package ]; # systemctl
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
        ];
        StateDirectory = lib.removePrefix "/var/lib/" stateDir;
        StateDirectoryMode = "0700";
        # a step that failed for good is looked at again, since an operator may have mended its cause
        Restart = "on-failure";
        RestartSec = 5;
        RestartSteps = 6;
        RestartMaxDelaySec = 300;
      };
    };

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
