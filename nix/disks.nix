# Disks of the inventory as Nix needs them: their names, udev's rules for these, and the guard's arguments. Pure.
{ lib }:
let
  inventory = import ./inventory.nix { inherit lib; };
  folder = "/dev/disk/by-plasma";
  # udev's patterns: what would mean something there stands for any one character; the guard compares exactly
  pattern =
    lib.replaceStrings
      [
        "*"
        "?"
        "["
        "]"
        "|"
      ]
      [
        "?"
        "?"
        "?"
        "?"
        "?"
      ];
  conditions =
    keys: values:
    if values == [ ] then
      [ "" ]
    else
      map (key: ''ENV{${key}}=="${lib.concatMapStringsSep "|" pattern values}", '') keys;
  # where udev says what `lsblk -o SERIAL,WWN` shows
  serial = conditions [
    "ID_SCSI_SERIAL"
    "ID_SERIAL_SHORT"
    "ID_SERIAL"
  ];
  wwn = conditions [
    "ID_WWN_WITH_EXTENSION"
    "ID_WWN"
  ];
  # udev says a WWN as the disk's kind has it, whatever tool the inventory's was read with
  spellings =
    match:
    let
      bare = inventory.bareWwn match.wwn;
    in
    lib.optionals (match.wwn or null != null) (
      lib.unique [
        match.wwn
        "0x${bare}"
        "eui.${bare}"
        "naa.${bare}"
        bare
      ]
    );
in
rec {
  # The disks of a node, the one that boots first: a name for each and what identifies it.
  of =
    name: node:
    lib.imap0 (at: match: {
      inherit match;
      name = if at == 0 then name else "${name}-mirror";
    }) (inventory.members node.disk);

  # A name that holds for one disk, whatever it is called today.
  device = disk: "${folder}/${disk.name}";
  partition = disk: number: "${device disk}-part${toString number}";

  # udev's rules that make those names for the disks of these nodes.
  rules =
    nodes:
    let
      disks = lib.concatLists (
        lib.mapAttrsToList (name: node: lib.optionals (node ? disk) (of name node)) nodes
      );
      named =
        disk:
        let
          serials = serial (lib.optional (disk.match.serial or null != null) disk.match.serial);
          wwns = wwn (spellings disk.match);
        in
        lib.concatMap (a: map (b: ''${a}${b}ENV{PLASMA_DISK}="${disk.name}"'') wwns) serials;
    in
    lib.concatMapStrings (line: line + "\n") (
      [ ''SUBSYSTEM!="block", GOTO="plasma_end"'' ]
      ++ lib.concatMap named disks
      ++ [
        ''ENV{PLASMA_DISK}=="?*", ENV{DEVTYPE}=="disk", SYMLINK+="disk/by-plasma/$env{PLASMA_DISK}"''
        ''ENV{PLASMA_DISK}=="?*", ENV{DEVTYPE}=="partition", SYMLINK+="disk/by-plasma/$env{PLASMA_DISK}-part%n"''
        ''LABEL="plasma_end"''
      ]
    );

  # The arguments of modules/disk/guard.sh for one disk.
  guard = name: node: disk: [
    name
    (disk.match.serial or "")
    (disk.match.wwn or "")
    (toString node.disk.minGiB)
    (toString (node.disk.maxGiB or 0))
  ];
}
