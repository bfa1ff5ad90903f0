# testers.runNixOSTest: evaluates every machine and the script, so that a test cannot rot unseen here.
{ derive, lib }:
pkgs: test:
let
  known = [
    "defaults"
    "name"
    "nodes"
    "testScript"
  ];
  unknown = builtins.filter (key: !(builtins.elem key known)) (builtins.attrNames test);
  machines = builtins.mapAttrs (
    name: module:
    import ./nixos.nix { inherit lib; } {
      inherit pkgs;
      modules = [
        module
        (test.defaults or { })
        { networking.hostName = lib.mkDefault name; }
      ];
    }
  ) test.nodes;
  testScript =
    if builtins.isFunction test.testScript then
      test.testScript { nodes = builtins.mapAttrs (_: machine: machine.config) machines; }
    else
      test.testScript;
in
if unknown != [ ] then
  throw "runNixOSTest: ${toString unknown} is not known to this stand-in"
else
  derive "vm-test-${test.name}" {
    inherit testScript;
    machines = map (machine: machine.config.system.build.toplevel) (builtins.attrValues machines);
  }
  // {
    inherit testScript machines;
  }
