# The iPXE script of an image, to boot it by hand or from another HTTP server; nodes get theirs from the boot server,
# which decides anew at every boot. Boot arguments are public: no token and no key is ever in them.
{ lib }:
{
  name,
  inventory,
  cmdline,
}:
let
  inherit (inventory.cluster) bootserver;
  host =
    if lib.hasInfix ":" bootserver.address then "[${bootserver.address}]" else bootserver.address;
in
''
  #!ipxe
  # ${name}
  set base http://${host}:8080/boot
  set tries:int32 0

  :again
  inc tries
  kernel ''${base}/images/vmlinuz initrd=initrd initrd=ca.cpio ${cmdline} || goto wait
  initrd --name initrd ''${base}/images/initrd || goto wait
  initrd --name ca.cpio ''${base}/ca.cpio || goto wait
  boot

  :wait
  echo the boot server ${host} does not answer, try ''${tries}
  imgfree
  sleep 5
  goto again
''
