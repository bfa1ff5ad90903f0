# The guard and the three layouts on blank disks: what disko makes of them, that a second run changes nothing, and
# that a disk with data of others is not touched.
{ inputs, lib, ... }:
let
  serials = {
    single = [ "PLASMA-DISK01" ];
    mirror = [
      "PLASMA-DISK02"
      "PLASMA-DISK12"
    ];
    luks = [ "PLASMA-DISK03" ];
  };
  nodes = {
    single = "node01";
    mirror = "node02";
    luks = "node03";
  };
  cluster = import ../../nodes/cluster.nix;
  inventory = lib.recursiveUpdate cluster {
    nodes.node01.disk.minGiB = 2;
    nodes.node02.disk = {
      minGiB = 2;
      layout = "mirror";
      mirror.serial = "PLASMA-DISK12";
    };
    nodes.node03.disk = {
      minGiB = 2;
      layout = "luks";
    };
  };
  machine =
    layout:
    { config, ... }:
    {
      imports = [
        inputs.disko.nixosModules.disko
        ./default.nix
      ];
      plasma = {
        inherit inventory;
        node = nodes.${layout};
        disk.enable = true;
        disk.keyFile = "/run/disk-key";
      };
      # the VM boots as the test driver wants; the disk is only made
      disko.enableConfig = false;
      virtualisation.emptyDiskImages = map (serial: {
        size = 3072;
        driveConfig.deviceExtraOpts = { inherit serial; };
      }) serials.${layout};
      environment.systemPackages = [ config.system.build.formatMount ];
    };
in
{
  name = "disk";
  nodes = builtins.mapAttrs (layout: _: machine layout) nodes;

  testScript = ''
    start_all()
    luks.succeed("umask 077; echo correct horse battery >/run/disk-key")

    for name, m in [("node01", single), ("node02", mirror), ("node03", luks)]:
        with subtest(f"{name}: a blank disk is divided, and a second run changes nothing"):
            m.wait_for_unit("multi-user.target")
            m.succeed("disko-format-mount")
            m.succeed("echo hello >/mnt/greeting && sync")
            m.succeed(f"test -b /dev/disk/by-plasma/{name}-part2")
            m.succeed("findmnt --noheadings --output FSTYPE /mnt/boot | grep -x vfat")
            m.succeed("disko-format-mount")
            m.succeed("grep -x hello /mnt/greeting")

    with subtest("the passphrase opens the disk and is in no log"):
        luks.succeed("cryptsetup luksDump /dev/disk/by-plasma/node03-part2")
        luks.fail("journalctl | grep 'correct horse'")

    with subtest("the mirror has two halves"):
        mirror.succeed("mdadm --detail /dev/md/plasma | grep 'Active Devices : 2'")

    with subtest("data of others stops it, and is not touched"):
        single.succeed("umount -R /mnt && sgdisk --zap-all /dev/disk/by-plasma/node01 && mkfs.ext4 -F /dev/disk/by-plasma/node01")
        before = single.succeed("sha256sum /dev/disk/by-plasma/node01")
        single.succeed("disko-format-mount 2>&1 | grep 'holds data that is not ours'")
        assert before == single.succeed("sha256sum /dev/disk/by-plasma/node01")
  '';
}
