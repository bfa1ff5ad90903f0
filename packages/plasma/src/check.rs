//! `plasma check`: everything that is wrong with a cluster's description, at once, each with its
//! file, its line and what to change. Changes nothing and needs no network.
#![allow(clippy::print_stderr)] // a command speaks to people

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use fault::Fault;
use inventory::Inventory;
use serde::Serialize;

use crate::codes;
use crate::home::{Home, folder};
use crate::print::{Output, render, result};
use crate::source::{self, NotData, Source};

/// What was looked at, and what was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    files: Vec<String>,
    faults: Vec<Finding>,
    warnings: Vec<Finding>,
    summary: String,
}

/// One thing to change.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    code: String,
    what: String,
    change: String,
    /// The same part in the file that it is made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

/// False when something must be changed.
pub(crate) fn check(home: &Home, file: Option<&Path>, output: Output) -> anyhow::Result<bool> {
    let report = look(home, file)?;
    let good = report.faults.is_empty();
    result(&render(output, &report, || table(&report))?);
    if !good && output == Output::Table {
        let count = report.faults.len();
        eprintln!("plasma: {} {count} to correct", codes::INVENTORY);
    }
    Ok(good)
}

fn look(home: &Home, file: Option<&Path>) -> Result<Report, Fault> {
    let mut report = Report::default();
    let Some(path) = source::locate(file, home) else {
        built_in(&mut report);
        return Ok(report);
    };
    // both files of a checkout are looked at: one is made from the other
    let twin = path.with_extension(if source::is_nix(&path) { "json" } else { "nix" });
    let mut sources = Vec::new();
    for path in [Some(&path), twin.is_file().then_some(&twin)].into_iter().flatten() {
        report.files.push(path.display().to_string());
        match Source::read(path)? {
            Ok(source) => sources.push(source),
            Err(not) => report.not_data(path, &not),
        }
    }
    let inventory = sources.first().and_then(|first| report.inventory(first, sources.get(1)));
    if let (Some(inventory), Some(second)) = (&inventory, sources.get(1)) {
        report.agree(inventory, &sources[0], second);
    }
    if let Some(inventory) = &inventory {
        report.node_folders(&path, inventory);
        let (nodes, former) = (inventory.nodes.len(), &inventory.cluster.former);
        report.summary =
            format!("cluster {}: {nodes} nodes, {former} forms it", inventory.cluster.name);
    }
    report.settings(&home.bootserver_toml())?;
    report.settings(&settings::default_file("bootserver"))?;
    Ok(report)
}

fn built_in(report: &mut Report) {
    report.files.push("the built-in inventory".to_owned());
    if let Ok(source) = Source::of(report.files[0].clone(), Inventory::built_in(), false)
        && let Some(inventory) = report.inventory(&source, None)
    {
        let (nodes, former) = (inventory.nodes.len(), &inventory.cluster.former);
        report.summary =
            format!("cluster {}: {nodes} nodes, {former} forms it", inventory.cluster.name);
    }
}

impl Report {
    fn not_data(&mut self, path: &Path, not: &NotData) {
        let file = path.display().to_string();
        let (code, line) = (codes::INVENTORY.0.to_owned(), Some(not.line));
        let what = not.why.clone();
        if not.expression {
            let change = "let Nix check it: nix flake check, or tests/nix/run".to_owned();
            self.warnings.push(Finding { file, line, code, what, change, source: None });
        } else {
            let change = "correct it there".to_owned();
            self.faults.push(Finding { file, line, code, what, change, source: None });
        }
    }

    fn inventory(&mut self, source: &Source, twin: Option<&Source>) -> Option<Inventory> {
        let finding = |fault: &Fault| Finding {
            file: source.name.clone(),
            line: source.line(&fault.what),
            code: fault.code.0.to_owned(),
            what: fault.what.clone(),
            change: fault.hint.clone(),
            source: twin
                .and_then(|twin| Some(format!("{}:{}", twin.name, twin.line(&fault.what)?))),
        };
        match Inventory::from_value(&source.value) {
            Ok(inventory) => {
                self.warnings.extend(inventory.warnings().iter().map(finding));
                Some(inventory)
            }
            Err(faults) => {
                self.faults.extend(faults.iter().map(finding));
                None
            }
        }
    }

