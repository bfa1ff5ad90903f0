# The image that every new node boots: base, and firstboot, which finds out which node this is by its serial
# number and cards. It carries the CA's certificate at most; the join token comes as a systemd credential.
{ config, lib, ... }:
let
  inventory = import ../nix/inventory.nix { inherit lib; };
in
{
  imports = [
    ./base.nix
    ../modules/firstboot
  ];

  networking.hostName = lib.mkDefault ""; # DHCP may give one; firstboot finds out which node this is
  services.firstboot = {
    enable = true;
    settings.bootserver = inventory.bootserverUrl config.plasma.inventory;
  };
}
