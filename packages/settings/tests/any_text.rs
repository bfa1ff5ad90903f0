//! Whatever stands in a file, the environment or a flag: an answer, never a panic.

use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;
use settings::load_from;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Settings {
    name: String,
    #[serde(default)]
    join: Vec<String>,
    #[serde(default)]
    storage: Storage,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(dead_code)]
struct Storage {
    quota: u64,
}

/// Texts with the signs that TOML and the keys give a meaning to.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,60}", "[a-z_.=\\[\\]{}\"'#\n0-9-]{0,60}", "(storage|name|join|quota|[.=_ ])*"]
}

proptest! {
    #[test]
    fn no_text_panics(file in any_text(), name in any_text(), value in any_text(), flag in any_text()) {
        let environment = [(format!("X_{name}"), value)];
        let flags = [flag, format!("name={name}")];
        let file = Some((Path::new("x.toml"), file.as_str()));
        let read = load_from::<Settings>("X_", file, environment, &flags);
        if let Err(fault) = read {
            prop_assert!(fault.code.0.starts_with("SET-"), "{}", fault);
        }
    }

    #[test]
    fn any_value_can_be_given_as_text(value in "[^\u{0}]{0,60}") {
        let flags = [format!("name={value}")];
        let read = load_from::<Settings>("X_", None, [], &flags);
        // Quotes around a TOML string are TOML's; everything else arrives as it was written.
        if let Ok(settings) = read {
            let quoted = value.trim_start().starts_with(['"', '\'']);
            prop_assert!(quoted || settings.name == value, "{:?} became {:?}", value, settings.name);
        }
    }
}
