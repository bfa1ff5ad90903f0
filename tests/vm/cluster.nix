# Three machines of the inventory and a boot server: they enrol, one forms, two join; a machine may die, and one
# that lost everything comes back by the same path.
{ lib, ... }:
let
  inventory = import ../../nodes/cluster.nix;
  names = builtins.attrNames inventory.nodes;
  state = "/var/lib/firstboot";

  # the test's network gives addresses and cards of its own; the inventory's are put in their place
  lan = 7;
  network = address: {
    virtualisation.vlans = [ lan ];
    networking.interfaces.eth1.ipv4.addresses = lib.mkForce [
      {
        inherit address;
        prefixLength = 24;
      }
    ];
  };
  machine = name: {
    imports = [
      ../../modules/node
      (network inventory.nodes.${name}.address)
    ];
    plasma = {
      inherit inventory;
      node = name;
    };
    systemd.network.networks."10-plasma".matchConfig = lib.mkForce { Name = "eth1"; };
    # CA and token are handed over first
    systemd.services.firstboot.wantedBy = lib.mkForce [ ];
    virtualisation.memorySize = 1024;
  };
in
{
  name = "plasma-cluster";

  defaults =
    { pkgs, ... }:
    {
      environment.systemPackages = [ pkgs.etcd ];
    };

  nodes = lib.genAttrs names machine // {
    boot = {
      imports = [
        ../../modules/bootserver
        (network inventory.cluster.bootserver.address)
      ];
      services.bootserver = {
        enable = true;
        openFirewall = true;
        inherit inventory;
      };
    };
  };

  testScript = ''
    nodes = [${lib.concatMapStringsSep ", " (name: "(\"${name}\", ${name})") names}]
    endpoints = ",".join([${
      lib.concatMapStringsSep ", " (name: "\"https://${inventory.nodes.${name}.address}:2379\"") names
    }])
    etcdctl = (
        f"etcdctl --endpoints {endpoints} --cacert ${state}/identity/ca.pem "
        "--cert ${state}/identity/chainfire.cert.pem --key ${state}/identity/chainfire.key.pem "
    )


    def hand_over(name, node):
        """What the operator does: the CA's certificate and a join token into the node's credential store."""
        ca = boot.succeed("base64 -w0 /var/lib/bootserver/operator/ca.pem")
        token = boot.succeed(
            f"bootserver token new {name} | base64 -w0"
        )
        node.succeed(
            "mkdir -p -m 0700 /etc/credstore",
            f"echo {ca} | base64 -d >/etc/credstore/plasma.ca",
            f"echo {token} | base64 -d >/etc/credstore/plasma.join-token",
        )


    start_all()
    boot.wait_for_unit("bootserver.service")
    boot.wait_for_open_port(8443)

    with subtest("three nodes form one cluster"):
        for name, node in nodes:
            node.wait_for_unit("multi-user.target")
            hand_over(name, node)
            node.succeed("systemctl start --no-block firstboot")
        for name, node in nodes:
            node.wait_until_succeeds("journalctl -u firstboot | grep -q blessed", timeout=180)
        node01.succeed(etcdctl + "member list | grep -c started | grep -x 3")
        node01.succeed(etcdctl + "put greeting hello")

    with subtest("one machine may die"):
        node01.crash()
        node02.wait_until_succeeds(etcdctl + "get greeting | grep -x hello", timeout=30)
        node01.start()
        node01.wait_for_unit("chainfire.service")

    with subtest("a node that lost its state comes back by the same path"):
        node03.succeed("systemctl stop chainfire firstboot")
        node03.succeed("rm -rf /var/lib/chainfire/* ${state}/*")
        hand_over("node03", node03)
        node03.succeed("systemctl start --no-block firstboot")
        node03.wait_until_succeeds("journalctl -u firstboot | grep -c blessed | grep -x 2", timeout=180)
        node02.succeed(etcdctl + "member list | grep -c started | grep -x 3")
  '';
}
