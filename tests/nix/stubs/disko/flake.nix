# A stand-in for disko: the option, taken as it is, and the program that is made of it.
{
  inputs.nixpkgs.url = "path:../nixpkgs";
  outputs = _: {
    nixosModules.disko =
      {
        config,
        lib,
        pkgs,
        ...
      }:
      {
        options.disko.enableConfig = lib.mkOption {
          type = lib.types.bool;
          default = true;
        };
        options.disko.devices = lib.mkOption {
          type = lib.types.anything;
          default = { };
        };
        config.system.build.mount = pkgs.writeText "disko-mount" "";
        config.system.build.formatMount = pkgs.writeText "disko-format-mount" (
          builtins.toJSON config.disko.devices
        );
      };
  };
}
