# apps: `nix run .#up` is a whole cloud on this machine.
{ lib, pkgs, ... }:
let
  app = program: description: {
    type = "app";
    inherit program;
    meta = { inherit description; };
  };
  of = package: app (lib.getExe package) package.meta.description;
  up = app (lib.getExe (
    pkgs.writeShellApplication {
      name = "up";
      # `plasma up` finds the programs that it starts on the path
      runtimeInputs = [
        pkgs.bootserver
        pkgs.chainfire
        pkgs.firstboot
        pkgs.plasma
      ];
      text = ''exec plasma up "$@"'';
    }
  )) "A whole cloud on this machine";
in
{
  inherit up;
  default = up;
  bootserver = of pkgs.bootserver;
  chainfire = of pkgs.chainfire;
  firstboot = of pkgs.firstboot;
  plasma = of pkgs.plasma;
}
