mkdir $out
ln -s $kernel $out/vmlinuz
ln -s $ramdisk $out/initrd
ln -s $script $out/boot.ipxe
file() { jq -n --arg sha "$(sha256sum <$1 | cut -d ' ' -f 1)" --argjson n "$(stat -L -c %s $1)" '{sha256: $sha, bytes: $n}'; }
jq -n --arg cmdline "$cmdline" --arg release "6.18.0" \
  --argjson kernel "$(file $kernel)" --argjson initrd "$(file $ramdisk)" \
  '{version: 1, target: "nixos", kernel_release: $release, cmdline: $cmdline, files: {vmlinuz: $kernel, initrd: $initrd}}' \
  >$out/manifest.json
