# The layout of a node's one disk, found by what the inventory matches and never by a name like sda.
name:
{ config, lib, ... }:
let
  inherit (config.plasma.inventory.nodes.${name}.disk) match;
in
{
  disko.devices.disk.main = {
    type = "disk";
    # udev's links to the same disk: by WWN where it is given, else by serial (virtio and SCSI spell them so)
    device =
      if match ? wwn then
        "/dev/disk/by-id/wwn-${match.wwn}"
      else
        "/dev/disk/by-id/virtio-${match.serial}";
    content = {
      type = "gpt";
      partitions = {
        ESP = {
          type = "EF00";
          size = "512M";
          content = {
            type = "filesystem";
            format = "vfat";
            mountpoint = "/boot";
            mountOptions = [ "umask=0077" ];
          };
        };
        root = {
          size = "100%";
          content = {
            type = "filesystem";
            format = lib.mkDefault "ext4";
            mountpoint = "/";
          };
        };
      };
    };
  };
}
