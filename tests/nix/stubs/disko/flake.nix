# A stand-in for disko: the option, taken as it is.
{
  inputs.nixpkgs.url = "path:../nixpkgs";
  outputs = _: {
    nixosModules.disko =
      { lib, ... }:
      {
        options.disko.devices = lib.mkOption {
          type = lib.types.anything;
          default = { };
        };
      };
  };
}
