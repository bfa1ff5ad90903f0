{
  description = "PlasmaCloud: a small cloud from one inventory and one command";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    crane.url = "github:ipetkov/crane";
    disko = {
      url = "github:nix-community/disko";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    nixos-generators = {
      url = "github:nix-community/nixos-generators";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  # Wiring only: one file in nix/ per group of outputs.
  outputs =
    inputs@{ self, nixpkgs, ... }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forSystems =
        file:
        lib.genAttrs systems (
          system:
          import file {
            inherit inputs lib system;
            pkgs = nixpkgs.legacyPackages.${system}.extend self.overlays.default;
          }
        );
    in
    {
      lib = import ./nix/lib.nix { inherit lib; };
      overlays.default = import ./nix/overlay.nix { inherit inputs; };
      nixosModules = import ./nix/modules.nix { inherit inputs lib; };
      nixosConfigurations = import ./nix/nodes.nix { inherit inputs lib; };
      packages = forSystems ./nix/packages.nix;
      apps = forSystems ./nix/apps.nix;
      devShells = forSystems ./nix/devshell.nix;
      formatter = forSystems ./nix/formatter.nix;
      checks = forSystems ./nix/checks.nix;
    };
}
