# What every image shares: operators log in by SSH key and nobody by password, on no console either.
{ lib, pkgs, ... }:
{
  imports = [ ../modules/node/access.nix ];

  boot.kernelParams = [
    "console=tty0"
    "console=ttyS0,115200"
  ];
  # enough to find the disk and the card of any server, and of a VM
  hardware.enableRedistributableFirmware = lib.mkDefault true;
  boot.initrd.availableKernelModules = [
    "ahci"
    "nvme"
    "sd_mod"
    "virtio_blk"
    "virtio_net"
    "virtio_pci"
    "virtio_scsi"
    "xhci_pci"
  ];

  networking = {
    useNetworkd = true;
    firewall.enable = true;
  };
  # the client's id is the card, so that the machine gets the same lease however often it boots
  systemd.network.networks."10-boot" = {
    matchConfig.Type = "ether";
    networkConfig.DHCP = "yes";
    dhcpV4Config.ClientIdentifier = "mac";
  };
  services.timesyncd.enable = lib.mkDefault true;

  environment.systemPackages = [ pkgs.etcd ]; # etcdctl
  documentation.enable = false;
  system.stateVersion = lib.mkDefault "26.05";
}
