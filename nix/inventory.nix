# The inventory (nodes/cluster.nix): defaults, checks, and what follows from it for one node. Pure.
#
# Its shape and its sentences are those of packages/inventory, which reads the JSON; a fault found here is
# found there in the same words (tests/nix compares them). The other way round is not promised: Rust also
# looks at what only a hostile file would hold.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatLists
    concatMap
    elem
    elemAt
    filter
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    match
    stringLength
    toJSON
    ;
  roles = [
    "control"
    "data"
    "compute"
  ];
  layouts = [
    "single"
    "mirror"
    "luks"
  ];
  ports = {
    client = 2379;
    peer = 2380;
    gossip = 2381; # UDP
    ops = 9379;
  };

  fault =
    code: what: hint:
    "INV-${toString code} ${what}, ${hint}";
  when = wrong: sentence: lib.optional wrong sentence;
  indexed = list: lib.imap0 (at: value: { inherit at value; }) list;

  # ---- defaults
  normalNode =
    node:
    {
      process = false;
      macs = [ ];
    }
    // lib.filterAttrs (_: value: value != null) node
    // lib.optionalAttrs (isList (node.macs or null)) { macs = map mac node.macs; }
    // lib.optionalAttrs (isList (node.roles or null)) {
      roles = filter (role: elem role node.roles) roles ++ filter (role: !(elem role roles)) node.roles;
    }
    // lib.optionalAttrs (isAttrs (node.disk or null)) {
      disk = {
        minGiB = 8;
        layout = "single";
        consentToErase = [ ];
      }
      // lib.filterAttrs (_: value: value != null) node.disk;
    };
  # a WWN without what different tools put before it
  bareWwn =
    wwn:
    builtins.foldl' (text: prefix: lib.removePrefix prefix text) (lib.toLower wwn) [
      "wwn-"
      "nvme-"
      "naa."
      "eui."
      "0x"
    ];
  mac = text: if isString text then lib.toLower (lib.replaceStrings [ "-" ] [ ":" ] text) else text;
  normal =
    raw:
    {
      operators = [ ];
    }
    // raw
    // lib.optionalAttrs (isAttrs (raw.nodes or null)) {
      nodes = builtins.mapAttrs (_: node: if isAttrs node then normalNode node else node) raw.nodes;
    };

  # ---- the shape: each check takes a path and a value and gives sentences
  kind =
    value:
    if value == null then
      "null"
    else if isBool value then
      "true or false"
    else if isString value then
      "a text"
    else if isList value then
      "a list"
    else if isAttrs value then
      "a table"
    else
      "a number";
  typed =
    ok: wants: next: path: value:
    if ok value then
      next path value
    else
      [ (fault 1004 "${path} is ${kind value}" "it must be ${wants}") ];
  text =
    code: good: what: hint:
    typed isString "a text" (
      path: value:
      when (!(good value)) (fault code "${path} is ${toJSON value}, which is no ${what}" hint)
    );
  number =
    min: max:
    typed (value: isInt value || builtins.isFloat value) "a whole number" (
      path: value:
      when (!(isInt value) || value < min || value > max) (
        fault 1014 "${path} is ${toJSON value}, outside ${toString min} to ${toString max}"
          "use a whole number from ${toString min} to ${toString max}"
      )
    );
  boolean = typed isBool "true or false" (_: _: [ ]);
  list =
    check:
    typed isList "a list" (
      path: values: concatMap (it: check "${path}[${toString it.at}]" it.value) (indexed values)
    );
  # keys: [ name check required ]
  table =
    keys:
    typed isAttrs "a table" (
      path: value:
      let
        at = key: if path == "" then key else "${path}.${key}";
        known = map (key: elemAt key 0) keys;
      in
      concatMap (
        key:
        when (!(elem key known)) (
          fault 1002 "unknown key ${toJSON (at key)}"
            "remove it; known here: ${lib.concatStringsSep ", " known}"
        )
      ) (attrNames value)
      ++ concatMap (
        key:
        let
          name = elemAt key 0;
        in
        if value.${name} or null != null then
          (elemAt key 1) (at name) value.${name}
        else
          when (elemAt key 2) (fault 1003 "${at name} is missing" "add it in nodes/cluster.nix")
      ) keys
    );

  isLabel = value: match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" value != null;
  isDomain = value: stringLength value <= 190 && lib.all isLabel (lib.splitString "." value);
  isIPv4 =
    value:
    let
      parts = match "([0-9]{1,3})\\.([0-9]{1,3})\\.([0-9]{1,3})\\.([0-9]{1,3})" value;
      byte = part: match "0|[1-9][0-9]{0,2}" part != null && lib.toInt part <= 255;
    in
    parts != null && lib.all byte parts && lib.toInt (elemAt parts 0) < 224 && value != "0.0.0.0";
  isIPv6 = value: match "[0-9a-fA-F:]*:[0-9a-fA-F:.]*" value != null && value != "::";
  isAddress = value: isIPv4 value || isIPv6 value;
  isMac =
    value:
    match "[0-9a-f][02468ace](:[0-9a-f]{2}){5}" (mac value) != null && mac value != "00:00:00:00:00:00";
  isSerial = value: match "[]!#-&(-[^-~]{1,128}" value != null;
  isSshKey =
    value:
    match "(ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)[^ ]* AAAA[A-Za-z0-9+/=]{36,}( [^\n]*)?" value != null;

  label = typed isString "a text" (
    path: value:
    when (!(isLabel value)) (
      fault 1005 "${path} is named ${toJSON value}, which is no DNS label"
        "use 1 to 63 of a-z, 0-9 and inner hyphens"
    )
  );
  address = text 1006 isAddress "host's address" "write an IPv4 or IPv6 address without a prefix";
  serial =
    text 1005 isSerial "serial number"
      "use 1 to 128 printable characters without blanks and quotes";
  # the text is not repeated: it may be somebody's private key
  sshKey = typed isString "a text" (
    path: value:
    when (!(isSshKey value)) (
      fault 1013 "${path} is no SSH public key" "paste the line of your id_ed25519.pub"
    )
  );
  role = text 1009 (value: elem value roles) "role" "use control, data or compute";
  cards = text 1007 isMac "card's MAC address" "write it as 52:54:00:20:00:11";
  key = name: check: [
    name
    check
    false
  ];
  must = name: check: [
    name
    check
    true
  ];

  node =
    path: value:
    let
      process = value.process or false == true;
    in
    (table [
      (must "roles" (
        path: value:
        list role path value
        ++ when (value == [ ]) (fault 1011 "${path} is empty" "give at least one of control, data, compute")
      ))
      (must "address" address)
      [
        "prefixLength"
        (number 1 (if isIPv4 (value.address or "0.0.0.1") then 32 else 128))
        (!process)
      ]
      [
        "macs"
        (list cards)
        (!process)
      ]
      (key "serial" serial)
      (key "disk" disk)
      (key "process" boolean)
    ])
      path
      value;
  diskMatch =
    path: value:
    table [ (key "serial" serial) (key "wwn" serial) ] path value
    ++ when (isAttrs value && value.serial or null == null && value.wwn or null == null) (
      fault 1012 "${path} identifies no disk"
        "give the disk's serial or wwn, as `lsblk -o NAME,SERIAL,WWN` shows it"
    );
  disk =
    path: value:
    (table [
      (must "match" diskMatch)
      (key "minGiB" (number 1 1048576))
      (key "maxGiB" (number 1 1048576))
      (key "layout" (text 1019 (value: elem value layouts) "disk layout" "use single, mirror or luks"))
      (key "mirror" diskMatch)
      (key "consentToErase" (list serial))
    ])
      path
      value;

  shape = table [
    (must "cluster" (table [
      (must "name" label)
      (must "domain" (text 1005 isDomain "DNS name" "use lower-case labels with dots between"))
      (must "former" label)
      (must "bootserver" (table [ (must "address" address) ]))
      (key "gateway" address)
      (key "dns" (list address))
    ]))
    (key "operators" (
      list (table [
        (must "name" label)
        (must "sshKeys" (list sshKey))
      ])
    ))
    (must "nodes" (
      typed isAttrs "a table of nodes by name" (
        path: nodes:
        when (nodes == { }) (fault 1011 "${path} is empty" "describe at least one node")
        ++ concatMap (name: label "${path}.${name}" name ++ node "${path}.${name}" nodes.${name}) (
          attrNames nodes
        )
      )
    ))
  ] "";

  # ---- what must hold between the parts; only asked of a good shape
  between =
    inventory:
    let
      inherit (inventory) cluster nodes operators;
      control = withRole inventory "control";
      former = nodes.${cluster.former} or null;
      formerHint =
        if control == [ ] then
          "give one node the role control and name it here"
        else
          "name a control node: ${lib.concatStringsSep ", " control}";
      of =
        name:
        let
          it = nodes.${name};
          path = "nodes.${name}";
        in
        when (it.process && it ? disk) (
          fault 1012 "${path}.disk is given, but the node is a process"
            "remove ${path}.disk, or set ${path}.process = false"
        )
        ++ when (!it.process && !(it ? disk)) (
          fault 1012 "${path}.disk is missing" "say on which disk to install, or set process = true"
        )
        ++ when (!it.process && it.macs == [ ]) (
          fault 1011 "${path}.macs is empty" "give the MAC address of the card that boots"
        )
        ++ when (lib.unique it.roles != it.roles) (
          fault 1008 "${path}.roles names a role twice" "name each role once"
        )
        ++ lib.optionals (it ? disk) (diskOf path it.disk);
      diskOf =
        path: disk:
        let
          serials = map (member: member.serial or null) (members disk);
        in
        when (disk.layout == "mirror" && !(disk ? mirror)) (
          fault 1012 "${path}.disk.mirror is missing, but the layout is a mirror"
            "say which the second disk is, as in match"
        )
        ++ when (disk.layout != "mirror" && disk ? mirror) (
          fault 1012 "${path}.disk.mirror is given, but the layout is ${disk.layout}"
            "remove it, or set ${path}.disk.layout = \"mirror\""
        )
        ++ when (disk ? maxGiB && disk.maxGiB < disk.minGiB) (
          fault 1014
            "${path}.disk.maxGiB is ${toString disk.maxGiB}, less than minGiB, which is ${toString disk.minGiB}"
            "no disk fits both; raise maxGiB or lower minGiB"
        )
        ++ lib.optionals (!(elem null serials)) (
          concatMap (
            consent:
            when (!(elem consent.value serials)) (
              fault 1012
                "${path}.disk.consentToErase[${toString consent.at}] is ${toJSON consent.value}, another disk than ${
                  lib.concatMapStringsSep " and " toJSON serials
                }"
                "name only the serial of the disk that is matched"
            )
          ) (indexed disk.consentToErase)
        );
      claim = kind: value: path: {
        inherit kind value path;
      };
      claims = [
        (claim "address" cluster.bootserver.address "cluster.bootserver.address")
      ]
      # the boot server may well be the router
      ++ lib.optional (cluster.gateway or cluster.bootserver.address != cluster.bootserver.address) (
        claim "address" cluster.gateway "cluster.gateway"
      )
      ++ map (it: claim "operator" it.value.name "operators[${toString it.at}].name") (indexed operators)
      ++ concatMap (
        name:
        let
          it = nodes.${name};
          path = "nodes.${name}";
          maybe =
            kind: value: path:
            lib.optional (value != null) (claim kind value path);
        in
        [ (claim "address" it.address "${path}.address") ]
        ++ map (card: claim "MAC address" card.value "${path}.macs[${toString card.at}]") (indexed it.macs)
        ++ maybe "serial" (it.serial or null) "${path}.serial"
        ++
          concatMap
            (
              which:
              let
                wwn = it.disk.${which}.wwn or null;
                bare = if wwn == null then null else bareWwn wwn;
              in
              maybe "disk serial" (it.disk.${which}.serial or null) "${path}.disk.${which}.serial"
              # spellings of one name are one disk
              ++ maybe "disk wwn" bare "${path}.disk.${which}.wwn"
            )
            [
              "match"
              "mirror"
            ]
      ) (attrNames nodes);
      twice = concatLists (
        lib.mapAttrsToList (
          _: same:
          map (
            it:
            fault 1008 "${it.path} is ${toJSON it.value}, the same ${it.kind} as ${(builtins.head same).path}"
              "give each its own"
          ) (builtins.tail same)
        ) (builtins.groupBy (it: "${it.kind} ${it.value}") claims)
      );
    in
    when (former == null) (
      fault 1010 "cluster.former is ${toJSON cluster.former}, which is none of the nodes" formerHint
    )
    ++ when (former != null && !(elem "control" former.roles)) (
      fault 1010 "cluster.former is ${toJSON cluster.former}, which has not the role control" formerHint
    )
    ++ concatMap of (attrNames nodes)
    ++ twice;

  # the disks that are meant, the one that boots first
  members = disk: [ disk.match ] ++ lib.optional (disk ? mirror) disk.mirror;
  withRole =
    inventory: wanted:
    filter (name: elem wanted inventory.nodes.${name}.roles) (attrNames inventory.nodes);
  socket = host: port: "${if isIPv4 host then host else "[${host}]"}:${toString port}";
  url = host: port: "https://${socket host port}";
