# Configurations that must not evaluate, each with the sentence that has to be in the error. `good` is the same
# without a fault: were it to fail, the others would prove nothing.
let
  flake = import ./outputs.nix;
  inherit (flake.nixpkgs) lib;
  inherit (flake.lib) hardening;
  cluster = import ../../nodes/cluster.nix;
  change = lib.recursiveUpdate cluster;

  system =
    modules:
    (lib.nixosSystem { modules = [ flake.nixosModules.default ] ++ modules; })
    .config.system.build.toplevel.drvPath;
  machine =
    inventory: module:
    system [
      {
        plasma = {
          inherit inventory;
          node = lib.mkDefault "node01";
        };
      }
      module
    ];
  with' = machine cluster;
  inventory = raw: machine raw { };
  alone =
    module:
    system [
      {
        plasma.inventory = cluster;
        plasma.node = "node01";
        services.firstboot.enable = false;
      }
      module
    ];
in
{
  good.value = with' { };

  # the inventory
  duplicate-mac = {
    value = inventory (change {
      nodes.node02.macs = [ "52-54-00-20-00-11" ];
    });
    says = ''INV-1008 nodes.node02.macs[0] is "52:54:00:20:00:11", the same MAC address as nodes.node01.macs[0], give each its own'';
  };
  duplicate-address = {
    value = inventory (change {
      nodes.node03.address = "10.20.0.1";
    });
    says = ''INV-1008 nodes.node03.address is "10.20.0.1", the same address as cluster.bootserver.address, give each its own'';
  };
  unknown-role = {
    value = inventory (change {
      nodes.node02.roles = [ "contrl" ];
    });
    says = ''INV-1009 nodes.node02.roles[0] is "contrl", which is no role, use control, data or compute'';
  };
  former-missing = {
    value = inventory (change {
      cluster.former = "node04";
    });
    says = ''INV-1010 cluster.former is "node04", which is none of the nodes, name a control node: node01, node02, node03'';
  };
  former-without-role = {
    value = inventory (change {
      nodes.node01.roles = [ "data" ];
    });
    says = ''INV-1010 cluster.former is "node01", which has not the role control, name a control node: node02, node03'';
  };
  no-former = {
    value = inventory (cluster // { cluster = removeAttrs cluster.cluster [ "former" ]; });
    says = "INV-1003 cluster.former is missing, add it in nodes/cluster.nix";
  };
  misspelt-key = {
    value = inventory (change {
      nodes.node01.adress = "10.20.0.11";
    });
    says = ''INV-1002 unknown key "nodes.node01.adress"'';
  };
  wrong-type-in-inventory = {
    value = inventory (change {
      nodes.node01.prefixLength = "24";
    });
    says = "INV-1004 nodes.node01.prefixLength is a text, it must be a whole number";
  };
  private-key = {
    value = inventory (change {
      operators = [
        {
          name = "me";
          sshKeys = [ "-----BEGIN OPENSSH PRIVATE KEY-----" ];
        }
      ];
    });
    says = "INV-1013 operators[0].sshKeys[0] is no SSH public key, paste the line of your id_ed25519.pub";
  };
  consent-for-another-disk = {
    value = inventory (change {
      nodes.node01.disk.consentToErase = [ "OTHER" ];
    });
    says = ''INV-1012 nodes.node01.disk.consentToErase[0] is "OTHER", another disk than "PLASMA-DISK01"'';
  };
  no-such-node = {
    value = with' { plasma.node = "node09"; };
    says = ''plasma.node is "node09", which the inventory has not; it has node01, node02, node03.'';
  };
  mirror-without-second-disk = {
    value = inventory (change {
      nodes.node01.disk.layout = "mirror";
    });
    says = "INV-1012 nodes.node01.disk.mirror is missing, but the layout is a mirror, say which the second disk is, as in match";
  };
  unknown-layout = {
    value = inventory (change {
      nodes.node01.disk.layout = "raid5";
    });
    says = ''INV-1019 nodes.node01.disk.layout is "raid5", which is no disk layout, use single, mirror or luks'';
  };
  gateway-is-a-node = {
    value = inventory (change {
      cluster.gateway = "10.20.0.12";
    });
    says = ''INV-1008 nodes.node02.address is "10.20.0.12", the same address as cluster.gateway, give each its own'';
  };
  layout-without-disk = {
    value =
      machine
        (change {
          nodes.node03 = {
            process = true;
            disk = null;
          };
        })
        {
          plasma.node = "node03";
          plasma.disk.enable = true;
        };
    says = ''plasma.disk.enable: the inventory gives node "node03" no disk.'';
  };
  netboot-without-images = {
    value = with' {
      services.bootserver = {
        enable = true;
        inventory = cluster;
        settings.boot.listen = "0.0.0.0:8080";
      };
    };
    says = "services.bootserver.settings.boot.images is missing";
  };
  dhcp-without-netboot = {
    value = with' {
      services.bootserver = {
        enable = true;
        inventory = cluster;
        settings.dhcp = {
          mode = "full";
          interface = "eth1";
        };
      };
    };
    says = "services.bootserver.settings.dhcp.mode is full, but boot.listen is not set";
  };
  dhcp-without-interface = {
    value = with' {
      services.bootserver = {
        enable = true;
        inventory = cluster;
        settings.boot.listen = "0.0.0.0:8080";
        settings.boot.images = "/var/lib/plasma/images";
        settings.dhcp.mode = "proxy";
      };
    };
    says = "services.bootserver.settings.dhcp.interface is missing";
  };
  unknown-dhcp-mode = {
    value = with' {
      services.bootserver = {
        enable = true;
        inventory = cluster;
        settings.dhcp.mode = "on";
      };
    };
    says = "A definition for option `services.bootserver.settings.dhcp.mode' is not of type";
  };
  bootserver-with-bad-inventory = {
    value = with' {
      services.bootserver.enable = true;
      services.bootserver.inventory = change { cluster.domain = "plasma..internal"; };
    };
    says = ''services.bootserver.inventory: INV-1005 cluster.domain is "plasma..internal", which is no DNS name'';
  };

  # options
  misspelt-option = {
    value = with' { services.chainfire.openFirewal = true; };
    says = "The option `services.chainfire.openFirewal' does not exist.";
  };
  misspelt-option-of-plasma = {
    value = with' { plasma.nodes = "node01"; };
    says = "The option `plasma.nodes' does not exist.";
  };
  wrong-type = {
    value = with' { services.chainfire.openFirewall = lib.mkForce "yes"; };
    says = "A definition for option `services.chainfire.openFirewall' is not of type `boolean'";
  };
  wrong-type-in-settings = {
    value = with' { services.chainfire.settings.client.listen = lib.mkForce 2379; };
    says = "A definition for option `services.chainfire.settings.client.listen' is not of type `string matching the pattern";
  };
  not-a-secure-bootserver = {
    value = with' { services.firstboot.settings.bootserver = "http://10.20.0.1:8443"; };
    says = "A definition for option `services.firstboot.settings.bootserver' is not of type `string matching the pattern";
  };

  # secrets
  no-secrets = {
    value = alone { };
    says = "services.chainfire.credentials.{cert,key,ca} must name files: Chainfire speaks TLS only.";
  };
  no-cluster-id = {
    value = alone {
      services.chainfire.credentials = lib.genAttrs [ "cert" "key" "ca" ] (
        name: "/run/secrets/${name}.pem"
      );
    };
    says = "services.chainfire.settings.cluster_id is missing";
  };
  secret-in-store = {
    value = alone {
      services.chainfire.credentials = lib.genAttrs [ "cert" "key" "ca" ] (
        name: "${builtins.storeDir}/${name}.pem"
      );
    };
    says = "services.chainfire.credentials: a file is in the Nix store, which everybody can read.";
  };
  secret-as-path = {
    value = alone { services.chainfire.credentials.key = ./negative.nix; };
    says = "A definition for option `services.chainfire.credentials.key' is not of type `null or string'";
  };
  token-in-store = {
    value = with' { services.firstboot.joinTokenFile = "${builtins.storeDir}/token"; };
    says = "services.firstboot.joinTokenFile is in the Nix store, which everybody can read.";
  };
  disk-key-in-store = {
    value = with' { services.firstboot.diskKeyFile = "${builtins.storeDir}/key"; };
    says = "services.firstboot.diskKeyFile is in the Nix store, which everybody can read.";
  };
  target-in-settings = {
    value = with' { services.firstboot.settings.target = "nixos"; };
    says = "ca, mode, state_dir, target and token_file follow from caFile, dataDir, install and joinTokenFile; set those.";
  };
  tls-in-settings = {
    value = with' { services.chainfire.settings.tls.key = "/root/key.pem"; };
    says = "data_dir and tls follow from services.chainfire.dataDir and .credentials; set those.";
  };

  # hardening
  loosened-without-reason = {
    value = (hardening.harden { PrivateDevices.to = false; }).serviceConfig.PrivateDevices;
    says = "hardening: PrivateDevices is loosened without a reason";
  };
  loosened-what-is-not-there = {
    value =
      (hardening.harden {
        PrivateDevice = {
          to = false;
          because = "it does";
        };
      }).serviceConfig.PrivateDevice;
    says = "hardening: PrivateDevice is not in the preset, so there is nothing to loosen";
  };
}
