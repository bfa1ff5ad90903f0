# Our binaries as packages of nixpkgs, where the modules look for them.
{ inputs }:
final: _prev:
import ./binaries.nix {
  inherit (final) lib;
  pkgs = final;
  crane = inputs.crane.mkLib final;
}
