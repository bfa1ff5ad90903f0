# The image that every new node boots: base, and firstboot, which finds out which node this is, divides its disk and
# installs its system. It carries every node's system, so that nothing is fetched and nothing need be signed.
{ config, lib, ... }:
let
  inventory = import ../nix/inventory.nix { inherit lib; };
in
{
  imports = [
    ./base.nix
    ../modules/firstboot
  ];

  services.firstboot = {
    enable = true;
    settings.bootserver = inventory.bootserverUrl config.plasma.inventory;
    settings.console = "/dev/console"; # nobody can log in there, so it shows how far the machine is
  };
  # the layouts' filesystems and mappings
  boot.supportedFilesystems = {
    ext4 = true;
    vfat = true;
    xfs = true;
  };
  boot.kernelModules = [
    "dm_crypt"
    "dm_mod"
    "raid1"
  ];
}
