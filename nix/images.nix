# Images of netboot/: for booting over the network (kernel, ramdisk, iPXE script) from nixpkgs' own netboot
# module, and as disks and ISO. Only this file names nixos-generators.
{
  inputs,
  lib,
  pkgs,
}:
let
  system = "x86_64-linux";
  inventory = (import ./inventory.nix { inherit lib; }).checked (import ../nodes/cluster.nix);
  text = import ./text.nix { inherit lib; };
  ipxe = import ../netboot/ipxe.nix { inherit lib; };

  images = {
    node = ../netboot/node.nix;
    all-in-one = ../netboot/all-in-one.nix;
  };
  modules = image: [
    inputs.self.nixosModules.firstboot # also brings the binaries into pkgs
    image
    {
      plasma.inventory = inventory;
      services.firstboot.caFile = lib.mkIf (builtins.pathExists ../nodes/ca.pem) ../nodes/ca.pem;
    }
  ];

  netboot =
    name: image:
    let
      inherit
        (inputs.nixpkgs.lib.nixosSystem {
          modules = modules image ++ [
            (
              { modulesPath, ... }:
              {
                # not netboot-minimal: that one logs anybody in on the console
                imports = [ "${modulesPath}/installer/netboot/netboot.nix" ];
                nixpkgs.hostPlatform = system;
              }
            )
          ];
        })
        config
        ;
      inherit (config.system) build;
    in
    {
      "netboot-${name}-kernel" = build.kernel;
      "netboot-${name}-ramdisk" = build.netbootRamdisk;
      "netboot-${name}-ipxe" = pkgs.writeText "${name}.ipxe" (ipxe {
        inherit name inventory;
        init = "${build.toplevel}/init";
        kernelParams = config.boot.kernelParams;
      });
      # what the boot server serves below /netboot/<name>/
      "netboot-${name}" = pkgs.linkFarm "netboot-${name}" {
        "bzImage" = "${build.kernel}/${config.system.boot.loader.kernelFile}";
        "initrd" = "${build.netbootRamdisk}/initrd";
        "boot.ipxe" = pkgs.writeText "${name}.ipxe" (ipxe {
          inherit name inventory;
          init = "${build.toplevel}/init";
          kernelParams = config.boot.kernelParams;
        });
      };
    };

  formats = {
    raw = "raw-efi";
    qcow2 = "qcow-efi";
    iso = "iso";
  };
  disk =
    name: image:
    lib.mapAttrs' (
      suffix: format:
      lib.nameValuePair "${name}-${suffix}" (
        inputs.nixos-generators.nixosGenerate {
          inherit format system;
          modules = modules image;
        }
      )
    ) formats;
in
{
  # nodes/cluster.json, as a build output
  inventory = pkgs.writeText "cluster.json" (text.json inventory);
}
// lib.concatMapAttrs (name: image: netboot name image // disk name image) images
