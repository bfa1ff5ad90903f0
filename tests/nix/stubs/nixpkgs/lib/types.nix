# Types of options. A type has a name, a check of one value, and a merge of all definitions' values.
{ lib }:
let
  inherit (builtins)
    all
    concatMap
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    mapAttrs
    ;
  modules = import ./modules.nix { inherit lib; };
  inherit (modules)
    define
    best
    pushed
    resolved
    show
    ;

  # as nixpkgs describes its types, so that a page of options reads the same from both
  type = name: check: merge: {
    inherit name check merge;
    description = name;
    getSubOptions = _: { };
  };
  same =
    path: values:
    # alone first: functions compare to nothing, not even themselves
    if length values == 1 || all (v: v == head values) values then
      head values
    else
      throw "The option `${show path}' has conflicting definition values.";
  simple = name: check: type name check same;

  isDerivation = value: isAttrs value && value.type or "" == "derivation";
  isPlain = value: isAttrs value && !(value ? _type) && !isDerivation value && !(value ? outPath);

  # sets key by key, lists end to end, anything else must agree
  deep =
    path: values:
    if length values == 1 && !(isPlain (head values)) then
      head values
    else if all isPlain values then
      mapAttrs (name: defs: deep (path ++ [ name ]) (map (d: d.value) (best defs))) (
        lib.filterAttrs (_: defs: defs != [ ]) (
          mapAttrs (_: concatMap resolved) (pushed (map define values))
        )
      )
    else if all isList values then
      builtins.concatLists values
    else
      same path values;

  types = rec {
    bool = simple "boolean" isBool;
    str = simple "string" isString;
    int = simple "signed integer" isInt;
    path = simple "absolute path" (
      v: isPath v || isDerivation v || (isString v && lib.hasPrefix "/" v)
    );
    package = simple "package" (v: isDerivation v || v ? outPath);
    raw = simple "raw value" (_: true);
    lines = type "strings concatenated with \"\\n\"" isString (_: lib.concatStringsSep "\n");
    anything = type "anything" (_: true) deep;
    attrs = type "attribute set" isAttrs deep;
    ints.between =
      low: high:
      simple "integer between ${toString low} and ${toString high} (both inclusive)" (
        v: isInt v && v >= low && v <= high
      );
    port = ints.between 0 65535;
    enum = values: simple "one of ${builtins.toJSON values}" (v: builtins.elem v values);
    strMatching =
      pattern:
      simple "string matching the pattern ${pattern}" (v: isString v && builtins.match pattern v != null);
    nullOr =
      inner:
      type "null or ${inner.name}" (v: v == null || inner.check v) (
        path: values:
        if all (v: v == null) values then null else inner.merge path (builtins.filter (v: v != null) values)
      );
    listOf =
      inner:
      type "list of ${inner.name}" isList (
        path: values:
        map (v: modules.merged (path ++ [ "*" ]) inner [ (define v) ]) (
          concatMap (concatMap (v: map (d: d.value) (resolved (define v)))) values
        )
      );
    attrsOf =
      inner:
      type "attribute set of ${inner.name}" (v: isAttrs v && !isDerivation v) (
        path: values:
        mapAttrs (name: modules.merged (path ++ [ name ]) inner) (
          lib.filterAttrs (_: defs: concatMap resolved defs != [ ]) (pushed (map define values))
        )
      )
      // {
        name = "attrsOf";
        inherit (inner) getSubOptions;
      };
    submodule =
      module:
      type "submodule" (v: isAttrs v || isFunction v || isPath v) (
        path: values: (modules.evalAt path { name = lib.last path; } (lib.toList module ++ values)).config
      )
      // {
        getSubOptions = path: (modules.evalAt path { name = "<name>"; } (lib.toList module)).options;
      };
  };
in
types
