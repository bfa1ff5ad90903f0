# The boot server makes its CA once, answers anybody the time, and an operator's question only to an operator.
{ lib, ... }:
let
  dir = "/var/lib/bootserver";
in
{
  name = "bootserver";

  nodes.boot =
    { pkgs, ... }:
    {
      imports = [ ./default.nix ];
      environment.systemPackages = [ pkgs.curl ];
      networking.hostName = lib.mkForce "boot";
      services.bootserver = {
        enable = true;
        inventory = lib.recursiveUpdate (import ../../nodes/cluster.nix) {
          cluster.bootserver.address = "127.0.0.1";
        };
      };
    };

  testScript = ''
    boot.wait_for_unit("bootserver.service")
    boot.wait_for_open_port(8443)
    curl = "curl --silent --show-error --fail --cacert ${dir}/operator/ca.pem "
    operator = "--cert ${dir}/operator/cert.pem --key ${dir}/operator/key.pem "

    with subtest("who may ask what"):
        boot.succeed(curl + "https://127.0.0.1:8443/v1/time")
        boot.fail(curl + "https://127.0.0.1:8443/v1/status")
        boot.succeed(curl + operator + "https://127.0.0.1:8443/v1/status")

    with subtest("the CA is made once"):
        before = boot.succeed("sha256sum ${dir}/operator/ca.pem")
        boot.succeed("systemctl restart bootserver")
        boot.wait_for_open_port(8443)
        assert before == boot.succeed("sha256sum ${dir}/operator/ca.pem")

    with subtest("nobody else reads it"):
        boot.fail("su -s /bin/sh nobody -c 'ls ${dir}'")
        boot.succeed("systemd-analyze security --threshold=20 bootserver.service")
  '';
}
