# formatter: `nix fmt` writes every .nix file in the official style.
{ pkgs, ... }: pkgs.nixfmt-tree
