# One node after the other gets a new system, and the cluster serves all the while; a node whose new system does not
# come up as a member goes back to the old one.
{ lib, ... }@args:
let
  cluster = import ./cluster.nix args;
  names = builtins.filter (name: name != "boot") (builtins.attrNames cluster.nodes);
in
cluster
// {
  name = "plasma-upgrade";

  nodes =
    cluster.nodes
    // lib.genAttrs names (name: {
      imports = [ cluster.nodes.${name} ];
      # the new systems, built beside the running one
      specialisation.new.configuration = {
        environment.etc."plasma/release".text = "new";
        # a change that restarts the store
        services.chainfire.settings.limits.max_request_bytes = 1048576;
      };
      specialisation.broken.configuration.services.chainfire.settings.no_such_key = true;
    });

  testScript =
    builtins.head (lib.splitString "with subtest(\"one machine may die\"):" cluster.testScript)
    + ''
      switch = "/run/current-system/specialisation/{}/bin/switch-to-configuration test"

      with subtest("node by node, and the cluster serves all the while"):
          for at, (name, node) in enumerate(nodes):
              other = nodes[(at + 1) % len(nodes)][1]
              old = node.succeed("readlink -f /run/current-system").strip()
              node.succeed(switch.format("new"))
              node.wait_for_unit("chainfire.service")
              node.succeed("grep -x new /etc/plasma/release")
              other.succeed(etcdctl + "get greeting | grep -x hello")
              # never the next one before this one is a member again
              other.wait_until_succeeds(
                  etcdctl + "endpoint health 2>&1 | grep -c 'is healthy' | grep -x 3", timeout=60
              )

      with subtest("a system that does not come up is taken back"):
          old = node03.succeed("readlink -f /run/current-system").strip()
          base = node03.succeed("readlink -f /run/booted-system").strip()
          node03.execute(f"{base}/specialisation/broken/bin/switch-to-configuration test")
          node03.wait_until_fails("systemctl is-active chainfire", timeout=60)
          node01.succeed(etcdctl + "put during upgrade")
          node03.succeed(f"{old}/bin/switch-to-configuration test")
          node03.wait_until_succeeds(etcdctl + "get during | grep -x upgrade", timeout=60)
    '';
}
