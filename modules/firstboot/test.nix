# One machine enrols itself and is blessed (netboot/all-in-one.nix); after a reboot its Chainfire starts without
# the boot server.
{ ... }:
{
  name = "firstboot";

  nodes.machine = {
    imports = [ ../../netboot/all-in-one.nix ];
    plasma.inventory = import ../../nodes/cluster.nix;
    hardware.enableRedistributableFirmware = false;
    virtualisation.memorySize = 1024;
    # so that the test can leave it out of the second boot
    systemd.services.bootserver.unitConfig.ConditionPathExists = "!/var/lib/no-bootserver";
  };

  testScript = ''
    machine.wait_for_unit("bootserver.service")
    identity = "/var/lib/firstboot/identity"
    etcdctl = (
        "etcdctl --endpoints https://127.0.1.1:2379 "
        f"--cacert {identity}/ca.pem --cert {identity}/chainfire.cert.pem --key {identity}/chainfire.key.pem "
    )

    with subtest("the node is blessed"):
        machine.wait_until_succeeds("journalctl -u firstboot | grep -q blessed", timeout=120)
        machine.succeed(etcdctl + "put greeting hello")

    with subtest("keys are its own"):
        machine.succeed(f"test $(stat -c %a {identity}/chainfire.key.pem) = 600")
        machine.fail("grep -r 'PRIVATE KEY' /etc/plasma /nix/store --include='*.pem' --include='*.toml' -l")

    with subtest("a reboot needs no boot server"):
        machine.succeed("touch /var/lib/no-bootserver && sync")
        machine.shutdown()
        machine.start()
        machine.wait_for_unit("chainfire.service")
        machine.wait_until_succeeds(etcdctl + "get greeting | grep -x hello", timeout=60)
        machine.fail("systemctl is-active bootserver")
  '';
}
