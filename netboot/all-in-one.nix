# A whole cloud on one machine, to try: base, and `plasma up` with one node as processes on a loopback address.
# It enrols itself, exactly as a machine would. Booted from the network it forgets all at power-off.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (import ../nix/text.nix { inherit lib; }) json;
  inherit (import ../nix/hardening.nix { inherit lib; }) harden;
  locked = harden {
    ProcSubset = {
      to = "all";
      because = "/proc/net says who holds a port that is taken, and /proc/stat when the machine booted";
    };
  };
  stateDir = "/var/lib/plasma";
in
{
  imports = [ ./base.nix ];

  environment.etc."plasma/cluster.json".text = json config.plasma.inventory;
  environment.systemPackages = [ pkgs.plasma ]; # plasma --dir /var/lib/plasma status

  users.users.plasma = {
    isSystemUser = true;
    group = "plasma";
  };
  users.groups.plasma = { };

  systemd.services.plasma = {
    description = "A whole cloud on this machine";
    wantedBy = [ "multi-user.target" ];
    # `plasma up` starts these, and ends them when it ends
    path = [
      pkgs.bootserver
      pkgs.chainfire
      pkgs.firstboot
    ];
    inherit (locked) unitConfig;
    serviceConfig = locked.serviceConfig // {
      Type = "exec";
      ExecStart = "${lib.getExe pkgs.plasma} --dir ${stateDir} up --nodes 1 --inventory /etc/plasma/cluster.json";
      User = "plasma";
      Group = "plasma";
      StateDirectory = baseNameOf stateDir;
      StateDirectoryMode = "0700";
      TimeoutStopSec = 60;
      Restart = "on-failure";
      RestartSec = 5;
    };
  };
}
