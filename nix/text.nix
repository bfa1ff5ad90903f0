# Values as text, at evaluation: so that a test can read what a node gets, and that equal values are equal
# bytes here and in Rust (packages/inventory writes the same Chainfire settings).
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    isAttrs
    isList
    toJSON
    ;
  bare = key: builtins.match "[A-Za-z0-9_-]+" key != null;
  name = key: if bare key then key else toJSON key;
  # a path would be copied to the store by toJSON; a secret must never be
  scalar = value: if builtins.isPath value then toString value else value;
  # JSON's strings, numbers and booleans are TOML's too; lists and inline tables are written here
  inline =
    value:
    if isList value then
      "[${lib.concatMapStringsSep ", " inline value}]"
    else if isAttrs value && !(value ? outPath) then
      "{ ${lib.concatMapStringsSep ", " (key: "${name key} = ${inline value.${key}}") (keys value)} }"
    else
      toJSON (scalar value);
  keys = table: filter (key: table.${key} != null) (attrNames table);
  isTable = value: isAttrs value && !(value ? outPath);

  lines =
    path: table:
    let
      values = filter (key: !(isTable table.${key})) (keys table);
      tables = filter (key: isTable table.${key}) (keys table);
      sub =
        key:
        let
          body = lines (path ++ [ key ]) table.${key};
          heading = "[${lib.concatMapStringsSep "." name (path ++ [ key ])}]";
          # a table that holds nothing but tables needs no heading of its own
          needed = body == [ ] || filter (k: !(isTable table.${key}.${k})) (keys table.${key}) != [ ];
        in
        (
          if needed then
            [
              ""
              heading
            ]
          else
            [ ]
        )
        ++ body;
    in
    map (key: "${name key} = ${inline table.${key}}") values ++ concatMap sub tables;
in
{
  # TOML with sorted keys; a key whose value is null is left out.
  toml = table: lib.concatMapStrings (line: line + "\n") (lines [ ] table);

  # JSON with sorted keys, two blanks of indentation, as serde_json's pretty printer writes it.
  json =
    let
      render =
        pad: value:
        let
          inner = pad + "  ";
          block =
            open: close: items:
            if items == [ ] then
              open + close
            else
              "${open}\n${lib.concatMapStringsSep ",\n" (item: inner + item) items}\n${pad}${close}";
        in
        if isList value then
          block "[" "]" (map (render inner) value)
        else if isTable value then
          block "{" "}" (map (key: "${toJSON key}: ${render inner value.${key}}") (attrNames value))
        else
          toJSON (scalar value);
    in
    value: render "" value + "\n";
}
