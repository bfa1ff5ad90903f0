# What the flake offers to others as `lib`, and what its own files share. Pure: no packages.
{ lib }:
{
  disks = import ./disks.nix { inherit lib; };
  hardening = import ./hardening.nix { inherit lib; };
  inventory = import ./inventory.nix { inherit lib; };
  text = import ./text.nix { inherit lib; };
}
