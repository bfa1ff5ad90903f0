# The module system, small. Options that nobody declares are accepted and merged, since NixOS' own are not
# here; except below the names in `strict`, which are ours and must all be declared.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    foldl'
    functionArgs
    isAttrs
    isFunction
    isPath
    isString
    mapAttrs
    removeAttrs
    ;
  strict = [
    "plasma"
    "services.bootserver"
    "services.chainfire"
    "services.firstboot"
  ];

  show = lib.concatStringsSep ".";
  is = kind: value: isAttrs value && value._type or "" == kind;

  # A definition is a value and its priority; the lowest priority wins.
  define = value: {
    inherit value;
    priority = 100;
  };
  within = definition: value: {
    inherit value;
    inherit (definition) priority;
  };
  best =
    defs:
    let
      lowest = foldl' (low: d: if d.priority < low then d.priority else low) 9999 defs;
    in
    filter (d: d.priority == lowest) defs;

  # mkIf, mkMerge and mkOverride at a leaf: which plain definitions are there?
  resolved =
    d:
    if is "if" d.value then
      (if d.value.condition then resolved (within d d.value.content) else [ ])
    else if is "merge" d.value then
      concatMap (v: resolved (within d v)) d.value.contents
    else if is "override" d.value then
      resolved {
        value = d.value.content;
        inherit (d.value) priority;
      }
    else
      [ d ];

  # The same in a set: pushed one level down, so that which names there are never depends on a condition.
  push =
    d:
    if is "if" d.value then
      map (
        x:
        within x (
          mapAttrs (_: content: {
            _type = "if";
            inherit (d.value) condition;
            inherit content;
          }) x.value
        )
      ) (push (within d d.value.content))
    else if is "merge" d.value then
      concatMap (v: push (within d v)) d.value.contents
    else if is "override" d.value then
      push {
        value = d.value.content;
        inherit (d.value) priority;
      }
    else
      [ d ];
  pushed =
    defs:
    builtins.zipAttrsWith (_: all: all) (map (d: mapAttrs (_: within d) d.value) (concatMap push defs));

  checked =
    path: type: value:
    if type.check value then
      value
    else
      throw "A definition for option `${show path}' is not of type `${type.name}': ${builtins.typeOf value}.";
  merged =
    path: type: defs:
    type.merge path (map (d: checked path type d.value) (best (concatMap resolved defs)));

  evalAt =
    path: special: modules:
    let
      given = special // {
        inherit lib config options;
      };
      call =
        f:
        f (
          given
          // mapAttrs (name: _: given.${name} or config._module.args.${name}) (
            lib.filterAttrs (name: optional: !optional || given ? ${name}) (functionArgs f)
          )
        );
      normal =
        m:
        if isPath m || isString m then
          normal (import (if builtins.pathExists (m + "/default.nix") then m + "/default.nix" else m))
        else if isFunction m then
          normal (call m)
        else if m ? config || m ? options || m ? freeformType then
          {
            imports = m.imports or [ ];
            options = m.options or { };
            config = m.config or { };
            free = m.freeformType or null;
          }
        else
          {
            imports = m.imports or [ ];
            options = { };
            config = removeAttrs m [ "imports" ];
            free = null;
          };
      # like NixOS, a file that several modules import counts once
      collect =
        state: m:
        let
          key = if isPath m || isString m then builtins.unsafeDiscardStringContext (toString m) else null;
          n = normal m;
        in
        if key != null && state.seen ? ${key} then
          state
        else
          foldl' collect {
            seen = state.seen // lib.optionalAttrs (key != null) { ${key} = true; };
            mods = state.mods ++ [ n ];
          } n.imports;
      mods =
        (foldl' collect {
          seen = { };
          mods = [ ];
        } modules).mods;
      free = foldl' (found: m: if m.free == null then found else m.free) null mods;
      join = foldl' (
        a: b:
        a
        // mapAttrs (
          name: v:
          if a ? ${name} && !(is "option" v) && !(is "option" a.${name}) then
            join [
              a.${name}
              v
            ]
          else
            v
        ) b
      ) { };
      options = join (map (m: m.options) mods);
      ours = at: lib.any (s: s == show at || lib.hasPrefix "${s}." (show at)) strict;
      walk =
        below: options: defs:
        let
          at = name: path ++ below ++ [ name ];
          sets = pushed defs;
          extra = removeAttrs sets (attrNames options);
          unknown = filter (name: free == null && (path != [ ] || ours (at name))) (attrNames extra);
          leaf =
            name: type: defs:
            if concatMap resolved defs == [ ] then
              throw "The option `${show (at name)}' was accessed but has no value defined."
            else
              merged (at name) type defs;
          default =
            o:
            lib.optional (o ? default) {
              value = o.default;
              priority = 1500;
            };
        in
        if unknown != [ ] then
          throw "The option `${show (at (builtins.head unknown))}' does not exist."
        else
          mapAttrs (
            name: o:
            if is "option" o then
              (o.apply or (v: v)) (leaf name (o.type or lib.types.anything) ((sets.${name} or [ ]) ++ default o))
            else
              walk (below ++ [ name ]) o (sets.${name} or [ ])
          ) options
          // (
            # at the top, which options are defined must not depend on what they are
            if path == [ ] then
              mapAttrs (
                name: defs: if concatMap resolved defs == [ ] then { } else leaf name lib.types.anything defs
              ) extra
            else
              mapAttrs (name: leaf name lib.types.anything) (
                lib.filterAttrs (_: defs: concatMap resolved defs != [ ]) extra
              )
          );
      config = walk [ ] options (map (m: define m.config) mods);
    in
    {
      inherit config options;
    };
in
{
  inherit
    best
    define
    evalAt
    merged
    pushed
    resolved
    show
    ;
  evalModules =
    {
      modules,
      specialArgs ? { },
    }:
    evalAt [ ] specialArgs modules;
}
