# nixosConfigurations: one per node of the inventory that is a machine.
{ inputs, lib }:
let
  inventory = (import ./inventory.nix { inherit lib; }).checked (import ../nodes/cluster.nix);
  machines = lib.filterAttrs (_: node: !node.process) inventory.nodes;
in
builtins.mapAttrs (
  name: _:
  inputs.nixpkgs.lib.nixosSystem {
    modules = [
      inputs.self.nixosModules.default
      ../nodes/${name}/configuration.nix
      ../nodes/${name}/disko.nix
      {
        plasma = {
          inherit inventory;
          node = name;
        };
        nixpkgs.hostPlatform = "x86_64-linux";
        # the operator's copy of the CA's certificate, once `bootserver init` has made it
        services.firstboot.caFile = lib.mkIf (builtins.pathExists ../nodes/ca.pem) ../nodes/ca.pem;
      }
    ];
  }
) machines
