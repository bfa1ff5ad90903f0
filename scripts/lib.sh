# What the scripts share: where builds go, what gets installed, how they speak. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What is fetched or built lies outside the checkout, so that a fresh clone uses it again.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/plasmacloud
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}

say() { printf '\033[1m%s\033[0m\n' "== $*" >&2; }
note() { printf '   %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# skip WHAT WHY: remembered, and listed by `skipped` at the end
skips=()
skip() { skips+=("$1: $2"); note "skipped $1: $2"; }
skipped() {
  [ ${#skips[@]} -eq 0 ] && return
  say "left out"
  printf '   %s\n' "${skips[@]}" >&2
}

# install COMMAND PACKAGE: makes sure a command is there; false when it can't be had
install() {
  command -v "$1" >/dev/null 2>&1 && return 0
  apt_install "$2" && command -v "$1" >/dev/null 2>&1
}

# install_file FILE PACKAGE: the same for a package without commands
install_file() {
  [ -e "$1" ] && return 0
  apt_install "$2" && [ -e "$1" ]
}

# However it ends, no policy of ours is left: its traps are a subshell's, so they take nobody's place.
apt_install() (
  command -v apt-get >/dev/null 2>&1 || exit 1
  [ "$(id -u)" = 0 ] || exit 1
  note "installing $1"
  # a service's package must not start the service
  policy=/usr/sbin/policy-rc.d
  ours=$(mktemp "$policy-XXXXXX") || exit 1
  trap '[ "$policy" -ef "$ours" ] && rm -f "$policy"; rm -f "$ours"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$ours" && chmod 755 "$ours" || exit 1
  # somebody else's stays
  ln "$ours" "$policy" 2>/dev/null || [ -e "$policy" ] || exit 1
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1 ||
    { apt-get update -qq >/dev/null 2>&1 && apt-get install -y -qq --no-install-recommends "$1" >/dev/null; }
)

# etcd_of SUITE: Debian's etcd of another suite, unpacked beside the system into $cache/etcd/VERSION
# (etcdctl, etcdutl, etcd); nothing is installed. $cache/etcd/SUITE points there. False when it can't
# be had.
etcd_of() {
  local suite=$1 etcd=$cache/etcd work uri keys=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -x "$etcd/$suite/etcdctl" ] && [ -x "$etcd/$suite/etcd" ] && return 0
  command -v apt-get >/dev/null 2>&1 && [ -e "$keys" ] || return 1
  # the mirror that this machine uses for Debian's own packages
  uri=$(debian_mirror)
  # it is not told before the lists have been fetched once
  [ -n "$uri" ] || { [ "$(id -u)" = 0 ] && apt-get update -qq >/dev/null 2>&1 && uri=$(debian_mirror); }
  [ -n "$uri" ] || return 1
  note "fetching etcd of Debian $suite"
  mkdir -p "$etcd" && work=$(mktemp -d "$etcd/.fetch-XXXXXX") || return 1
  if _etcd_fetch "$suite" "$uri" "$keys" "$work" >"$work/log" 2>&1; then
    rm -rf "$work"
    [ -x "$etcd/$suite/etcdctl" ]
  else
    note "$(tail -n 1 "$work/log")"
    rm -rf "$work"
    return 1
  fi
}

debian_mirror() {
  apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)|$(CODENAME)' 'Created-By: Packages' 2>/dev/null |
    awk -F'|' '$1 == "Debian" && $3 !~ /-/ { print $2; exit }'
}

_etcd_fetch() {
  local suite=$1 uri=$2 keys=$3 work=$4 deb version
  mkdir -p "$work"/{lists/partial,cache/archives/partial,files} || return 1
  echo "deb [signed-by=$keys] $uri $suite main" >"$work/sources.list"
  local apt=(-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    -o Acquire::Retries=2)
  timeout 180 apt-get "${apt[@]}" -qq update || return 1
  (cd "$work" && timeout 180 apt-get "${apt[@]}" -qq download etcd-client etcd-server) || return 1
  for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/files" || return 1; done
  # the version as the program itself says it, which also shows that it runs here
  version=$(ETCDCTL_API=3 "$work/files/usr/bin/etcdctl" version | sed -n 's/^etcdctl version: //p')
  [ -n "$version" ] && "$work/files/usr/bin/etcd" --version || return 1
  chmod 755 "$work/files/usr/bin" || return 1
  # whole or not at all
  if [ ! -d "$cache/etcd/$version" ]; then mv -T "$work/files/usr/bin" "$cache/etcd/$version" || return 1; fi
  ln -sfn "$version" "$cache/etcd/$suite"
}

# etcd_python: a Python with the clients etcd3 and etcd3gw, in $cache/python-etcd; false when it can't
# be had
etcd_python() {
  local python=$cache/python-etcd new
  "$python/bin/python" -c 'import etcd3, etcd3gw' >/dev/null 2>&1 && return 0
  command -v python3 >/dev/null 2>&1 || return 1
  note "fetching Python's etcd3 and etcd3gw"
  mkdir -p "$cache" && new=$(mktemp -d "$cache/.python-XXXXXX") || return 1
  # etcd3's generated code is older than protobuf 3.21
  if { python3 -m venv "$new" &&
    "$new/bin/python" -m pip install -q 'etcd3==0.12.0' 'etcd3gw==2.7.0' 'protobuf<3.21'; } >/dev/null 2>&1; then
    rm -rf "$python" && mv -T "$new" "$python" && "$python/bin/python" -c 'import etcd3, etcd3gw' >/dev/null 2>&1
  else
    rm -rf "$new"
    return 1
  fi
}

# lab_tools: what the lab's machines need; false, with the reasons in lab_lacks, when something can't be had
lab_lacks=()
lab_tools() {
  lab_lacks=()
  local pair
  for pair in ip:iproute2 setpriv:util-linux ssh-keygen:openssh-client dnsmasq:dnsmasq-base \
    qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mksquashfs:squashfs-tools cpio:cpio zstd:zstd; do
    install "${pair%:*}" "${pair#*:}" || lab_lacks+=("${pair%:*} is missing: install ${pair#*:}")
  done
  for pair in /usr/share/OVMF/OVMF_CODE_4M.fd:ovmf /usr/lib/ipxe/undionly.kpxe:ipxe \
    /usr/lib/ipxe/qemu/pxe-virtio.rom:ipxe-qemu; do
    install_file "${pair%:*}" "${pair#*:}" || lab_lacks+=("${pair%:*} is missing: install ${pair#*:}")
  done
  [ ${#lab_lacks[@]} -eq 0 ] || return
  # as the lab's own tests look: those would pass with nothing done
  local why
  if [ ! -e /dev/net/tun ]; then
    lab_lacks+=("/dev/net/tun is not there")
  elif ! why=$(lab_network 2>&1); then
    lab_lacks+=("no network namespace with a tap device: ${why:-$(id -un) may make none}")
  fi
  [ ${#lab_lacks[@]} -eq 0 ]
}

lab_network() (
  name=plasma-probe-$BASHPID
  ip netns add "$name" || exit
  trap 'ip netns delete "$name"' EXIT
  ip -n "$name" tuntap add dev try0 mode tap && ip -n "$name" link add br0 type bridge
)

need_rust() {
  command -v cargo >/dev/null 2>&1 || die "cargo is missing: install Rust (see rust-toolchain.toml for the version)"
  install cc gcc || die "a C compiler is missing: install gcc"
  need_libssh2
}

# plasma speaks SSH by Debian's libssh2; a library has no command, so pkg-config is asked
need_libssh2() {
  install pkg-config pkg-config || die "pkg-config is missing: install pkg-config"
  pkg-config --exists libssh2 openssl zlib && return
  apt_install libssh2-1-dev || true
  apt_install libssl-dev || true
  apt_install zlib1g-dev || true
  pkg-config --exists libssh2 openssl || die "libssh2 is missing: install libssh2-1-dev and libssl-dev"
}
