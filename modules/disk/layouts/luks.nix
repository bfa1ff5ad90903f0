# One disk, encrypted but for what boots. The passphrase comes as a credential when the disk is formatted; where the
# machine has a TPM that is a second way in, so that it boots unattended. The passphrase stays the way back.
{
  cfg,
  disk,
  lib,
  members,
  pkgs,
  root,
  ...
}:
let
  name = "plasma";
in
{
  devices.disk.main = disk (builtins.head members) "/boot" {
    type = "luks";
    inherit name;
    passwordFile = cfg.keyFile;
    settings = {
      allowDiscards = true;
      crypttabExtraOpts = [ "tpm2-device=auto" ];
    };
    preCreateHook = ''
      if ! [ -s ${cfg.keyFile} ]; then
        echo "plasma: ${cfg.keyFile} is missing; give firstboot the credential plasma.disk-key" >&2
        exit 1
      fi
    '';
    postCreateHook = ''
      if [ -e /dev/tpmrm0 ] && ! cryptsetup luksDump "$device" | ${lib.getExe pkgs.gnugrep} -q systemd-tpm2; then
        set +x # disko's scripts say what they do; the passphrase is not for the log
        # without the newline at the end, as it was formatted
        PASSWORD=$(cat ${cfg.keyFile}) ${lib.getExe' pkgs.systemd "systemd-cryptenroll"} --tpm2-device=auto "$device"
        set -x
      fi
    '';
    content = root;
  };
}