    /// The JSON is made from the Nix: what differs was forgotten, and half of the cloud reads it.
    fn agree(&mut self, inventory: &Inventory, first: &Source, second: &Source) {
        let to_value = |inventory: &Inventory| serde_json::to_value(inventory).unwrap_or_default();
        let (json, nix) = match first.name.ends_with(".nix") {
            true => (second, first),
            false => (first, second),
        };
        let path = match Inventory::from_value(&second.value) {
            Ok(other) => difference(&to_value(inventory), &to_value(&other), ""),
            Err(_) => Some(String::new()),
        };
        let Some(path) = path else { return };
        let shown = if path.is_empty() { "it".to_owned() } else { path.clone() };
        self.warnings.push(Finding {
            file: json.name.clone(),
            line: json.line(&path),
            code: codes::STALE.0.to_owned(),
            what: format!("{shown} is not as in {}", nix.name),
            change: "write it anew from there: tests/nix/run --update".to_owned(),
            source: nix.line(&path).map(|line| format!("{}:{line}", nix.name)),
        });
    }

    /// `nodes/<node>/` beside `nodes/cluster.nix`, when the others have one.
    fn node_folders(&mut self, path: &Path, inventory: &Inventory) {
        let Some(dir) = path.parent() else { return };
        let machines: Vec<&String> = inventory
            .nodes
            .iter()
            .filter(|(_, node)| !node.process)
            .map(|(name, _)| name)
            .collect();
        let Some(example) = machines.iter().find(|name| dir.join(name).is_dir()) else { return };
        for name in &machines {
            for file in ["configuration.nix", "disko.nix"] {
                let (wanted, model) = (dir.join(name).join(file), dir.join(example).join(file));
                if wanted.is_file() || !model.is_file() {
                    continue;
                }
                self.faults.push(Finding {
                    file: wanted.display().to_string(),
                    line: None,
                    code: codes::NO_NODE_FILE.0.to_owned(),
                    what: format!("node {name} has no {file}"),
                    change: format!("begin with a copy of {}", model.display()),
                    source: None,
                });
            }
        }
    }

    /// Settings of a boot server, where there are any.
    fn settings(&mut self, path: &PathBuf) -> Result<(), Fault> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(folder("read", path, &error)),
        };
        self.files.push(path.display().to_string());
        let settings = settings::parse::<bootserver::Settings>(path, &text);
        let Err(fault) = settings.and_then(|settings| settings.check()) else { return Ok(()) };
        self.faults.push(Finding {
            file: path.display().to_string(),
            line: toml_line(&fault.what, &text),
            code: fault.code.0.to_owned(),
            what: fault.what,
            change: fault.hint,
            source: None,
        });
        Ok(())
    }
}

/// The first line of a settings file that sets a key which the words name.
fn toml_line(what: &str, text: &str) -> Option<usize> {
    let words: Vec<&str> = what
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .collect();
    let is_named =
        |line: &str| line.split_once('=').is_some_and(|(key, _)| words.contains(&key.trim()));
    text.lines().position(is_named).map(|index| index + 1)
}

