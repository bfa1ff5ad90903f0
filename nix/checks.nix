# checks: every package, every node, every VM test, and the workspace's own checks.
{
  inputs,
  lib,
  pkgs,
  system,
}:
let
  inherit (inputs) self;
  text = import ./text.nix { inherit lib; };
  inventory = (import ./inventory.nix { inherit lib; }).checked (import ../nodes/cluster.nix);

  prefixed = prefix: lib.mapAttrs' (name: lib.nameValuePair "${prefix}-${name}");
  vm = file: pkgs.testers.runNixOSTest (import file { inherit inputs lib; });

  # the JSON that Rust reads is checked in, for machines without Nix
  inventoryIsCurrent =
    assert lib.assertMsg (
      builtins.readFile ../nodes/cluster.json == text.json inventory
    ) "nodes/cluster.json is not what nodes/cluster.nix says: tests/nix/run --update writes it anew";
    pkgs.writeText "inventory-is-current" "";

  style = pkgs.runCommand "nix-style" {
    nativeBuildInputs = [
      pkgs.deadnix
      pkgs.nixfmt
    ];
    src = lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.fileFilter (file: file.hasExt "nix") ../.;
    };
  } "cd $src && find . -name '*.nix' -exec nixfmt --check {} + && deadnix --fail . && touch $out";
in
{
  inherit (pkgs.plasmaChecks)
    clippy
    doc
    fmt
    nextest
    ;
  inherit style;
}
// prefixed "package" {
  inherit (pkgs)
    bootserver
    chainfire
    firstboot
    plasma
    ;
}
// lib.optionalAttrs (system == "x86_64-linux") (
  {
    inventory = inventoryIsCurrent;
    vm-bootserver = vm ../modules/bootserver/test.nix;
    vm-chainfire = vm ../modules/chainfire/test.nix;
    vm-cluster = vm ../tests/vm/cluster.nix;
    vm-disk = vm ../modules/disk/test.nix;
    vm-firstboot = vm ../modules/firstboot/test.nix;
    vm-netboot = vm ../tests/vm/netboot.nix;
    vm-upgrade = vm ../tests/vm/upgrade.nix;
  }
  // prefixed "node" (
    builtins.mapAttrs (_: node: node.config.system.build.toplevel) self.nixosConfigurations
  )
)
