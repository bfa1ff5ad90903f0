# netboot-base, what every image shares: modules/base, an address by DHCP, and what the boot server hands over.
{ lib, pkgs, ... }:
{
  imports = [ ../modules/base ];

  networking.hostName = lib.mkDefault ""; # DHCP may give one
  # the client's id is the card, so that the machine gets the same lease however often it boots
  systemd.network.networks."10-boot" = {
    matchConfig.Type = "ether";
    networkConfig.DHCP = "yes";
    dhcpV4Config.ClientIdentifier = "mac";
  };

  # The boot server sends the CA's certificate as a second archive beside the ramdisk, so that one image serves every
  # cluster. The initrd puts it where systemd looks for credentials; /run outlives the change of root.
  boot.initrd.systemd.services.plasma-handover = {
    description = "The cluster CA's certificate, from the boot server";
    wantedBy = [ "initrd.target" ];
    before = [ "initrd.target" ];
    unitConfig = {
      DefaultDependencies = false;
      ConditionPathExists = "/etc/plasma/ca.pem";
    };
    serviceConfig = {
      Type = "oneshot";
      ExecStart = "/bin/install -D -m 0400 /etc/plasma/ca.pem /run/credstore/plasma.ca";
    };
  };
  boot.initrd.systemd.extraBin.install = lib.getExe' pkgs.coreutils "install";

  system.stateVersion = lib.mkDefault "26.05";
}
