# The iPXE script of an image. Boot arguments are public: no token and no key is ever in them.
{ lib }:
{
  name,
  inventory,
  init,
  kernelParams,
}:
let
  inherit (inventory.cluster) bootserver;
  host =
    if lib.hasInfix ":" bootserver.address then "[${bootserver.address}]" else bootserver.address;
in
''
  #!ipxe
  set base http://${host}:8080/netboot/${name}
  kernel ''${base}/bzImage init=${init} initrd=initrd ${lib.concatStringsSep " " kernelParams} || goto retry
  initrd ''${base}/initrd || goto retry
  boot

  :retry
  echo the boot server ${host} does not answer, trying again
  sleep 5
  chain --replace ''${base}/boot.ipxe || goto retry
''
