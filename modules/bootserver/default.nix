# The boot server: inventory, cluster CA, join tokens, the grant to form the cluster; netboot and DHCP. See README.md.
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
  # dnsmasq is the boot server's child and has no more rights than it
  dhcp = cfg.settings.dhcp.mode != "off";
  boot = cfg.settings.boot.listen != null;
  ports = "CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW";
  locked = harden (
    {
      ProcSubset = {
        to = "all";
        because = "/proc/stat has the boot time, of which the metric process_start_time_seconds is made";
      };
    }
    // lib.optionalAttrs dhcp {
      AmbientCapabilities = {
        to = ports;
        because = "dnsmasq, its child, is no root and has to have what the bounding set allows";
      };
      CapabilityBoundingSet = {
        to = ports;
        because = "dnsmasq opens the ports 67 and 69, and answers clients that have no address yet (ARP entries, raw ICMP)";
      };
      PrivateUsers = {
        to = false;
        because = "ports and ARP entries belong to the host's network, not to a user namespace";
      };
      RestrictAddressFamilies = {
        to = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_UNIX"
        ];
        because = "dnsmasq learns of the host's addresses by netlink";
      };
    }
  );
  port = listen: lib.toInt (lib.last (lib.splitString ":" listen));
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
      description = "Whether other machines may reach the enrolment port, and netboot and DHCP where they are on.";
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
          enrollment.hand_out = mkOption {
            type = types.enum [
              "never"
              "declared"
            ];
            default = "never";
            description = "Whether a machine that fits a node which is to be installed gets its join token by itself (declared), or an operator makes each token.";
          };
          boot = {
            listen = mkOption {
              type = types.nullOr (types.strMatching ".+:[0-9]+");
              default = null;
              description = "Address and port where machines ask what to boot; without it there is no netboot.";
            };
            images = mkOption {
              type = types.nullOr types.path;
              default = null;
              description = "Folder with manifest.json and what it lists, such as the flake's package netboot-node.";
            };
            loaders = mkOption {
              type = types.path;
              default = pkgs.ipxe;
              defaultText = lib.literalExpression "pkgs.ipxe";
              description = "Folder with iPXE's loaders undionly.kpxe and ipxe.efi.";
            };
          };
          dhcp = {
            mode = mkOption {
              type = types.enum [
                "off"
                "full"
                "proxy"
              ];
              default = "off";
              description = "Whether to be the network's DHCP server (full), or to stand beside one (proxy).";
            };
            interface = mkOption {
              type = types.nullOr types.str;
              default = null;
              description = "The card on the nodes' network.";
            };
            dnsmasq = mkOption {
              type = types.path;
              default = lib.getExe pkgs.dnsmasq;
              defaultText = lib.literalExpression "lib.getExe pkgs.dnsmasq";
              description = "The program that answers DHCP and TFTP.";
            };
          };
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
        {
          assertion = !boot || cfg.settings.boot.images != null;
          message = "services.bootserver.settings.boot.images is missing: netboot needs a folder of images, such as the flake's package netboot-node.";
        }
        {
          assertion = !dhcp || boot;
          message = "services.bootserver.settings.dhcp.mode is ${cfg.settings.dhcp.mode}, but boot.listen is not set: DHCP would send machines to a server that is not there.";
        }
        {
          assertion = !dhcp || cfg.settings.dhcp.interface != null;
          message = "services.bootserver.settings.dhcp.interface is missing: name the card on the nodes' network.";
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
      description = "The boot server, which boots and enrols nodes";
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

    networking.firewall = {
      allowedTCPPorts = lib.optionals cfg.openFirewall (
        [ (port cfg.settings.listen) ] ++ lib.optional boot (port cfg.settings.boot.listen)
      );
      # only on the nodes' network: another that gets DHCP answers is somebody else's trouble
      interfaces = lib.mkIf (cfg.openFirewall && dhcp) {
        ${cfg.settings.dhcp.interface}.allowedUDPPorts = [
          67 # DHCP
          69 # TFTP
          4011 # PXE, beside a foreign DHCP server
        ];
      };
    };
  };
}
