# docs/options.md, made from the modules' own options: every option, its type, its default, what it is for. Pure.
{ lib }:
let
  isOption = value: builtins.isAttrs value && value._type or "" == "option";
  line = text: lib.concatStringsSep " " (builtins.filter (l: l != "") (lib.splitString "\n" text));
  plain =
    value:
    value == null
    || builtins.isBool value
    || builtins.isInt value
    || builtins.isString value
    || (builtins.isList value && lib.all plain value)
    || (builtins.isAttrs value && !(value ? outPath) && lib.all plain (builtins.attrValues value));
  default =
    option:
    if option ? defaultText then
      "`${option.defaultText.text or option.defaultText}`"
    else if !(option ? default) then
      "must be set"
    else if plain option.default then
      "`${builtins.toJSON option.default}`"
    else
      "see the module";
  entry =
    path: option:
    lib.optional (!(option.internal or false)) {
      name = lib.concatStringsSep "." path;
      text = "| `${lib.concatStringsSep "." path}` | ${
        lib.replaceStrings [ "|" ] [ "\\|" ] (option.type.description or option.type.name)
      } | ${default option} | ${line (option.description or "")} |\n";
    }
    ++ walk (path ++ star option.type) (
      # `_` are the module system's own
      lib.filterAttrs (name: _: !(lib.hasPrefix "_" name)) (option.type.getSubOptions path)
    );
  # below a set of things of one kind, the name is free
  star = type: lib.optional (type.name == "attrsOf") "<name>";
  walk =
    path: options:
    lib.concatLists (
      lib.mapAttrsToList (
        name: value:
        if isOption value then
          entry (path ++ [ name ]) value
        else if builtins.isAttrs value then
          walk (path ++ [ name ]) value
        else
          [ ]
      ) options
    );
in
# `options` of an evaluated system, and the paths below which they are ours
options: paths:
''
  # Options

  Made from the modules by `tests/nix/run --update`, which also checks that it is current. What is not listed rides in
  a service's `settings`, and the service refuses keys that it does not know.
''
+ lib.concatMapStrings (
  path:
  ''

    ## ${lib.concatStringsSep "." path}

    | option | type | default | what |
    |---|---|---|---|
  ''
  + lib.concatMapStrings (it: it.text) (walk path (lib.attrByPath path { } options))
) paths
