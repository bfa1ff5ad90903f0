# What Nix and Rust must say alike, for tests/nix/run to compare with the files that Rust's tests compare with.
let
  flake = import ./outputs.nix;
  inherit (flake.nixpkgs) lib;
  inherit (flake.lib) inventory text;
  faults =
    file:
    lib.concatMapStrings (it: it + "\n") (inventory.faults (lib.fromJSON (builtins.readFile file)));
  golden = ../../packages/inventory/tests/golden;
in
{
  cluster = text.json (inventory.checked (import ../../nodes/cluster.nix));
  faults = faults (golden + "/faults.json");
  faults-between = faults (golden + "/faults-between.json");

  # docs/options.md
  options =
    import ../../nix/options.nix { inherit lib; }
      (lib.nixosSystem {
        modules = [
          flake.nixosModules.default
          {
            plasma.inventory = import ../../nodes/cluster.nix;
            plasma.node = "node01";
          }
        ];
      }).options
      [
        [ "plasma" ]
        [
          "services"
          "bootserver"
        ]
        [
          "services"
          "chainfire"
        ]
        [
          "services"
          "firstboot"
        ]
      ];

  # the VM tests' scripts, to be looked at by Python
  scripts = lib.mapAttrs' (name: check: lib.nameValuePair name check.testScript) (
    lib.filterAttrs (name: _: lib.hasPrefix "vm-" name) flake.checks.x86_64-linux
  );
}
