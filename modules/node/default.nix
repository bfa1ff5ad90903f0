# A node of the inventory: its name, address, peers, services and firewall follow from nodes/cluster.nix alone.
{ config, lib, ... }:
let
  inherit (lib) mkDefault;
  cfg = config.plasma;
  inventory = import ../../nix/inventory.nix { inherit lib; };
  good = inventory.faults cfg.inventory == [ ];
  known = good && cfg.inventory.nodes ? ${cfg.node};
  here = cfg.inventory.nodes.${cfg.node};
  inherit (cfg.inventory) cluster;
  control = known && builtins.elem "control" here.roles;
in
{
  imports = [
    ../base
    ../base/name.nix
    ../chainfire
    ../firstboot
  ];

  config = lib.mkMerge [
    {
      assertions = [
        {
          assertion = !good || known;
          message = "plasma.node is ${builtins.toJSON cfg.node}, which the inventory has not; it has ${
            lib.concatStringsSep ", " (builtins.attrNames (cfg.inventory.nodes or { }))
          }.";
        }
      ];
    }
    (lib.mkIf known {
      networking = {
        hostName = cfg.node;
        domain = cfg.inventory.cluster.domain;
        hosts = inventory.hosts cfg.inventory;
        firewall.enable = mkDefault true;
        useDHCP = mkDefault false;
        useNetworkd = true;
      };
      # by the card's address: names of cards change with the slot
      systemd.network.networks."10-plasma" = {
        matchConfig.MACAddress = lib.concatStringsSep " " here.macs;
        address = [ "${here.address}/${toString here.prefixLength}" ];
        gateway = lib.optional (cluster ? gateway) cluster.gateway;
        dns = cluster.dns or [ ];
        linkConfig.RequiredForOnline = "routable";
      };

      services.firstboot = {
        enable = mkDefault true;
        settings = {
          node = cfg.node;
          bootserver = mkDefault (inventory.bootserverUrl cfg.inventory);
        };
      };
      services.chainfire = lib.mkIf control {
        enable = true;
        openFirewall = mkDefault true;
        settings = inventory.chainfire cfg.inventory cfg.node;
      };
    })
  ];
}
