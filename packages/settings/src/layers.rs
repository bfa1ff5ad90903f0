//! The layers, laid over each other, with the origin of every key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fault::{Fault, Kind};
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::{NOT_SETTINGS, codes, explain};

/// The names of the tables on the way to a key, and the key.
pub(crate) type Keys = Vec<String>;

/// Where a key was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    File { path: PathBuf, line: usize },
    Environment { name: String, text: String },
    Flag { text: String },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { name, .. } => write!(f, "environment {name}"),
            Origin::Flag { .. } => write!(f, "flag --set"),
        }
    }
}

/// All layers merged; later ones win key by key, arrays as a whole.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    merged: Table,
    origins: BTreeMap<Keys, Origin>,
    file: Option<PathBuf>,
}

impl Layers {
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), Fault> {
        let syntax = |message: &str, at: Option<usize>| {
            let line = at.map_or(1, |at| line_of(text, at));
            let message = message.trim().replace('\n', ", ");
            Fault::new(
                codes::SYNTAX,
                Kind::Invalid,
                format!("settings file is not TOML at {}:{line}: {message}", path.display()),
                "correct this line",
            )
        };
        let spanned = DeTable::parse(text)
            .map_err(|e| syntax(e.message(), e.span().map(|span| span.start)))?;
        note_lines(spanned.get_ref(), text, path, &mut Vec::new(), &mut self.origins);
        self.merged = text
            .parse()
            .map_err(|e: toml::de::Error| syntax(e.message(), e.span().map(|span| span.start)))?;
        self.file = Some(path.to_owned());
        Ok(())
    }

    pub(crate) fn add_environment(
        &mut self,
        prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Fault> {
        if prefix.is_empty() {
            return Ok(());
        }
        let mut ours: Vec<(String, String)> = variables
            .into_iter()
            .filter(|(name, _)| {
                name.strip_prefix(prefix).is_some_and(|rest| !NOT_SETTINGS.contains(&rest))
            })
            .collect();
        ours.sort();
        for (name, text) in ours {
            let keys: Keys =
                name[prefix.len()..].split("__").map(str::to_ascii_lowercase).collect();
            if keys.iter().any(String::is_empty) {
                return Err(Fault::new(
                    codes::MALFORMED,
                    Kind::Invalid,
                    format!("environment {name} does not name a setting"),
                    format!("write {prefix}TABLE__KEY=value, or unset it"),
                ));
            }
            self.set(keys, Origin::Environment { name, text })?;
        }
        Ok(())
    }

    pub(crate) fn add_flags(&mut self, flags: &[String]) -> Result<(), Fault> {
        for flag in flags {
            let parts = flag.split_once('=').map(|(key, text)| {
                let keys: Keys = key.trim().split('.').map(|k| k.trim().to_owned()).collect();
                (keys, text.to_owned())
            });
            match parts {
                Some((keys, text)) if keys.iter().all(|key| !key.is_empty()) => {
                    self.set(keys, Origin::Flag { text })?;
                }
                _ => {
                    return Err(Fault::new(
                        codes::MALFORMED,
                        Kind::Invalid,
                        format!("flag --set {flag:?} is not key=value"),
                        "write it like --set client.listen=127.0.0.1:2379",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Reads the settings. A text that looks like a number or a date but must be text is given as
    /// text: only the place that reads it knows.
    pub(crate) fn read<T: DeserializeOwned>(mut self) -> Result<T, Fault> {
        let mut first: Option<(Keys, String)> = None;
        loop {
            let value = Value::Table(self.merged.clone());
            let error = match serde_path_to_error::deserialize(value) {
                Ok(settings) => return Ok(settings),
                Err(error) => error,
            };
            let path = explain::names(error.path());
            let message = error.inner().message().to_owned();
            if self.give_as_text(&path) {
                first = Some((path, message));
                continue;
            }
            // What was wrong with the value as it was meant says more than the same as text.
            let message = match first {
                Some((failed, meant)) if failed == path => meant,
                _ => message,
            };
            let origin = self.origin(&path);
            return Err(explain::fault(&path, &message, origin, self.file.as_deref()));
        }
    }

    /// The origin of a key, or of the nearest table around it.
    fn origin(&self, path: &[String]) -> Option<&Origin> {
        (1..=path.len()).rev().find_map(|length| self.origins.get(&path[..length]))
    }

    fn set(&mut self, keys: Keys, origin: Origin) -> Result<(), Fault> {
        let text = match &origin {
            Origin::Environment { text, .. } | Origin::Flag { text } => text.clone(),
            Origin::File { .. } => return Ok(()),
        };
        let conflict = |at: usize, what: &str| {
            Fault::new(
                codes::CONFLICT,
                Kind::Invalid,
                format!("{origin}: {} is {what}", keys[..at].join(".")),
                "set the keys below it, or take one of the two away",
            )
        };
        let (last, tables) = keys.split_last().expect("split of a text has at least one part");
        let mut table = &mut self.merged;
        for (depth, name) in tables.iter().enumerate() {
            let next = table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
            table = match next {
                Value::Table(table) => table,
                _ => return Err(conflict(depth + 1, "a value elsewhere, not a table")),
            };
        }
        let value = as_toml(&text).unwrap_or(Value::String(text));
        if table.get(last).is_some_and(Value::is_table) && !value.is_table() {
            return Err(conflict(keys.len(), "a table, not a value"));
        }
        table.insert(last.clone(), value);
        self.origins.retain(|path, _| !(path.len() > keys.len() && path.starts_with(&keys)));
        self.origins.insert(keys, origin);
        Ok(())
    }

    /// Replaces a value that was read as TOML by its text; false if there is nothing to replace.
    fn give_as_text(&mut self, path: &[String]) -> bool {
        let Some(Origin::Environment { text, .. } | Origin::Flag { text }) = self.origins.get(path)
        else {
            return false;
        };
        let Some((last, tables)) = path.split_last() else { return false };
        let mut table = &mut self.merged;
        for name in tables {
            match table.get_mut(name) {
                Some(Value::Table(next)) => table = next,
                _ => return false,
            }
        }
        match table.get_mut(last) {
            Some(Value::String(_)) | None => false,
            Some(value) => {
                *value = Value::String(text.clone());
                true
            }
        }
    }
}

/// The value, if the text is one TOML value and nothing more.
fn as_toml(text: &str) -> Option<Value> {
    if text.contains(['\n', '\r']) {
        return None;
    }
    let mut table: Table = format!("value = {text}").parse().ok()?;
    table.remove("value").filter(|_| table.is_empty())
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

fn note_lines(
    table: &DeTable<'_>,
    text: &str,
    file: &Path,
    above: &mut Keys,
    origins: &mut BTreeMap<Keys, Origin>,
) {
    for (key, value) in table {
        above.push(key.get_ref().to_string());
        let line = line_of(text, key.span().start);
        origins.insert(above.clone(), Origin::File { path: file.to_owned(), line });
        match value.get_ref() {
            DeValue::Table(inner) => note_lines(inner, text, file, above, origins),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    above.push(index.to_string());
                    let line = line_of(text, item.span().start);
                    origins.insert(above.clone(), Origin::File { path: file.to_owned(), line });
                    if let DeValue::Table(inner) = item.get_ref() {
                        note_lines(inner, text, file, above, origins);
                    }
                    above.pop();
                }
            }
            _ => {}
        }
        above.pop();
    }
}
