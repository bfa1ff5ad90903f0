# node01: what holds for this machine alone. Its address, peers, services and firewall follow from ../cluster.nix.
{
  boot.loader.systemd-boot.enable = true;
  boot.loader.efi.canTouchEfiVariables = false;

  system.stateVersion = "26.05";
}
