# An image as disks and ISO. Only this file names nixos-generators, which upstream has given up for image builders
# that are in nixpkgs itself; when these cover the three, this file changes and no other.
{
  inputs,
  lib,
  system,
}:
let
  formats = {
    raw = "raw-efi";
    qcow2 = "qcow-efi";
    iso = "iso";
  };
in
name: modules:
lib.mapAttrs' (
  suffix: format:
  lib.nameValuePair "${name}-${suffix}" (
    inputs.nixos-generators.nixosGenerate { inherit format modules system; }
  )
) formats
