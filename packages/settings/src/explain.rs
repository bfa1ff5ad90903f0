//! What serde says about a value, in the words of whoever wrote it.

use std::path::Path;

use fault::{Fault, Kind};
use serde_path_to_error::{Path as SerdePath, Segment};

use crate::layers::Origin;
use crate::{codes, near};

/// The names on the way to where reading failed.
pub(crate) fn names(path: &SerdePath) -> Vec<String> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// The fault for what serde said about the value at `path`.
pub(crate) fn fault(
    path: &[String],
    message: &str,
    origin: Option<&Origin>,
    file: Option<&Path>,
) -> Fault {
    let message = message.trim();
    let at = origin.map(|origin| format!(" at {origin}")).unwrap_or_default();
    if let Some(unknown) = quoted_after(message, "unknown field") {
        return unknown_key(path, unknown, message, &at);
    }
    if let Some(missing) = quoted_after(message, "missing field") {
        let key = joined(path, Some(missing));
        let place = match (origin, file) {
            (Some(origin), _) => format!(" at {origin}"),
            (None, Some(file)) => format!(" in {}", file.display()),
            (None, None) => String::new(),
        };
        return Fault::new(
            codes::MISSING,
            Kind::Invalid,
            format!("setting {key} is missing{place}"),
            format!("add it to the settings file, or give --set {key}=…"),
        );
    }
    let key = if path.is_empty() { "settings".to_owned() } else { joined(path, None) };
    Fault::new(
        codes::WRONG_VALUE,
        Kind::Invalid,
        format!("setting {key} has a wrong value{at}: {message}"),
        "correct the value",
    )
}

fn unknown_key(path: &[String], unknown: &str, message: &str, at: &str) -> Fault {
    let inside = match path.split_last() {
        Some((last, tables)) if last == unknown => tables,
        _ => path,
    };
    let known: Vec<&str> =
        message.split_once("expected").map(|(_, list)| all_quoted(list)).unwrap_or_default();
    let hint = match near::nearest(unknown, known.iter().copied()) {
        Some(meant) => format!("did you mean {}?", joined(inside, Some(meant))),
        None if known.is_empty() => "take it away, nothing can be set here".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    };
    Fault::new(
        codes::UNKNOWN_KEY,
        Kind::Invalid,
        format!("unknown setting {}{at}", joined(inside, Some(unknown))),
        hint,
    )
}

fn joined(path: &[String], last: Option<&str>) -> String {
    let names: Vec<&str> = path.iter().map(String::as_str).chain(last).collect();
    names.join(".")
}

fn quoted_after<'a>(message: &'a str, words: &str) -> Option<&'a str> {
    message.strip_prefix(words)?.split('`').nth(1)
}

fn all_quoted(list: &str) -> Vec<&str> {
    list.split('`').skip(1).step_by(2).collect()
}
