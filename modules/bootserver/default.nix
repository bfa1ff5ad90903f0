# The boot server: inventory, cluster CA, join tokens and the grant to form the cluster. See README.md.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.bootserver;
  inherit (lib) mkOption types;
  inherit (import ../../nix/text.nix { inherit lib; }) json toml;
  inventory = import ../../nix/inventory.nix { inherit lib; };
  inherit (import ../../nix/hardening.nix { inherit lib; }) harden;
  locked = harden {
    ProcSubset = {
      to = "all";
      because = "/proc/stat has the boot time, of which the metric process_start_time_seconds is made";
    };
  };
  port = lib.toInt (lib.last (lib.splitString ":" cfg.settings.listen));
  days = mkOption {
    type = types.ints.between 1 3650;
    default = 365;
    description = "How long the certificates of nodes and services are valid.";
  };
in
{
  options.services.bootserver = {
    enable = lib.mkEnableOption "the boot server, which enrols nodes";
    package = lib.mkPackageOption pkgs "bootserver" { };
    dataDir = mkOption {
      type = types.strMatching "/var/lib/[^/]+";
      default = "/var/lib/bootserver";
      description = "Where the CA, tokens and the grant are kept; a folder of /var/lib. Back it up.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether other machines may reach the enrolment port.";
    };
    inventory = mkOption {
      type = types.attrs;
      description = "The cluster, as nodes/cluster.nix describes it.";
    };
    settings = mkOption {
      description = "What /etc/plasma/bootserver.toml says; README.md lists the keys.";
      default = { };
      type = types.submodule {
        freeformType = (pkgs.formats.toml { }).type;
        options = {
          listen = mkOption {
            type = types.strMatching ".+:[0-9]+";
            default = "0.0.0.0:8443";
            description = "Address and port where nodes and operators call.";
          };
          certificates.node_days = days;
        };
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions =
      map (fault: {
        assertion = false;
        message = "services.bootserver.inventory: ${fault}";
      }) (inventory.faults cfg.inventory)
      ++ [
        {
          assertion = !(cfg.settings ? state_dir || cfg.settings ? inventory);
          message = "services.bootserver.settings: state_dir and inventory follow from services.bootserver.dataDir and .inventory; set those.";
        }
      ];

    environment.etc = {
      "plasma/cluster.json".text = json (inventory.checked cfg.inventory);
      "plasma/bootserver.toml".text = toml (
        cfg.settings
        // {
          state_dir = cfg.dataDir;
          inventory = "/etc/plasma/cluster.json";
        }
      );
    };
    environment.systemPackages = [ cfg.package ]; # bootserver token new node01

    users.users.bootserver = {
      isSystemUser = true;
      group = "bootserver";
    };
    users.groups.bootserver = { };

    systemd.services.bootserver = {
      description = "The boot server, which enrols nodes";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      restartTriggers = [
        config.environment.etc."plasma/bootserver.toml".text
        config.environment.etc."plasma/cluster.json".text
      ];
      inherit (locked) unitConfig;
      serviceConfig = locked.serviceConfig // {
        Type = "exec";
        # makes CA and cluster id once; a second time it finds them and is done
        ExecStartPre = "${lib.getExe cfg.package} init --dir ${cfg.dataDir} --inventory /etc/plasma/cluster.json";
        ExecStart = "${lib.getExe cfg.package} --config /etc/plasma/bootserver.toml";
        User = "bootserver";
        Group = "bootserver";
        StateDirectory = lib.removePrefix "/var/lib/" cfg.dataDir;
        StateDirectoryMode = "0700";
        Restart = "on-failure";
        RestartSec = 1;
      };
    };

    networking.firewall.allowedTCPPorts = lib.optional cfg.openFirewall port;
  };
}
