# To look at a machine that does not come up: base and tools. It starts nothing, mounts nothing and installs nothing.
{ pkgs, ... }:
{
  imports = [ ./base.nix ];

  environment.systemPackages = with pkgs; [
    cryptsetup
    dmidecode
    e2fsprogs
    efibootmgr
    ethtool
    gptfdisk
    iproute2
    kexec-tools
    lvm2
    mdadm
    nixos-install-tools
    nvme-cli
    pciutils
    rsync
    smartmontools
    tcpdump
    xfsprogs
  ];
  # an array that is put together by itself begins to write
  boot.swraid.enable = false;
  boot.supportedFilesystems = {
    ext4 = true;
    vfat = true;
    xfs = true;
  };
}
