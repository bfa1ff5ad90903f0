# A stand-in for nixpkgs.lib in builtins only: what our own files use of it, and no more. A function that is
# missing here fails the tests at once; add it, with nixpkgs' meaning.
let
  inherit (builtins)
    attrNames
    concatLists
    concatStringsSep
    elemAt
    filter
    head
    isAttrs
    isList
    isString
    length
    listToAttrs
    map
    removeAttrs
    replaceStrings
    stringLength
    substring
    tail
    ;
  tag = kind: content: content // { _type = kind; };
  letters = "abcdefghijklmnopqrstuvwxyz";
  characters = text: filter (c: c != "" && isString c) (builtins.split "" text);

  lib = rec {
    inherit (builtins)
      all
      any
      attrNames
      attrValues
      concatLists
      concatMap
      concatStringsSep
      elem
      elemAt
      filter
      foldl'
      fromJSON
      groupBy
      hasAttr
      head
      isAttrs
      isBool
      isFunction
      isInt
      isList
      isString
      length
      listToAttrs
      mapAttrs
      match
      removeAttrs
      replaceStrings
      substring
      tail
      toJSON
      ;
    version = "26.05.stub";

    # lists and sets
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: list: if condition then list else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    last = list: elemAt list (length list - 1);
    toList = value: if isList value then value else [ value ];
    unique = builtins.foldl' (seen: v: if builtins.elem v seen then seen else seen ++ [ v ]) [ ];
    imap0 = f: list: builtins.genList (n: f n (elemAt list n)) (length list);
    mod = a: b: a - b * (a / b);
    nameValuePair = name: value: { inherit name value; };
    filterAttrs = keep: set: removeAttrs set (filter (name: !keep name set.${name}) (attrNames set));
    genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
    mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    concatMapAttrs = f: set: builtins.foldl' (a: b: a // b) { } (mapAttrsToList f set);
    attrByPath =
      path: fallback: set:
      if path == [ ] then
        set
      else if set ? ${head path} then
        attrByPath (tail path) fallback set.${head path}
      else
        fallback;
    recursiveUpdate =
      a: b:
      a
      // builtins.mapAttrs (
        n: v: if isAttrs v && isAttrs (a.${n} or null) then recursiveUpdate a.${n} v else v
      ) b;

    # text
    optionalString = condition: text: if condition then text else "";
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix =
      suffix: text:
      let
        from = stringLength text - stringLength suffix;
      in
      from >= 0 && substring from (-1) text == suffix;
    hasInfix = part: text: replaceStrings [ part ] [ "" ] text != text;
    removePrefix =
      prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
    splitString =
      sep: text: filter isString (builtins.split (replaceStrings [ "." ] [ "\\." ] sep) text);
    concatMapStringsSep =
      sep: f: list:
      concatStringsSep sep (map f list);
    concatMapStrings = f: list: concatStringsSep "" (map f list);
    toUpper = replaceStrings (characters letters) (characters "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    toLower = replaceStrings (characters "ABCDEFGHIJKLMNOPQRSTUVWXYZ") (characters letters);
    toInt = text: builtins.fromJSON (head (builtins.match "0*([0-9]+)" text));
    escapeShellArgs = concatMapStringsSep " " escapeShellArg;
    # like nixpkgs', which leaves alone what no shell looks into
    escapeShellArg =
      text:
      if builtins.match "[[:alnum:],._+:@%/-]+" (toString text) != null then
        toString text
      else
        "'${replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";
    assertMsg = condition: message: condition || throw message;

    # packages and files
    getExe = package: "${package}/bin/${package.meta.mainProgram or package.pname or package.name}";
    getExe' = package: name: "${package}/bin/${name}";
    licenses.asl20.spdxId = "Apache-2.0";
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    # a set of files is a list of paths here: enough to notice one that isn't there
    fileset = {
      unions = map (
        path: if builtins.pathExists path then path else throw "fileset: ${toString path} does not exist"
      );
      fileFilter = _keep: path: [ path ];
      toSource =
        { root, fileset }:
        builtins.seq (length fileset) (
          builtins.seq (builtins.deepSeq fileset null) "${./.}/source-of-${baseNameOf root}"
        );
    };

    # options and modules
    types = import ./types.nix { inherit lib; };
    inherit (import ./modules.nix { inherit lib; }) evalModules;
    mkOption = tag "option";
    literalExpression = text: tag "literalExpression" { inherit text; };
    mkEnableOption =
      what:
      mkOption {
        description = "Whether to enable ${what}.";
        type = types.bool;
        default = false;
      };
    mkPackageOption =
      pkgs: name: _:
      mkOption {
        type = types.package;
        default = pkgs.${name} or (throw "there is no package ${name}");
        defaultText = lib.literalExpression "pkgs.${name}";
        description = "The ${name} package to use.";
      };
    mkIf = condition: content: tag "if" { inherit condition content; };
    mkMerge = contents: tag "merge" { inherit contents; };
    mkOverride = priority: content: tag "override" { inherit priority content; };
    mkOptionDefault = mkOverride 1500;
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
  };
  # With a checkout of nixpkgs at hand its own library is used, to see that both agree (tests/nix/run).
  real = builtins.getEnv "PLASMA_NIXPKGS_LIB";
in
if real == "" then lib else (import (/. + real)).extend (_: _: { inherit (lib) fileset; })
