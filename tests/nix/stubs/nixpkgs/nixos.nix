# nixosSystem: NixOS reduced to assertions, warnings and a system that depends on all that was configured.
{ lib }:
{
  modules,
  pkgs,
  specialArgs ? { },
}:
let
  list = lib.mkOption {
    type = lib.types.listOf lib.types.raw;
    default = [ ];
  };
  base =
    { config, lib, ... }:
    lib.optionalAttrs (lib ? trivial) {
      # under nixpkgs' own module system, whatever nobody declares is taken as it comes
      freeformType = lib.types.lazyAttrsOf lib.types.anything;
    }
    // {
      options = {
        boot.kernelParams = list;
        boot.initrd.availableKernelModules = list;
        boot.kernelModules = list;
        environment.systemPackages = list;
        networking.firewall.allowedTCPPorts = list;
        systemd.tmpfiles.rules = list;
        # declared, or whether it is set could not depend on another service
        services.udev.extraRules = lib.mkOption {
          type = lib.types.lines;
          default = "";
        };
        assertions = lib.mkOption {
          type = lib.types.listOf lib.types.attrs;
          default = [ ];
        };
        warnings = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
        };
        nixpkgs.overlays = lib.mkOption {
          type = lib.types.listOf lib.types.raw;
          default = [ ];
        };
        system.build = lib.mkOption {
          type = lib.types.attrsOf lib.types.raw;
          default = { };
        };
      };
      config = {
        _module.args.pkgs = builtins.foldl' (pkgs: pkgs.extend) pkgs config.nixpkgs.overlays;
        systemd.package = pkgs.systemd;
        system.boot.loader.kernelFile = "bzImage";
        boot.kernelPackages.kernel.modDirVersion = "6.18.0";
        system.build.toplevel =
          let
            failed = builtins.filter (it: !it.assertion) config.assertions;
            # ours show in what they configure; an unset option of a service that is off must not be read
            services = removeAttrs (config.services or { }) [
              "bootserver"
              "chainfire"
              "firstboot"
            ];
            all =
              removeAttrs config [
                "_module"
                "assertions"
                "nixpkgs"
                "plasma"
                "system"
              ]
              // {
                inherit services;
              };
          in
          if failed != [ ] then
            throw "Failed assertions:\n${lib.concatMapStringsSep "\n" (it: "- ${it.message}") failed}"
          else
            pkgs.writeText "nixos-system" (builtins.toJSON all);
      };
    };
in
lib.evalModules {
  modules = [ base ] ++ modules;
  specialArgs = {
    modulesPath = builtins.unsafeDiscardStringContext (toString ./.);
  }
  // specialArgs;
}
