# The project's flake on the stand-ins for its inputs, without the flake machinery: for tests that look inside.
let
  nixpkgs = (import ./stubs/nixpkgs/flake.nix).outputs { self = nixpkgs; };
  self = (import ../../flake.nix).outputs {
    inherit self nixpkgs;
    crane = (import ./stubs/crane/flake.nix).outputs { };
    disko = (import ./stubs/disko/flake.nix).outputs { };
    nixos-generators = (import ./stubs/nixos-generators/flake.nix).outputs { inherit nixpkgs; };
  };
in
self // { inherit nixpkgs; }
