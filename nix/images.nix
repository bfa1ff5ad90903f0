# Images of netboot/: for booting over the network or by kexec (kernel, ramdisk, iPXE script, bundle) from nixpkgs'
# own netboot module, and as disks and ISO from nix/generators.nix.
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
  generate = import ./generators.nix { inherit inputs lib system; };

  images = {
    base = ../netboot/base.nix;
    node = ../netboot/node.nix;
    all-in-one = ../netboot/all-in-one.nix;
    rescue = ../netboot/rescue.nix;
  };
  installer.services.firstboot.install.nodes = builtins.mapAttrs (
    _: node:
    let
      inherit (node.config.system) build;
    in
    {
      formatMount = lib.getExe' build.formatMount "disko-format-mount";
      mount = lib.getExe' build.mount "disko-mount";
      devices = lib.mapAttrsToList (_: disk: disk.device) node.config.disko.devices.disk;
      system = build.toplevel;
    }
  ) inputs.self.nixosConfigurations;
  modules =
    name: image:
    [
      inputs.self.nixosModules.firstboot # also brings the binaries into pkgs
      image
      {
        plasma.inventory = inventory;
        services.firstboot.caFile = lib.mkIf (builtins.pathExists ../nodes/ca.pem) ../nodes/ca.pem;
      }
    ]
    ++ lib.optional (name == "node") installer;

  netboot =
    name: image:
    let
      inherit
        (inputs.nixpkgs.lib.nixosSystem {
          modules = modules name image ++ [
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
      kernel = "${build.kernel}/${config.system.boot.loader.kernelFile}";
      ramdisk = "${build.netbootRamdisk}/initrd";
      cmdline = lib.concatStringsSep " " ([ "init=${build.toplevel}/init" ] ++ config.boot.kernelParams);
      script = pkgs.writeText "${name}.ipxe" (ipxe {
        inherit name inventory cmdline;
      });
    in
    {
      "netboot-${name}-kernel" = build.kernel;
      "netboot-${name}-ramdisk" = build.netbootRamdisk;
      "netboot-${name}-ipxe" = script;
      # for a machine that runs some Linux already: bzImage, initrd.gz, and kexec-boot, which starts them
      "netboot-${name}-kexec" = build.kexecTree;
      # what services.bootserver.settings.boot.images names
      "netboot-${name}" =
        pkgs.runCommand "netboot-${name}"
          {
            inherit
              cmdline
              kernel
              ramdisk
              script
              ;
            nativeBuildInputs = [ pkgs.jq ];
          }
          ''
            mkdir $out
            ln -s $kernel $out/vmlinuz
            ln -s $ramdisk $out/initrd
            ln -s $script $out/boot.ipxe
            file() { jq -n --arg sha "$(sha256sum <$1 | cut -d ' ' -f 1)" --argjson n "$(stat -L -c %s $1)" '{sha256: $sha, bytes: $n}'; }
            jq -n --arg cmdline "$cmdline" --arg release "${config.boot.kernelPackages.kernel.modDirVersion}" \
              --argjson kernel "$(file $kernel)" --argjson initrd "$(file $ramdisk)" \
              '{version: 1, target: "nixos", kernel_release: $release, cmdline: $cmdline, files: {vmlinuz: $kernel, initrd: $initrd}}' \
              >$out/manifest.json
          '';
    };
in
{
  # nodes/cluster.json, as a build output
  inventory = pkgs.writeText "cluster.json" (text.json inventory);
}
// lib.concatMapAttrs (name: image: netboot name image // generate name (modules name image)) images
