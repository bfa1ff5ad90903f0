# Chainfire, the cluster's store: one member per control node. See README.md.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.chainfire;
  inherit (lib) mkOption types;
  inherit (import ../../nix/text.nix { inherit lib; }) toml;
  inherit (import ../../nix/hardening.nix { inherit lib; }) harden;
  locked = harden {
    ProcSubset = {
      to = "all";
      because = "/proc/stat has the boot time, of which the metric process_start_time_seconds is made";
    };
  };

  credentials = "/run/credentials/chainfire.service";
  stateDir = lib.removePrefix "/var/lib/" cfg.dataDir;
  inState = lib.hasPrefix "/var/lib/" cfg.dataDir;
  port = listen: lib.toInt (lib.last (lib.splitString ":" listen));
  listener = what: {
    listen = mkOption {
      type = types.strMatching ".+:[0-9]+";
      description = "Address and port where ${what} come in.";
    };
    advertise = mkOption {
      type = types.strMatching "https?://.+";
      description = "The URL under which ${what} find this member.";
    };
  };
  secret =
    what:
    mkOption {
      # a string: a path literal would copy the file into the store
      type = types.nullOr types.str;
      default = null;
      description = "File with ${what}; read by systemd when the unit starts.";
    };
  secrets = lib.mapAttrsToList (name: file: { inherit name file; }) cfg.credentials;
in
{
  options.services.chainfire = {
    enable = lib.mkEnableOption "Chainfire, the cluster's store";
    package = lib.mkPackageOption pkgs "chainfire" { };
    dataDir = mkOption {
      type = types.path;
      default = "/var/lib/chainfire";
      description = "Where the store is kept.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether other machines may reach the client, peer and gossip ports. The ops port stays closed.";
    };
    credentials = {
      cert = secret "the service's certificate";
      key = secret "its private key";
      ca = secret "the certificate of the cluster's CA";
    };
    environmentFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "File with CHAINFIRE_CLUSTER_ID and CHAINFIRE_INITIAL, where the settings don't name them.";
    };
    waitForCredentials = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the unit is skipped until its credentials and environment exist, instead of failing.";
    };
    settings = mkOption {
      description = "What /etc/plasma/chainfire.toml says; README.md lists the keys.";
      default = { };
      type = types.submodule {
        freeformType = (pkgs.formats.toml { }).type;
        options = {
          name = mkOption {
            type = types.strMatching "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
            description = "The member's name, unique in the cluster.";
          };
          join = mkOption {
            type = types.listOf (types.strMatching "https?://.+");
            default = [ ];
            description = "Peer URLs of members to ask when joining.";
          };
          client = listener "clients";
          peer = listener "other members";
          ops.listen = mkOption {
            type = types.strMatching ".+:[0-9]+";
            description = "Address and port of probes and metrics.";
          };
        };
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.all (it: it.file != null) secrets;
        message = "services.chainfire.credentials.{cert,key,ca} must name files: Chainfire speaks TLS only. Enable services.firstboot, which enrols the node and sets them, or set them yourself.";
      }
      {
        assertion = lib.all (it: !(lib.hasPrefix builtins.storeDir (toString it.file))) secrets;
        message = "services.chainfire.credentials: a file is in the Nix store, which everybody can read. Give the path as a string, of a file outside the store.";
      }
      {
        assertion = !(cfg.settings ? tls || cfg.settings ? data_dir);
        message = "services.chainfire.settings: data_dir and tls follow from services.chainfire.dataDir and .credentials; set those.";
      }
      {
        assertion = cfg.environmentFile != null || cfg.settings ? cluster_id;
        message = "services.chainfire.settings.cluster_id is missing: set it, or enable services.firstboot, which learns it from the boot server.";
      }
    ];

    environment.etc."plasma/chainfire.toml".text = toml (
      cfg.settings
      // {
        data_dir = cfg.dataDir;
        tls = {
          ca = "${credentials}/ca.pem";
          cert = "${credentials}/cert.pem";
          key = "${credentials}/key.pem";
        };
      }
    );

    users.users.chainfire = {
      isSystemUser = true;
      group = "chainfire";
    };
    users.groups.chainfire = { };

    systemd.services.chainfire = {
      description = "Chainfire, the cluster's store";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # the settings are no part of the unit's text, so a change must be named
      restartTriggers = [ config.environment.etc."plasma/chainfire.toml".text ];
      unitConfig =
        locked.unitConfig
        // lib.optionalAttrs cfg.waitForCredentials {
          ConditionPathExists =
            map (it: it.file) secrets ++ lib.optional (cfg.environmentFile != null) cfg.environmentFile;
        };
      serviceConfig =
        locked.serviceConfig
        // {
          Type = "exec";
          ExecStart = "${lib.getExe cfg.package} --config /etc/plasma/chainfire.toml";
          User = "chainfire";
          Group = "chainfire";
          LoadCredential = map (it: "${it.name}.pem:${toString it.file}") secrets;
          LimitNOFILE = 65536;
          # a stop hands leadership over and closes the journal
          TimeoutStopSec = 30;
          Restart = "on-failure";
          RestartSec = 1;
        }
        // lib.optionalAttrs (cfg.environmentFile != null) { EnvironmentFile = cfg.environmentFile; }
        // (
          if inState then
            {
              StateDirectory = stateDir;
              StateDirectoryMode = "0700";
            }
          else
            { ReadWritePaths = [ cfg.dataDir ]; }
        );
    };
    systemd.tmpfiles.rules = lib.optional (!inState) "d ${cfg.dataDir} 0700 chainfire chainfire -";

    networking.firewall.allowedTCPPorts = lib.optionals cfg.openFirewall [
      (port cfg.settings.client.listen)
      (port cfg.settings.peer.listen)
    ];
    networking.firewall.allowedUDPPorts = lib.optional (
      cfg.openFirewall && cfg.settings ? gossip.listen
    ) (port cfg.settings.gossip.listen);
  };
}
