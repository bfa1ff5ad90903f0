//! The file that describes a cluster: `nodes/cluster.nix` as far as it is plain data, or JSON.
//! Its value, and the line on which each part of it stands.

mod json;
mod nix;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fault::{Fault, Kind};
use inventory::Inventory;
use serde_json::Value;

use crate::codes;
use crate::home::{Home, bad_inventory, folder};

/// No inventory comes near this; the reader of inventories refuses such a file too.
const MAX_BYTES: u64 = 8 << 20;

/// Lines by path: `nodes.node02.macs[0]` stands on line 31.
pub(crate) type Places = BTreeMap<String, usize>;

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Source {
    /// As it is shown.
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) places: Places,
}

/// A file that holds no data: where it stops being any, and why.
#[derive(Debug, PartialEq)]
pub(crate) struct NotData {
    pub(crate) line: usize,
    pub(crate) why: String,
    /// A Nix expression that only Nix can evaluate: no fault, but nothing for us either.
    pub(crate) expression: bool,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Result<Result<Source, NotData>, Fault> {
        let size = path.metadata().map_err(|e| folder("read", path, &e))?.len();
        if size > MAX_BYTES {
            return Err(Fault::new(
                codes::INVENTORY,
                Kind::Invalid,
                format!("{} has {size} bytes, more than {MAX_BYTES}", path.display()),
                "check that this file is an inventory",
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|e| folder("read", path, &e))?;
        let name = path.display().to_string();
        Ok(Source::of(name, &text, is_nix(path)))
    }

    /// Of a text; pure.
    pub(crate) fn of(name: String, text: &str, nix: bool) -> Result<Source, NotData> {
        let (value, places) = if nix { nix::read(text)? } else { json::read(text)? };
        Ok(Source { name, value, places })
    }

    /// The line that a fault's words are about. They begin with the path of what is wrong; of a
    /// part that is missing, the line of what should hold it is the nearest there is.
    pub(crate) fn line(&self, what: &str) -> Option<usize> {
        let words = what.strip_prefix("unknown key \"").unwrap_or(what);
        let ends = |path: &str| {
            let rest = words.strip_prefix(path)?;
            let boundary = path.is_empty()
                || rest.chars().next().is_none_or(|c| !(c.is_alphanumeric() || c == '-'));
            boundary.then_some(path.len())
        };
        let nearest = self.places.iter().filter_map(|(path, line)| Some((ends(path)?, *line)));
        nearest.max_by_key(|(length, _)| *length).map(|(_, line)| line)
    }
}

pub(crate) fn is_nix(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "nix")
}

/// Which file describes the cluster: the one that is named, or the one that a boot server of this
/// folder serves, or the checkout's.
pub(crate) fn locate(asked: Option<&Path>, home: &Home) -> Option<PathBuf> {
    if let Some(asked) = asked {
        return Some(asked.to_owned());
    }
    let candidates =
        [home.inventory_path(), "nodes/cluster.nix".into(), "nodes/cluster.json".into()];
    candidates.into_iter().find(|path| path.is_file())
}

/// The inventory of a file, or all that is wrong with it in one fault.
pub(crate) fn inventory(path: &Path) -> Result<Inventory, Fault> {
    let source = match Source::read(path)? {
        Ok(source) => source,
        Err(not) => return Err(not_data(path, &not)),
    };
    Inventory::from_value(&source.value).map_err(|faults| {
        let shown: Vec<String> = faults
            .iter()
            .map(|fault| match source.line(&fault.what) {
                Some(line) => format!("\n  {}:{line}: {fault}", source.name),
                None => format!("\n  {}: {fault}", source.name),
            })
            .collect();
        let what = format!("the inventory {} has faults:{}", source.name, shown.concat());
        Fault::new(codes::INVENTORY, Kind::Invalid, what, "")
    })
}

/// The inventory that [`locate`] finds, or the built-in one.
pub(crate) fn inventory_or_built_in(home: &Home, file: Option<&Path>) -> Result<Inventory, Fault> {
    match locate(file, home) {
        Some(path) => inventory(&path),
        None => Inventory::parse(Inventory::built_in())
            .map_err(|faults| bad_inventory(Path::new("the built-in inventory"), &faults)),
    }
}

fn not_data(path: &Path, not: &NotData) -> Fault {
    let hint = match not.expression {
        true => "give the JSON that Nix makes of it: nodes/cluster.json",
        false => "correct it there",
    };
    let what = format!("{}:{}: {}", path.display(), not.line, not.why);
    Fault::new(codes::INVENTORY, Kind::Invalid, what, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_finds_its_line() {
        let text = "{\n  \"nodes\": {\n    \"a\": {\n      \"macs\": [\n        \"x\"\n]}}}";
        let source = Source::of("x".into(), text, false).unwrap();
        let table = [
            ("nodes.a.macs[0] is \"x\", which is no card", Some(5)),
            ("nodes.a.address is missing", Some(3)),
            ("unknown key \"nodes.a.macs\"", Some(4)),
            ("nodes.ab is missing", Some(2)),
            ("nothing of it", Some(1)),
        ];
        for (what, line) in table {
            assert_eq!(source.line(what), line, "{what}");
        }
    }
}
