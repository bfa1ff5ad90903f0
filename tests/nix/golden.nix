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
      "${name}/disk.rules" = config.services.udev.extraRules;
      "${name}/system.json" = text.json {
        inherit (config.networking)
          domain
          hostName
          hosts
          useDHCP
          ;
        inherit (config.systemd) network;
        # a set that nobody filled is there or not, as the module system pleases
        firewall = lib.filterAttrs (_: value: value != { }) config.networking.firewall;
        inherit (config) warnings;
        openssh = config.services.openssh;
        users = config.users;
      };
    };

  # the same without netboot, which needs fewer rights
  enrols =
    (flake.nixpkgs.lib.nixosSystem {
      modules = [
        flake.nixosModules.bootserver
        {
          services.bootserver.enable = true;
          services.bootserver.inventory = import ../../nodes/cluster.nix;
        }
      ];
    }).config;
  # every layout, on node02's disk
  layout =
    disk:
    let
      inherit
        (lib.nixosSystem {
          modules = [
            flake.nixosModules.default
            {
              plasma.inventory = lib.recursiveUpdate (import ../../nodes/cluster.nix) {
                nodes.node02 = { inherit disk; };
              };
              plasma.node = "node02";
              plasma.disk.enable = true;
            }
          ];
        })
        config
        ;
    in
    text.json {
      inherit (config.disko) devices;
      boot = removeAttrs config.boot [
        "initrd"
        "kernel"
        "kernelPackages"
      ];
    }
    + config.services.udev.extraRules;
  boot =
    (flake.nixpkgs.lib.nixosSystem {
      modules = [
        flake.nixosModules.bootserver
        {
          services.bootserver = {
            enable = true;
            openFirewall = true;
            inventory = import ../../nodes/cluster.nix;
            settings = {
              boot.listen = "0.0.0.0:8080";
              boot.images = "/var/lib/plasma/images";
              dhcp = {
                mode = "full";
                interface = "eth1";
                range = [
                  "10.20.0.100"
                  "10.20.0.199"
                ];
              };
              enrollment.hand_out = "declared";
            };
          };
        }
      ];
    }).config;
  first = flake.nixosConfigurations.${cluster.cluster.former}.config;
  image =
    (lib.nixosSystem {
      modules = [
        flake.nixosModules.firstboot
        ../../netboot/node.nix
        {
          plasma.inventory = cluster;
          services.firstboot.install.nodes = builtins.mapAttrs (_: node: {
            formatMount = lib.getExe' node.config.system.build.formatMount "disko-format-mount";
            mount = lib.getExe' node.config.system.build.mount "disko-mount";
            devices = lib.mapAttrsToList (_: disk: disk.device) node.config.disko.devices.disk;
            system = node.config.system.build.toplevel;
          }) flake.nixosConfigurations;
        }
      ];
    }).config;
  allInOne =
    (flake.nixpkgs.lib.nixosSystem {
      modules = [
        flake.nixosModules.firstboot
        ../../netboot/all-in-one.nix
        { plasma.inventory = cluster; }
      ];
    }).config;
  packages = flake.packages.x86_64-linux;

  files =
    lib.concatMapAttrs (name: _: node name) flake.nixosConfigurations
    // {
      "layouts/mirror.txt" = layout {
        layout = "mirror";
        mirror.wwn = "0x5000c500a1b2c3d4";
        minGiB = 100;
        maxGiB = 200;
      };
      "layouts/luks.txt" = layout {
        layout = "luks";
        match.wwn = "0x5000c500a1b2c3d4";
        consentToErase = [ "PLASMA-DISK02" ];
      };
      "bootserver/alone.toml" = etc enrols "bootserver.toml";
      "units/bootserver-alone.service" = unit "bootserver" enrols.systemd.services.bootserver;
      "bootserver/bootserver.toml" = etc boot "bootserver.toml";
      "bootserver/firewall.json" = text.json boot.networking.firewall;
      "units/bootserver.service" = unit "bootserver" boot.systemd.services.bootserver;
      "units/chainfire.service" = unit "chainfire" first.systemd.services.chainfire;
      "units/firstboot.service" = unit "firstboot" first.systemd.services.firstboot;
      "image/etc.json" = text.json (
        lib.filterAttrs (name: _: lib.hasPrefix "plasma/nixos/" name) image.environment.etc
      );
      "image/firstboot.toml" = etc image "firstboot.toml";
      "image/disks.rules" = image.services.udev.extraRules;
      "image/handover.json" = text.json image.boot.initrd.systemd.services;
      "units/firstboot-image.service" = unit "firstboot" image.systemd.services.firstboot;
      "units/plasma.service" = unit "plasma" allInOne.systemd.services.plasma;
      "netboot/manifest.sh" = packages.netboot-node.text;
    }
    // lib.listToAttrs (
      map (name: lib.nameValuePair "netboot/${name}.ipxe" packages."netboot-${name}-ipxe".text) [
        "all-in-one"
        "base"
        "node"
        "rescue"
      ]
    )
    // {
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