in
rec {
  inherit
    ports
    withRole
    url
    members
    bareWwn
    ;

  # Every fault of an inventory as a sentence; none when it is good.
  faults =
    raw:
    let
      wrong = shape raw;
    in
    if wrong != [ ] then wrong else between (normal raw);

  # What is allowed but seldom meant.
  warnings =
    inventory:
    let
      voters = length (withRole inventory "control");
      machines = filter (name: !inventory.nodes.${name}.process) (attrNames inventory.nodes);
    in
    when (voters > 0 && lib.mod voters 2 == 0) (
      fault 2001
        "${toString voters} control nodes vote, which survives ${toString (voters / 2 - 1)} failed, as ${toString (voters - 1)} would"
        "use ${toString (voters - 1)} or ${toString (voters + 1)}"
    )
    ++ when (machines != [ ] && sshKeys inventory == [ ]) (
      fault 2003 "no operator has an SSH key, so nobody can log in to a node"
        "add the line of your id_ed25519.pub to operators in nodes/cluster.nix"
    );

  # The inventory with its defaults, or all its faults at once.
  checked =
    raw:
    let
      wrong = faults raw;
    in
    if wrong == [ ] then
      normal raw
    else
      throw "the inventory is wrong:\n${lib.concatStringsSep "\n" wrong}";

  sshKeys = inventory: concatMap (operator: operator.sshKeys) inventory.operators;
  bootserverUrl = inventory: url inventory.cluster.bootserver.address 8443;
  fqdn = inventory: name: "${name}.${inventory.cluster.domain}";

  # address -> [ full name, short name ] of every node, for /etc/hosts
  hosts =
    inventory:
    listToAttrs (
      map (
        name:
        lib.nameValuePair inventory.nodes.${name}.address [
          (fqdn inventory name)
          name
        ]
      ) (attrNames inventory.nodes)
    );

  # What of Chainfire's settings the inventory decides. The cluster's id, and whether the node forms or joins,
  # is the boot server's to say: firstboot hands it to the unit as environment.
  chainfire =
    inventory: name:
    let
      here = inventory.nodes.${name}.address;
      listener = port: {
        advertise = url here port;
        listen = socket here port;
      };
    in
    {
      inherit name;
      join = map (other: url inventory.nodes.${other}.address ports.peer) (
        filter (other: other != name) (withRole inventory "control")
      );
      client = listener ports.client;
      peer = listener ports.peer;
      gossip = {
        listen = socket here ports.gossip;
        inherit (inventory.nodes.${name}) roles;
      };
      ops.listen = socket here ports.ops;
    };
}
