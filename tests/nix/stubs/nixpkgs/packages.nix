# Stand-ins for packages: derivations that evaluate, with the names that our files ask for.
{ lib, system }:
let
  derive =
    name: more:
    derivation (
      {
        inherit name system;
        builder = "/bin/sh";
      }
      // more
    );
  package =
    name:
    derive name { }
    // {
      pname = name;
      meta.mainProgram = name;
    };
  base = {
    inherit lib system;
    formats.toml = _: { type = lib.types.anything; };
    writeText = name: text: derive name { inherit text; };
    linkFarm =
      name: entries:
      derive name {
        names = builtins.attrNames entries;
        paths = builtins.attrValues entries;
      };
    runCommand =
      name: env: text:
      derive name ({ inherit text; } // env);
    mkShell = { packages }: derive "shell" { inherit packages; };
    writeShellApplication =
      {
        name,
        runtimeInputs ? [ ],
        text,
      }:
      derive name { inherit runtimeInputs text; }
      // {
        meta.mainProgram = name;
      };
  }
  // lib.genAttrs [
    "cargo"
    "cargo-nextest"
    "clippy"
    "coreutils"
    "cryptsetup"
    "curl"
    "deadnix"
    "dmidecode"
    "dnsmasq"
    "dosfstools"
    "e2fsprogs"
    "efibootmgr"
    "etcd"
    "ethtool"
    "gnugrep"
    "gptfdisk"
    "iproute2"
    "ipxe"
    "jq"
    "kexec-tools"
    "libssh2"
    "lvm2"
    "mdadm"
    "nix"
    "nixfmt"
    "nixfmt-tree"
    "nixos-install-tools"
    "nvme-cli"
    "openssl"
    "parted"
    "pciutils"
    "pkg-config"
    "rsync"
    "rust-analyzer"
    "rustc"
    "rustfmt"
    "smartmontools"
    "systemd"
    "tcpdump"
    "util-linux"
    "xfsprogs"
  ] package;

  extended =
    before: overlay:
    let
      after =
        before
        // overlay after before
        // {
          extend = extended after;
          testers.runNixOSTest = import ./vm.nix { inherit derive lib; } after;
        };
    in
    after;
in
extended base (_: _: { })
