# A stand-in for nixpkgs, so that the project's unchanged flake evaluates without a download.
{
  outputs =
    { self }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      lib = import ./lib;
      nixos = import ./nixos.nix { inherit lib; };
    in
    {
      lib = lib // {
        nixosSystem =
          args:
          nixos (
            {
              pkgs = self.legacyPackages.x86_64-linux;
            }
            // removeAttrs args [ "system" ]
          );
      };
      legacyPackages = lib.genAttrs systems (system: import ./packages.nix { inherit lib system; });
    };
}
