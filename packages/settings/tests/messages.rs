//! What an operator reads when the settings are wrong, word by word.

use std::path::Path;

use fault::Fault;
use serde::Deserialize;
use settings::{SettingsArgs, codes, load, load_from};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: String,
    #[serde(default)]
    join: Vec<String>,
    client: Listener,
    #[serde(default)]
    storage: Storage,
    #[serde(default)]
    peers: Vec<Listener>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listener {
    listen: std::net::SocketAddr,
    #[serde(default)]
    advertise: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Storage {
    quota_bytes: u64,
    sync: bool,
}

impl Default for Storage {
    fn default() -> Self {
        Self { quota_bytes: 8 << 30, sync: true }
    }
}

const GOOD: &str = "name = \"node01\"\n\n[client]\nlisten = \"127.0.1.1:2379\"\n";

fn read(text: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Settings, Fault> {
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    load_from("CHAINFIRE_", Some((Path::new("chainfire.toml"), text)), environment, &flags)
}

#[test]
fn later_layers_win_key_by_key() {
    let settings = read(
        GOOD,
        &[
            ("CHAINFIRE_NAME", "node02"),
            ("CHAINFIRE_CLIENT__LISTEN", "127.0.1.2:2379"),
            ("CHAINFIRE_STORAGE__QUOTA_BYTES", "1024"),
            ("CHAINFIRE_LOG", "not a setting"),
            ("CHAINFIRE", "not ours"),
            ("FLAREDB_NAME", "not ours"),
        ],
        &["name=node03", "storage.sync=false", r#"join=["https://a:1", "https://b:1"]"#],
    )
    .unwrap();
    let expected = Settings {
        name: "node03".into(),
        join: vec!["https://a:1".into(), "https://b:1".into()],
        client: Listener { listen: "127.0.1.2:2379".parse().unwrap(), advertise: None },
        storage: Storage { quota_bytes: 1024, sync: false },
        peers: Vec::new(),
    };
    assert_eq!(settings, expected);
}

#[test]
fn a_text_that_looks_like_a_number_stays_text_where_text_is_wanted() {
    let settings = read(GOOD, &[("CHAINFIRE_NAME", "007")], &["client.advertise=true"]).unwrap();
    assert_eq!(settings.name, "007");
    assert_eq!(settings.client.advertise.as_deref(), Some("true"));
    assert_eq!(read(GOOD, &[], &["name=42"]).unwrap().name, "42");
    assert_eq!(read(GOOD, &[], &["name=2026-01-01"]).unwrap().name, "2026-01-01");
    assert_eq!(read(GOOD, &[], &["name=a = b"]).unwrap().name, "a = b");
    assert_eq!(read(GOOD, &[], &["name="]).unwrap().name, "");
}

#[test]
fn every_mistake_says_what_where_and_what_to_do() {
    let with = |more: &str| format!("{GOOD}{more}");
    type Pairs = &'static [(&'static str, &'static str)];
    let table: &[(String, Pairs, &[&str], &str)] = &[
        (
            with("listne = \"x\"\n"),
            &[],
            &[],
            "SET-1003 unknown setting client.listne at chainfire.toml:5, did you mean client.listen?",
        ),
        (
            with("[storage]\nquota_byte = 1\n"),
            &[],
            &[],
            "SET-1003 unknown setting storage.quota_byte at chainfire.toml:6, did you mean storage.quota_bytes?",
        ),
        (
            with("[storage]\ncolour = 1\n"),
            &[],
            &[],
            "SET-1003 unknown setting storage.colour at chainfire.toml:6, known here: quota_bytes, sync",
        ),
        (
            with(
                "[[peers]]\nlisten = \"127.0.0.1:1\"\n[[peers]]\nlisten = \"127.0.0.1:2\"\nadvertize = \"\"\n",
            ),
            &[],
            &[],
            "SET-1003 unknown setting peers.1.advertize at chainfire.toml:9, did you mean peers.1.advertise?",
        ),
        (
            with("[strage]\nsync = true\n"),
            &[],
            &[],
            "SET-1003 unknown setting strage at chainfire.toml:5, did you mean storage?",
        ),
        (
            GOOD.into(),
            &[("CHAINFIRE_CLIENT__LISTN", "127.0.0.1:1")],
            &[],
            "SET-1003 unknown setting client.listn at environment CHAINFIRE_CLIENT__LISTN, did you mean client.listen?",
        ),
        (
            GOOD.into(),
            &[],
            &["storage.quota=1"],
            "SET-1003 unknown setting storage.quota at flag --set, known here: quota_bytes, sync",
        ),
        (
            with("[storage]\nquota_bytes = \"much\"\n"),
            &[],
            &[],
            "SET-1004 setting storage.quota_bytes has a wrong value at chainfire.toml:6: invalid type: string \"much\", expected u64, correct the value",
        ),
        (
            GOOD.into(),
            &[("CHAINFIRE_CLIENT__LISTEN", "nowhere")],
            &[],
            "SET-1004 setting client.listen has a wrong value at environment CHAINFIRE_CLIENT__LISTEN: invalid socket address syntax, correct the value",
        ),
        (
            GOOD.into(),
            &[],
            &["storage.quota_bytes=-1"],
            "SET-1004 setting storage.quota_bytes has a wrong value at flag --set: invalid value: integer `-1`, expected u64, correct the value",
        ),
        (
            "[client]\nlisten = \"127.0.0.1:1\"\n".into(),
            &[],
            &[],
            "SET-1005 setting name is missing in chainfire.toml, add it to the settings file, or give --set name=…",
        ),
        (
            "name = \"a\"\n[client]\n".into(),
            &[],
            &[],
            "SET-1005 setting client.listen is missing at chainfire.toml:2, add it to the settings file, or give --set client.listen=…",
        ),
        (
            "name = \"a\"\nname = \"b\"\n".into(),
            &[],
            &[],
            "SET-1002 settings file is not TOML at chainfire.toml:2: duplicate key, correct this line",
        ),
        (
            GOOD.into(),
            &[("CHAINFIRE_CLIENT____LISTEN", "x")],
            &[],
            "SET-1006 environment CHAINFIRE_CLIENT____LISTEN does not name a setting, write CHAINFIRE_TABLE__KEY=value, or unset it",
        ),
        (
            GOOD.into(),
            &[],
            &["name"],
            "SET-1006 flag --set \"name\" is not key=value, write it like --set client.listen=127.0.0.1:2379",
        ),
        (
            GOOD.into(),
            &[],
            &["name.first=x"],
            "SET-1007 flag --set: name is a value elsewhere, not a table, set the keys below it, or take one of the two away",
        ),
        (
            GOOD.into(),
            &[("CHAINFIRE_CLIENT", "x")],
            &[],
            "SET-1007 environment CHAINFIRE_CLIENT: client is a table, not a value, set the keys below it, or take one of the two away",
        ),
    ];
    for (text, environment, flags, sentence) in table {
        let fault = read(text, environment, flags).unwrap_err();
        assert_eq!(fault.to_string(), *sentence);
    }
}

#[test]
fn a_file_that_was_named_must_exist() {
    let args = SettingsArgs::file("/nonexistent/chainfire.toml");
    let fault = load::<Settings>("no-such-service", &args).unwrap_err();
    assert_eq!(fault.code, codes::UNREADABLE);
    assert!(fault.what.contains("/nonexistent/chainfire.toml"), "{fault}");
}

#[test]
fn without_a_file_flags_can_say_all() {
    let args = SettingsArgs {
        set: vec!["name=a".into(), "client.listen=127.0.0.1:1".into()],
        check_config: true,
        ..SettingsArgs::default()
    };
    let settings: Settings = load("no-such-service", &args).unwrap();
    assert_eq!(settings.name, "a");
    assert_eq!(
        args.checked("no-such-service").unwrap(),
        "settings are valid (no file: defaults, environment and flags)"
    );
}

#[test]
fn a_file_is_read_and_the_check_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, GOOD).unwrap();
    let mut args = SettingsArgs::file(&path);
    assert_eq!(load::<Settings>("no-such-service", &args).unwrap().name, "node01");
    assert_eq!(args.checked("no-such-service"), None);
    args.check_config = true;
    assert!(args.checked("no-such-service").unwrap().ends_with("x.toml"));
}