/// The path of the first part that differs.
fn difference(a: &serde_json::Value, b: &serde_json::Value, path: &str) -> Option<String> {
    use serde_json::Value;
    if a == b {
        return None;
    }
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => difference(a, b, &inner),
                    _ => Some(inner),
                }
            })
        }
        _ => Some(path.to_owned()),
    }
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    let groups = [("", &report.faults), ("warning: ", &report.warnings)];
    for (prefix, findings) in groups {
        for finding in findings {
            let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
            let Finding { file, code, what, change, .. } = finding;
            // writing to a String cannot fail
            let _ = writeln!(text, "{file}{line}: {prefix}{code} {what}");
            if !change.is_empty() {
                let _ = writeln!(text, "    change: {change}");
            }
            if let Some(source) = &finding.source {
                let _ = writeln!(text, "    also:   {source}");
            }
        }
    }
    if report.faults.is_empty() {
        let _ = writeln!(text, "{}: good, {}", report.files.join(", "), report.summary);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(nix: &str) -> (tempfile::TempDir, Home, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let nodes = dir.path().join("nodes");
        std::fs::create_dir(&nodes).unwrap();
        std::fs::write(nodes.join("cluster.nix"), nix).unwrap();
        std::fs::write(nodes.join("cluster.json"), Inventory::built_in()).unwrap();
        let home = Home::locate(Some(dir.path().join("home"))).unwrap();
        let path = nodes.join("cluster.nix");
        (dir, home, path)
    }

    fn shown(report: &Report, dir: &Path) -> String {
        table(report).replace(&format!("{}/", dir.display()), "")
    }

    const NIX: &str = include_str!("../../../nodes/cluster.nix");

    #[test]
    fn a_good_checkout_is_good() {
        let (dir, home, path) = checkout(NIX);
        let report = look(&home, Some(&path)).unwrap();
        let text = shown(&report, dir.path());
        assert!(report.faults.is_empty(), "{text}");
        let last = "nodes/cluster.nix, nodes/cluster.json: good, cluster plasma: 3 nodes, node01 forms it\n";
        assert!(text.ends_with(last), "{text}");
        // nothing but that nobody has put in a key yet
        assert_eq!(report.warnings.len(), 1, "{text}");
    }

    #[test]
    fn every_slip_is_named_with_its_line_in_both_files() {
        let nix = NIX
            .replace("\"10.20.0.12\"", "\"10.20.0.11\"")
            .replace("\"52:54:00:20:00:13\"", "\"52:54:00\"");
        let (dir, home, path) = checkout(&nix);
        let report = look(&home, Some(&path)).unwrap();
        let text = shown(&report, dir.path());
        let line = |needle: &str| nix.lines().position(|l| l.contains(needle)).unwrap() + 1;
        let wanted = format!(
            "nodes/cluster.nix:{}: INV-1007 nodes.node03.macs[0] is \"52:54:00\", which is no \
             card's MAC address\n    change: write it as 52:54:00:20:00:11\n    also:   \
             nodes/cluster.json:",
            line("\"52:54:00\"")
        );
        assert!(text.contains(&wanted), "{text}\nwanted {wanted}");
    }

    #[test]
    fn a_forgotten_twin_and_a_forgotten_folder_are_told() {
        let nix = NIX.replace("10.20.0.13", "10.20.0.33");
        let (dir, home, path) = checkout(&nix);
        let node = dir.path().join("nodes/node01");
        std::fs::create_dir(&node).unwrap();
        std::fs::write(node.join("disko.nix"), "{ }").unwrap();
        std::fs::create_dir(dir.path().join("nodes/node02")).unwrap();
        std::fs::write(dir.path().join("nodes/node02/disko.nix"), "{ }").unwrap();
        let report = look(&home, Some(&path)).unwrap();
        let text = shown(&report, dir.path());
        assert!(text.contains("PL-1015 node node03 has no disko.nix"), "{text}");
        assert!(
            text.contains("PL-1014 nodes.node03.address is not as in nodes/cluster.nix")
                || text.contains("nodes.node03.address is not as in "),
            "{text}"
        );
    }

    #[test]
    fn settings_are_checked_too() {
        let (_dir, home, path) = checkout(NIX);
        std::fs::create_dir_all(home.dir()).unwrap();
        std::fs::write(
            home.bootserver_toml(),
            "state_dir = \"/x\"\n[tokens]\ndefault_ttl_seconds = 1\n",
        )
        .unwrap();
        let report = look(&home, Some(&path)).unwrap();
        let found = report.faults.first().unwrap();
        assert_eq!((found.line, found.code.as_str()), (Some(3), "BS-1008"), "{found:?}");
    }
}
