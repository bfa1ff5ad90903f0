# What a change of the Nix half changes: every text a machine gets, as files in golden/. One string, each file
# after a line `==> path`; tests/nix/run takes it apart.
let
  flake = import ./outputs.nix;
  inherit (flake.nixpkgs) lib;
  inherit (flake.lib) inventory text;
  cluster = inventory.checked (import ../../nodes/cluster.nix);

  # ---- a unit as systemd reads it
  one =
    value:
    if value == true then
      "true"
    else if value == false then
      "false"
    else
      toString value;
  section =
    name: settings:
    "[${name}]\n"
    + lib.concatMapStrings (
      key: lib.concatMapStrings (value: "${key}=${one value}\n") (lib.toList settings.${key})
    ) (builtins.attrNames settings);
  unit =
    name: service:
    section "Unit" (
      {
        Description = service.description;
        Wants = service.wants or [ ];
        After = service.after or [ ];
      }
      // service.unitConfig
    )
    + "\n"
    + section "Service" service.serviceConfig
    + "\n"
    + section "Install" { WantedBy = service.wantedBy; };

  etc = config: name: config.environment.etc."plasma/${name}".text;

  node =
    name:
    let
      inherit (flake.nixosConfigurations.${name}) config;
    in
    {
      "${name}/chainfire.toml" = etc config "chainfire.toml";
      "${name}/firstboot.toml" = etc config "firstboot.toml";
      "${name}/disk.json" = text.json config.disko.devices;
      "${name}/system.json" = text.json {
        inherit (config.networking)
          domain
          firewall
          hostName
          hosts
          useDHCP
          ;
        inherit (config.systemd) network;
        inherit (config) warnings;
        openssh = config.services.openssh;
        users = config.users;
      };
    };

  boot =
    (flake.nixpkgs.lib.nixosSystem {
      modules = [
        flake.nixosModules.bootserver
        {
          services.bootserver = {
            enable = true;
            openFirewall = true;
            inventory = import ../../nodes/cluster.nix;
          };
        }
      ];
    }).config;
  first = flake.nixosConfigurations.${cluster.cluster.former}.config;
  allInOne =
    (flake.nixpkgs.lib.nixosSystem {
      modules = [
        flake.nixosModules.firstboot
        ../../netboot/all-in-one.nix
        { plasma.inventory = cluster; }
      ];
    }).config;
  packages = flake.packages.x86_64-linux;

  files = lib.concatMapAttrs (name: _: node name) flake.nixosConfigurations // {
    "bootserver/bootserver.toml" = etc boot "bootserver.toml";
    "bootserver/firewall.json" = text.json boot.networking.firewall;
    "units/bootserver.service" = unit "bootserver" boot.systemd.services.bootserver;
    "units/chainfire.service" = unit "chainfire" first.systemd.services.chainfire;
    "units/firstboot.service" = unit "firstboot" first.systemd.services.firstboot;
    "units/plasma.service" = unit "plasma" allInOne.systemd.services.plasma;
    "netboot/all-in-one.ipxe" = packages.netboot-all-in-one-ipxe.text;
    "netboot/node.ipxe" = packages.netboot-node-ipxe.text;
    "outputs.json" = text.json {
      packages = builtins.attrNames packages;
      apps = builtins.attrNames flake.apps.x86_64-linux;
      checks = builtins.attrNames flake.checks.x86_64-linux;
      nixosModules = builtins.attrNames flake.nixosModules;
      nixosConfigurations = builtins.attrNames flake.nixosConfigurations;
    };
  };
in
builtins.unsafeDiscardStringContext (
  lib.concatMapStrings (path: "==> ${path}\n${files.${path}}") (builtins.attrNames files)
)
