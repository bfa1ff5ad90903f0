# One machine that is boot server and node enrols itself and is blessed; after a reboot its Chainfire starts
# without the boot server.
{ lib, ... }:
let
  rules = import ../../nix/inventory.nix { inherit lib; };
  name = "machine";
  inventory = rules.checked {
    cluster = {
      name = "plasma";
      domain = "plasma.internal";
      former = name;
      bootserver.address = "127.0.0.1";
    };
    nodes.${name} = {
      roles = [ "control" ];
      address = "127.0.1.1";
      process = true; # no disk is touched
    };
  };
  store = "/var/lib/bootserver";
in
{
  name = "firstboot";

  nodes.${name} =
    { pkgs, ... }:
    {
      imports = [
        ../bootserver
        ./default.nix
      ];
      environment.systemPackages = [ pkgs.etcd ];

      services.bootserver = {
        enable = true;
        inherit inventory;
      };
      services.chainfire = {
        enable = true;
        settings = rules.chainfire inventory name;
      };
      services.firstboot = {
        enable = true;
        settings = {
          node = name;
          bootserver = rules.bootserverUrl inventory;
        };
      };
      # so that the test can leave it out of the second boot
      systemd.services.bootserver.unitConfig.ConditionPathExists = "!/var/lib/no-bootserver";
    };

  testScript = ''
    identity = "/var/lib/firstboot/identity"
    etcdctl = (
        "etcdctl --endpoints https://127.0.1.1:2379 "
        f"--cacert {identity}/ca.pem --cert {identity}/chainfire.cert.pem --key {identity}/chainfire.key.pem "
    )

    machine.wait_for_unit("bootserver.service")
    machine.wait_for_open_port(8443)

    with subtest("before enrolment Chainfire is skipped, not failed"):
        machine.fail("systemctl is-active chainfire")
        machine.fail("systemctl is-failed chainfire")

    with subtest("with the CA and a token the node is blessed"):
        machine.succeed(
            "mkdir -p -m 0700 /etc/credstore",
            "cp ${store}/operator/ca.pem /etc/credstore/plasma.ca",
            "bootserver token new ${name} >/etc/credstore/plasma.join-token",
            "systemctl restart firstboot",
        )
        machine.wait_until_succeeds("journalctl -u firstboot | grep -q blessed", timeout=120)
        machine.succeed(etcdctl + "put greeting hello")

    with subtest("keys are its own"):
        machine.succeed(f"test $(stat -c %a {identity}/chainfire.key.pem) = 600")
        machine.fail("grep -rl 'PRIVATE KEY' /etc/plasma/")

    with subtest("a reboot needs no boot server and no token"):
        machine.succeed("rm /etc/credstore/plasma.join-token && touch /var/lib/no-bootserver && sync")
        machine.shutdown()
        machine.start()
        machine.wait_for_unit("chainfire.service")
        machine.wait_until_succeeds(etcdctl + "get greeting | grep -x hello", timeout=60)
        machine.fail("systemctl is-active bootserver")
  '';
}
