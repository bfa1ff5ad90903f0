# Our binaries as packages of nixpkgs, where the modules look for them.
{ inputs }:
final: _prev:
import ./binaries.nix {
  inherit (final) lib;
  crane = inputs.crane.mkLib final;
}
