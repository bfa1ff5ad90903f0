# The cluster: the one file an operator edits. Every node's services, names, firewall and disk follow from it,
# and so does nodes/cluster.json, which all that is not Nix reads (tests/nix/run --update writes it anew).
# No secrets here: this file is public to every node.
{
  cluster = {
    name = "plasma"; # the trust domain of all identities; never changed later
    domain = "plasma.internal"; # node01.plasma.internal
    former = "node01"; # the one node that may form the cluster; all others join
    bootserver.address = "10.20.0.1";
  };

  # Who may log in to the nodes: the lines of their id_ed25519.pub. Passwords work nowhere.
  operators = [
    {
      name = "admin";
      sshKeys = [ ];
    }
  ];

  nodes = {
    node01 = {
      roles = [
        "control" # votes in Chainfire and runs the control planes
        "data" # stores data
        "compute" # runs workloads
      ];
      address = "10.20.0.11";
      prefixLength = 24;
      macs = [ "52:54:00:20:00:11" ]; # the card that boots comes first
      serial = "PLASMA-NODE01"; # of the machine, as `dmidecode -s system-serial-number` shows it
      disk.match.serial = "PLASMA-DISK01"; # as `lsblk -o NAME,SERIAL,WWN` shows it
    };
    node02 = {
      roles = [
        "control"
        "data"
        "compute"
      ];
      address = "10.20.0.12";
      prefixLength = 24;
      macs = [ "52:54:00:20:00:12" ];
      serial = "PLASMA-NODE02";
      disk.match.serial = "PLASMA-DISK02";
    };
    node03 = {
      roles = [
        "control"
        "data"
        "compute"
      ];
      address = "10.20.0.13";
      prefixLength = 24;
      macs = [ "52:54:00:20:00:13" ];
      serial = "PLASMA-NODE03";
      disk.match.serial = "PLASMA-DISK03";
    };
  };
}
