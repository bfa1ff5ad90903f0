# From PXE to quorum: three machines with blank disks boot from the network, are recognized, install themselves, and
# form one cluster. Nobody types anything on them.
{ inputs, lib, ... }:
let
  inventory = lib.recursiveUpdate (import ../../nodes/cluster.nix) {
    operators = [
      {
        name = "admin";
        # made for this test; the private half is nowhere
        sshKeys = [
          "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA test"
        ];
      }
    ];
  };
  names = builtins.attrNames inventory.nodes;
  machine = name: {
    # firmware, not the test driver, decides what runs
    virtualisation = {
      directBoot.enable = false;
      useDefaultFilesystems = false;
      fileSystems."/".fsType = "tmpfs";
      fileSystems."/".device = "none";
      mountHostNixStore = false;
      memorySize = 4096;
      vlans = [ 7 ];
      emptyDiskImages = [
        {
          size = 16384;
          driveConfig.deviceExtraOpts.serial = inventory.nodes.${name}.disk.match.serial;
        }
      ];
      qemu.options = [
        "-boot order=n,menu=off"
        "-smbios type=1,serial=${inventory.nodes.${name}.serial}"
      ];
      qemu.networkingOptions = lib.mkForce [
        "-device virtio-net-pci,netdev=lan,mac=${builtins.head inventory.nodes.${name}.macs}"
        "-netdev vde,id=lan,sock=\"$QEMU_VDE_SOCKET_7\""
      ];
    };
  };
in
{
  name = "plasma-netboot";

  nodes = lib.genAttrs names machine // {
    boot =
      { pkgs, ... }:
      {
        imports = [ ../../modules/bootserver ];
        environment.systemPackages = [
          pkgs.curl
          pkgs.jq
        ];
        virtualisation.vlans = [ 7 ];
        networking.interfaces.eth1.ipv4.addresses = lib.mkForce [
          {
            inherit (inventory.cluster.bootserver) address;
            prefixLength = 24;
          }
        ];
        services.bootserver = {
          enable = true;
          openFirewall = true;
          inherit inventory;
          settings = {
            boot.listen = "0.0.0.0:8080";
            boot.images = inputs.self.packages.x86_64-linux.netboot-node;
            dhcp.mode = "full";
            dhcp.interface = "eth1";
            enrollment.hand_out = "declared";
          };
        };
      };
  };

  testScript = ''
    import time

    dir = "/var/lib/bootserver/operator"
    curl = f"curl --silent --fail --cacert {dir}/ca.pem --cert {dir}/cert.pem --key {dir}/key.pem https://127.0.0.1:8443"
    names = [${lib.concatMapStringsSep ", " builtins.toJSON names}]

    boot.start()
    boot.wait_for_unit("bootserver.service")
    boot.wait_for_open_port(8080)
    boot.wait_for_open_port(8443)

    began = time.monotonic()
    for name in names:
        machine = next(m for m in machines if m.name == name)
        machine.start()

    with subtest("every node is blessed"):
        for name in names:
            boot.wait_until_succeeds(
                f"{curl}/v1/status | jq --exit-status '.nodes.{name}.report.progress | .step == \"bless\" and .state == \"done\"'",
                timeout=1800,
            )
        print(f"three machines from power-on to joined: {time.monotonic() - began:.0f} s")

    with subtest("an installed node is told to boot its disk"):
        mac = "${builtins.head inventory.nodes.node01.macs}"
        boot.succeed(f"curl --silent --fail 'http://127.0.0.1:8080/boot/script?mac={mac}' | grep sanboot")
  '';
}
