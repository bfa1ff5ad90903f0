# Two disks that hold the same: the root on md RAID 1, and a copy of what boots on each. Either may be lost.
{
  disk,
  lib,
  members,
  pkgs,
  root,
  ...
}:
let
  half = {
    type = "mdraid";
    name = "plasma";
  };
in
{
  devices = {
    disk.main = disk (builtins.head members) "/boot" half;
    disk.mirror = disk (lib.last members) "/boot-mirror" half;
    mdadm.plasma = {
      type = "mdadm";
      level = 1;
      metadata = "1.2";
      extraArgs = [
        "--assume-clean" # both are empty, so there is nothing to copy from one to the other
        "--data-offset=16M" # within what was zeroed before
      ];
      content = root;
    };
  };
  # a lost disk is told to the journal
  mdadm = "PROGRAM ${lib.getExe' pkgs.util-linux "logger"}";
  # the firmware reads one partition and knows nothing of the other
  afterBootLoader = ''
    if ${lib.getExe' pkgs.util-linux "mountpoint"} --quiet /boot-mirror; then
      ${lib.getExe pkgs.rsync} --archive --delete --modify-window=2 /boot/ /boot-mirror/
    fi
  '';
}
