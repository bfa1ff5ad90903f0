# A whole cloud on one machine, to try: base, the boot server, and one node with all roles on a loopback
# address. It enrols itself; what is written is gone after a boot from the network, and stays on a disk.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  rules = import ../nix/inventory.nix { inherit lib; };
  node = "node01";
  inventory = rules.checked {
    cluster = config.plasma.inventory.cluster // {
      former = node;
      bootserver.address = "127.0.0.1";
    };
    inherit (config.plasma.inventory) operators;
    nodes.${node} = {
      roles = [
        "control"
        "data"
        "compute"
      ];
      address = "127.0.1.1";
      prefixLength = 8;
      process = true; # nothing is installed, no disk is touched
    };
  };
  store = config.services.bootserver.dataDir;
  secrets = "/run/plasma-all-in-one";
in
{
  imports = [
    ./base.nix
    ../modules/bootserver
    ../modules/chainfire
    ../modules/firstboot
  ];

  services.bootserver = {
    enable = true;
    inherit inventory;
    settings.listen = "127.0.0.1:8443";
  };
  services.chainfire = {
    enable = true;
    settings = rules.chainfire inventory node;
  };
  services.firstboot = {
    enable = true;
    joinTokenFile = "${secrets}/join-token";
    caFile = lib.mkForce "${secrets}/ca.pem";
    settings = {
      inherit node;
      bootserver = rules.bootserverUrl inventory;
    };
  };

  # The operator's part, done by the machine itself: it hands its one node the CA and a join token.
  systemd.services.all-in-one-token = {
    description = "A join token for the one node";
    requires = [ "bootserver.service" ];
    after = [ "bootserver.service" ];
    before = [ "firstboot.service" ];
    requiredBy = [ "firstboot.service" ];
    path = [ config.services.bootserver.package ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      RuntimeDirectory = baseNameOf secrets;
      RuntimeDirectoryMode = "0700";
      UMask = "0077";
      Restart = "on-failure"; # until the boot server answers
      RestartSec = 1;
    };
    script = ''
      install -m 0644 ${store}/server/ca.pem ${secrets}/ca.pem
      bootserver token new ${node} >${secrets}/join-token
    '';
  };
  environment.systemPackages = [ pkgs.plasma ];
}
