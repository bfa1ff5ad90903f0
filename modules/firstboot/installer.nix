# What firstboot's unit needs beyond the preset in an image that installs machines, and only there.
{
  CapabilityBoundingSet = {
    to = "CAP_SYS_TIME CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER CAP_FSETID CAP_SETFCAP CAP_SETUID CAP_SETGID CAP_MKNOD CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_RAWIO CAP_SYS_BOOT CAP_IPC_LOCK CAP_NET_ADMIN";
    because = "it mounts, partitions and formats, nixos-install builds the new root in a chroot with other users' files, cryptsetup locks keys in memory, and kexec loads the new kernel";
  };
  DevicePolicy = {
    to = "auto";
    because = "the disks of a new machine are not known beforehand";
  };
  LockPersonality = {
    to = false;
    because = "nix sets the personality of what it runs";
  };
  MemoryDenyWriteExecute = {
    to = false;
    because = "nixos-install runs programs of the new system, among them interpreters with a compiler";
  };
  NoNewPrivileges = {
    to = false;
    because = "nixos-install sets up programs with capabilities";
  };
  PrivateDevices = {
    to = false;
    because = "it works on disks";
  };
  PrivateMounts = {
    to = false;
    because = "what it mounts below /mnt is looked at by operators, and stays mounted for kexec";
  };
  PrivateTmp = {
    to = false;
    because = "nixos-install binds /tmp's folders into the chroot";
  };
  ProtectControlGroups = {
    to = false;
    because = "nixos-install binds /sys into the chroot";
  };
  ProtectKernelModules = {
    to = false;
    because = "the modules of md, dm-crypt and filesystems are loaded at need";
  };
  ProtectKernelTunables = {
    to = false;
    because = "nixos-install binds /proc and /sys into the chroot, writable";
  };
  ProtectSystem = {
    to = false;
    because = "/mnt and the profiles of the image are written to";
  };
  RestrictAddressFamilies = {
    to = [
      "AF_ALG"
      "AF_INET"
      "AF_INET6"
      "AF_NETLINK"
      "AF_UNIX"
    ];
    because = "cryptsetup asks the kernel for ciphers, and udev and ip speak netlink";
  };
  RestrictNamespaces = {
    to = false;
    because = "nixos-install makes a mount namespace for its chroot";
  };
  RestrictSUIDSGID = {
    to = false;
    because = "the new root has programs with these bits";
  };
  SystemCallFilter = {
    to = [
      "@system-service"
      "@clock"
      "@module"
      "@mount"
      "@privileged"
      "@reboot"
    ];
    because = "mounting, chroot, loading modules and kexec";
  };
  UMask = {
    to = "0022";
    because = "files of the new system are for all its users";
  };
}
