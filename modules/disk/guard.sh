# Stops with a sentence unless one disk, and only one, is the one that is meant, and nothing on it would be lost.
# Reads only. It runs before every step that writes to a disk, also where disko is called by hand.
#
#   guard NODE SERIAL WWN MIN_GIB MAX_GIB     '' or 0: not given
set -euo pipefail

node=$1 serial=$2 wwn=$3 min=$4 max=$5

stop() {
  printf 'plasma-disk-guard: %s: %s\n' "$node" "$1" >&2
  exit 1
}
of() { lsblk --bytes --nodeps --noheadings --raw --output "$2" "$1"; }

# a WWN without what different tools put before it
bare() {
  local wwn=${1,,} prefix
  for prefix in wwn- nvme- naa. eui. 0x; do wwn=${wwn#"$prefix"}; done
  printf %s "$wwn"
}

found=()
while read -r disk type; do
  [ "$type" = disk ] || continue
  if [ -n "$serial" ] && [ "$(of "$disk" SERIAL)" != "$serial" ]; then continue; fi
  if [ -n "$wwn" ] && [ "$(bare "$(of "$disk" WWN)")" != "$(bare "$wwn")" ]; then continue; fi
  found+=("$disk")
done < <(lsblk --nodeps --noheadings --raw --paths --output NAME,TYPE)

[ "${#found[@]}" -ne 0 ] || stop "no disk has serial '$serial' and wwn '$wwn'; compare lsblk -o NAME,SERIAL,WWN with nodes/cluster.nix"
[ "${#found[@]}" -eq 1 ] || stop "${#found[@]} disks have serial '$serial' and wwn '$wwn' (${found[*]}); give both in nodes/cluster.nix, or remove one"
disk=${found[0]}

gib=$((1 << 30)) size=$(of "$disk" SIZE)
[ "$size" -ge $((min * gib)) ] || stop "$disk has $size bytes, less than disk.minGiB = $min; this is not the disk that is meant"
[ "$max" -eq 0 ] || [ "$size" -le $((max * gib)) ] || stop "$disk has $size bytes, more than disk.maxGiB = $max; this is not the disk that is meant"

# The agent's claim (packages/firstboot/src/disk/claim.rs): magic, stage, then texts with a length byte before each:
# the cluster's id, the node. With it the agent has made the disk empty for this node, or begun to install on it.
byte() { dd if="$disk" bs=1 skip=$((2047 * 512 + $1)) count=1 status=none | od -An -tu1 | tr -d ' '; }
bytes() { dd if="$disk" bs=1 skip=$((2047 * 512 + $1)) count="$2" status=none | tr -d '\0'; }
if [ "$(bytes 0 12)" = PLASMACLAIM1 ]; then
  at=$((14 + $(byte 13)))
  if [ "$(bytes $((at + 1)) "$(byte "$at")")" = "$node" ]; then exit 0; fi
fi

edge() { dd if="$disk" bs=1M skip="$1" count=1 status=none | tr -d '\0' | head -c 1 | wc -c; }
traces=$(wipefs --noheadings --output TYPE "$disk" | sort -u | tr '\n' ' ')
parts=$(lsblk --noheadings --raw --output TYPE "$disk" | tail -n +2 | wc -l)
if [ -z "$traces" ] && [ "$parts" -eq 0 ] && [ "$(edge 0)" -eq 0 ] && [ "$(edge $(((size >> 20) - 1)))" -eq 0 ]; then
  exit 0
fi
stop "$disk holds data that is not ours (${traces:-no signature, but no zeros }in $parts partitions); look at it, then name its serial in disk.consentToErase, and firstboot takes it down"
