# What every machine is, node or image: it lets operators in by key and nobody by password, and has nothing else
# to attack. See README.md.
{ lib, pkgs, ... }:
let
  inherit (lib) mkDefault;
in
{
  imports = [ ./access.nix ];

  # enough to find the disk and the card of any server, and of a VM
  hardware.enableRedistributableFirmware = mkDefault true;
  boot.initrd.availableKernelModules = [
    "ahci"
    "nvme"
    "sd_mod"
    "virtio_blk"
    "virtio_net"
    "virtio_pci"
    "virtio_scsi"
    "xhci_pci"
  ];
  boot.kernelParams = [
    "console=tty0"
    "console=ttyS0,115200"
  ];

  # one init in both stages, so that what stage one learns (the CA's certificate, devices) is handed on
  boot.initrd.systemd.enable = mkDefault true;
  # a shell on the console would need no password
  systemd.enableEmergencyMode = false;
  boot.initrd.systemd.emergencyAccess = mkDefault false;
  # nobody can log in on a console, so it shows what the agent writes and asks for nothing
  systemd.services = {
    "autovt@".enable = false;
    "getty@".enable = false;
    "serial-getty@".enable = false;
  };

  boot.kernel.sysctl = {
    "kernel.core_pattern" = "|/bin/false";
    "fs.protected_fifos" = mkDefault 2;
    "fs.protected_regular" = mkDefault 2;
    "fs.suid_dumpable" = mkDefault 0;
    "kernel.dmesg_restrict" = mkDefault 1;
    "kernel.kptr_restrict" = mkDefault 2;
    "kernel.unprivileged_bpf_disabled" = mkDefault 1;
    "kernel.yama.ptrace_scope" = mkDefault 1;
    "net.core.bpf_jit_harden" = mkDefault 2;
    "net.ipv4.conf.all.accept_redirects" = mkDefault 0;
    "net.ipv4.conf.all.send_redirects" = mkDefault 0;
    "net.ipv6.conf.all.accept_redirects" = mkDefault 0;
  };
  security.sudo.enable = mkDefault false; # operators log in as root, by key
  systemd.coredump.enable = false; # keys are in the memory of services

  networking = {
    useNetworkd = true;
    firewall.enable = mkDefault true;
  };
  services.timesyncd.enable = mkDefault true;

  environment.systemPackages = [ pkgs.etcd ]; # etcdctl
  environment.defaultPackages = mkDefault [ ];
  documentation.enable = mkDefault false;
  nix.settings.allowed-users = mkDefault [ "root" ];
}
