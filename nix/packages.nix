# packages: the binaries, and the images made of them.
{
  inputs,
  lib,
  pkgs,
  system,
}:
{
  inherit (pkgs)
    bootserver
    chainfire
    firstboot
    plasma
    ;
  default = pkgs.plasma;
}
// lib.optionalAttrs (system == "x86_64-linux") (import ./images.nix { inherit inputs lib pkgs; })
