# The option that holds the inventory; its faults are failed assertions, each with its sentence.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  inventory = import ../../nix/inventory.nix { inherit lib; };
  faults = inventory.faults config.plasma.inventory;
in
{
  options.plasma.inventory = mkOption {
    type = types.attrs;
    apply = raw: if inventory.faults raw == [ ] then inventory.checked raw else raw;
    description = "The cluster, as nodes/cluster.nix describes it.";
  };

  config = {
    assertions = map (fault: {
      assertion = false;
      message = "plasma.inventory: ${fault}";
    }) faults;
    warnings = lib.optionals (faults == [ ]) (
      map (warning: "plasma.inventory: ${warning}") (inventory.warnings config.plasma.inventory)
    );
  };
}
