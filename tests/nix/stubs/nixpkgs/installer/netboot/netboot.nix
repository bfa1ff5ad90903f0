# What nixpkgs' netboot module yields: a kernel, a ramdisk.
{ pkgs, config, ... }:
{
  system.build.kernel = pkgs.writeText "linux" "";
  system.build.netbootRamdisk = pkgs.writeText "initrd" "${config.system.build.toplevel}";
  system.build.kexecTree = pkgs.linkFarm "kexec-tree" {
    bzImage = config.system.build.kernel;
    "initrd.gz" = config.system.build.netbootRamdisk;
  };
}
