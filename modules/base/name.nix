# Which node of the inventory a machine is; images, which serve every node, do not have it.
{ lib, ... }:
{
  options.plasma.node = lib.mkOption {
    type = lib.types.str;
    description = "Which node of the inventory this machine is.";
  };
}
