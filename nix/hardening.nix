# The one preset every unit starts from. A unit that needs more names it, with a reason:
#
#   harden { PrivateDevices = { to = false; because = "it partitions the disk"; }; }
#
# The reasons are in the unit itself: `systemctl cat` shows them as X-Loosened.
{ lib }:
let
  preset = {
    AmbientCapabilities = "";
    CapabilityBoundingSet = "";
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateMounts = true;
    PrivateTmp = true;
    PrivateUsers = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictAddressFamilies = [
      "AF_INET"
      "AF_INET6"
      "AF_UNIX"
    ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    UMask = "0077";
  };

  check =
    loosened:
    let
      unknown = builtins.filter (name: !(preset ? ${name})) (builtins.attrNames loosened);
      silent = builtins.filter (name: (loosened.${name}.because or "") == "") (
        builtins.attrNames loosened
      );
    in
    assert lib.assertMsg (
      unknown == [ ]
    ) "hardening: ${toString unknown} is not in the preset, so there is nothing to loosen";
    assert lib.assertMsg (silent == [ ]) "hardening: ${toString silent} is loosened without a reason";
    loosened;
in
{
  inherit preset;

  # A unit's two sections: merge the rest of the unit into them.
  harden = loosened: {
    serviceConfig = preset // builtins.mapAttrs (_: it: it.to) (check loosened);
    unitConfig = lib.optionalAttrs (loosened != { }) {
      X-Loosened = lib.mapAttrsToList (name: it: "${name}: ${it.because}") (check loosened);
    };
  };
}
