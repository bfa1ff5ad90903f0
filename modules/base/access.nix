# Who may log in: the inventory's operators, by SSH key, and nobody by password.
{ config, lib, ... }:
let
  inventory = import ../../nix/inventory.nix { inherit lib; };
in
{
  imports = [ ./inventory.nix ];

  services.openssh = {
    enable = true;
    settings = {
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
      PermitRootLogin = "prohibit-password";
    };
  };
  users = {
    # a password set by hand lasts until the next boot, and none is set here
    mutableUsers = false;
    users.root = {
      hashedPassword = "!";
      openssh.authorizedKeys.keys = inventory.sshKeys config.plasma.inventory;
    };
    # no password and perhaps no key yet: NixOS would refuse, and the inventory's warning says it better
    allowNoPasswordLogin = true;
  };
}
