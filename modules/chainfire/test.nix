# One member on its own, with certificates made by hand: it serves etcd's API to certificates only, keeps data
# over a restart, and its unit is as locked as it says.
{ lib, ... }:
let
  dir = "/var/lib/secrets";
in
{
  name = "chainfire";

  nodes.node01 =
    { pkgs, ... }:
    {
      imports = [ ./default.nix ];
      environment.systemPackages = [
        pkgs.etcd
        pkgs.openssl
      ];
      services.chainfire = {
        enable = true;
        openFirewall = true;
        credentials = lib.genAttrs [ "cert" "key" "ca" ] (name: "${dir}/${name}.pem");
        settings = {
          name = "node01";
          cluster_id = "019a0000-0000-7000-8000-000000000001";
          initial = "form";
          client = {
            listen = "127.0.0.1:2379";
            advertise = "https://127.0.0.1:2379";
          };
          peer = {
            listen = "127.0.0.1:2380";
            advertise = "https://127.0.0.1:2380";
          };
          ops.listen = "127.0.0.1:9379";
        };
      };
      # the test makes the certificates first
      systemd.services.chainfire.wantedBy = lib.mkForce [ ];
    };

  testScript = ''
    start_all()
    node01.wait_for_unit("multi-user.target")

    with subtest("without certificates the unit fails, and says why"):
        node01.fail("systemctl start chainfire")

    with subtest("certificates"):
        node01.succeed(
            "mkdir -m 0700 ${dir} && cd ${dir} && umask 077",
            "cd ${dir} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
            "-keyout ca.key -out ca.pem -subj /CN=plasma -days 2",
            "cd ${dir} && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
            "-keyout key.pem -out req.pem -subj /CN=chainfire",
            "cd ${dir} && printf 'subjectAltName=URI:spiffe://plasma/svc/chainfire/node01,IP:127.0.0.1\\n"
            "extendedKeyUsage=serverAuth,clientAuth\\n' >ext",
            "cd ${dir} && openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -days 1 -extfile ext -out cert.pem",
        )
        node01.succeed("systemctl reset-failed chainfire; systemctl start chainfire")
        node01.wait_for_open_port(2379)

    etcdctl = (
        "etcdctl --endpoints https://127.0.0.1:2379 "
        "--cacert ${dir}/ca.pem --cert ${dir}/cert.pem --key ${dir}/key.pem "
    )

    with subtest("it serves"):
        node01.wait_until_succeeds(etcdctl + "endpoint health", timeout=30)
        node01.succeed(etcdctl + "put greeting hello")
        node01.fail("etcdctl --endpoints https://127.0.0.1:2379 --cacert ${dir}/ca.pem get greeting")

    with subtest("data outlives a restart"):
        node01.succeed("systemctl kill --signal=KILL chainfire")
        node01.wait_until_succeeds(etcdctl + "get greeting | grep -x hello", timeout=30)

    with subtest("the unit is locked"):
        node01.succeed("systemd-analyze security --threshold=20 chainfire.service")
        node01.fail("grep -r 'PRIVATE KEY' /etc/plasma")
  '';
}
