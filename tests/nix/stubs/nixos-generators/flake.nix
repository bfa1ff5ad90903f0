# A stand-in for nixos-generators: the formats that we ask for, as a system.
{
  inputs.nixpkgs.url = "path:../nixpkgs";
  outputs =
    { nixpkgs, ... }:
    {
      nixosGenerate =
        {
          format,
          modules,
          system,
        }:
        if
          !(builtins.elem format [
            "raw-efi"
            "qcow-efi"
            "iso"
          ])
        then
          throw "nixos-generators: no format ${format}"
        else
          (nixpkgs.lib.nixosSystem { inherit modules system; }).config.system.build.toplevel;
    };
}
