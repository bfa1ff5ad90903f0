//! How results look: tables for people, JSON and YAML for programs.

use std::io::Write as _;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::overview::{NodeView, Overview};

/// How to print results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// For programs.
    Json,
    /// For programs that people read.
    Yaml,
    /// A picture for a page; of `plasma topology` alone.
    Svg,
}

/// Writes a result to stdout; false when nobody reads any more, which is no fault.
pub(crate) fn result(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// The text of a result, with a last newline; `table` is called when a table is wanted.
pub(crate) fn render<T: Serialize>(
    output: Output,
    value: &T,
    table: impl FnOnce() -> String,
) -> anyhow::Result<String> {
    Ok(match output {
        Output::Table | Output::Svg => table(),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
        Output::Yaml => {
            let mut text = String::new();
            yaml(&serde_json::to_value(value)?, 0, &mut text);
            text
        }
    })
}

/// Columns as wide as their widest cell, two blanks between.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The state of a cloud, a line for the whole and a row a node.
pub(crate) fn overview(view: &Overview) -> String {
    let header = ["NODE", "ADDRESS", "FIRST BOOT", "CHAINFIRE", "HEALTH", "DB", "TERM", "INDEX"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(view.nodes.iter().map(row));
    let mut detail = String::new();
    for node in &view.nodes {
        if !node.detail.is_empty() {
            detail.push_str(&format!("{}: {}\n", node.name, node.detail));
        }
        if !node.claimed.is_empty() {
            let (name, claimed) = (&node.name, &node.claimed);
            detail.push_str(&format!("{name}: without its certificate it says: {claimed}\n"));
        }
    }
    format!("{}\n{}{detail}", headline(view), columns(&rows))
}

/// What is not ready yet, and why; empty when all is.
pub(crate) fn open_gates(view: &Overview) -> String {
    let open = view.gates.iter().filter(|gate| !gate.ready);
    open.map(|gate| format!("not ready: {}: {}\n", gate.name, gate.reason)).collect()
}

/// The whole cloud in a line.
pub(crate) fn headline(view: &Overview) -> String {
    let state = match (view.ready, view.bootserver) {
        (true, _) => "ready",
        (false, true) => "not ready",
        (false, false) => "not ready, no boot server",
    };
    let leader = view.leader.as_deref().unwrap_or("none");
    let learners = match view.learners {
        0 => String::new(),
        n => format!(" and {n} learning"),
    };
    format!(
        "cluster {}: {state}, leader {leader}, {} voting{learners}, revision {}",
        view.cluster, view.voters, view.revision
    )
}

fn row(node: &NodeView) -> Vec<String> {
    let boot = match (node.step.as_str(), node.state.as_str()) {
        ("bless", "done") => format!("done in {:.1} s", seconds(node.boot_millis)),
        (step, state) => format!("{step} {state}"),
    };
    let runs = !node.version.is_empty();
    let number = |n: u64| if runs { n.to_string() } else { "-".to_owned() };
    vec![
        node.name.clone(),
        node.address.clone(),
        boot,
        node.chainfire.clone(),
        node.health.clone(),
        if runs { bytes(node.db_size) } else { "-".to_owned() },
        number(node.raft_term),
        number(node.raft_index),
    ]
}

#[allow(clippy::cast_precision_loss)] // shown with one digit
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

#[allow(clippy::cast_precision_loss)] // shown with one digit
pub(crate) fn bytes(count: i64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// What to do with a cloud that is ready.
pub(crate) fn next_steps(view: &Overview) -> String {
    format!("endpoints: {}\n\n{} member list -w table\n", view.endpoints.join(" "), view.etcdctl)
}

fn yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                out.push_str(&format!("{indent}{}:", yaml_key(key)));
                yaml_inner(value, depth + 1, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut text = String::new();
                yaml(item, depth + 1, &mut text);
                // the first line of the item stands behind the dash
                out.push_str(&format!("{indent}- {}", text.trim_start()));
            }
        }
        // JSON's scalars and empty collections are YAML as they are
        other => out.push_str(&format!("{indent}{other}\n")),
    }
}

fn yaml_inner(value: &Value, depth: usize, out: &mut String) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        yaml(value, depth, out);
    } else {
        out.push_str(&format!(" {value}\n"));
    }
}

fn yaml_key(key: &str) -> String {
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let is_word = key.starts_with(|c: char| c.is_ascii_alphabetic());
    let reserved = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    if plain && is_word && !reserved.contains(&key.to_ascii_lowercase().as_str()) {
        key.to_owned()
    } else {
        Value::from(key).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::Gate;

    fn view() -> Overview {
        let node = |name: &str, chainfire: &str| NodeView {
            name: name.into(),
            address: "127.0.1.1".into(),
            step: "bless".into(),
            state: "done".into(),
            detail: String::new(),
            claimed: String::new(),
            boot_millis: 1234,
            chainfire: chainfire.into(),
            health: "ok".into(),
            next_boot: "localdisk".into(),
            uptime_millis: 0,
            version: "3.5.0".into(),
            db_size: 20_480,
            raft_term: 2,
            raft_index: 17,
        };
        let mut late = NodeView { name: "node03".into(), ..NodeView::default() };
        late.address = "127.0.1.3".into();
        late.step = "join".into();
        late.state = "waiting".into();
        late.detail = "no peer answers".into();
        late.claimed = "enroll failed".into();
        late.chainfire = "down".into();
        late.health = "no answer".into();
        Overview {
            cluster: "plasma".into(),
            cluster_id: "0198".into(),
            ready: false,
            bootserver: true,
            leader: Some("node01".into()),
            voters: 2,
            learners: 0,
            revision: 12,
            nodes: vec![node("node01", "leader"), node("node02", "follower"), late],
            gates: vec![
                Gate { name: "leader".into(), ready: true, reason: String::new() },
                Gate { name: "node03 booted".into(), ready: false, reason: "join waiting".into() },
            ],
            endpoints: vec!["https://127.0.1.1:2379".into()],
            etcdctl: "etcdctl".into(),
        }
    }

    #[test]
    fn the_table() {
        let expected = "\
cluster plasma: not ready, leader node01, 2 voting, revision 12
NODE    ADDRESS    FIRST BOOT     CHAINFIRE  HEALTH     DB        TERM  INDEX
node01  127.0.1.1  done in 1.2 s  leader     ok         20.0 KiB  2     17
node02  127.0.1.1  done in 1.2 s  follower   ok         20.0 KiB  2     17
node03  127.0.1.3  join waiting   down       no answer  -         -     -
node03: no peer answers
node03: without its certificate it says: enroll failed
";
        assert_eq!(overview(&view()), expected);
        assert_eq!(open_gates(&view()), "not ready: node03 booted: join waiting\n");
    }

    #[test]
    fn yaml_is_read_as_it_was_meant() {
        let value = serde_json::json!({
            "a": [], "b": {}, "no": "x: y", "list": [{"k": 1, "l": [true, null]}, "text\n2"],
        });
        let text = render(Output::Yaml, &value, String::new).unwrap();
        let expected = "\
a: []
b: {}
list:
  - k: 1
    l:
      - true
      - null
  - \"text\\n2\"
\"no\": \"x: y\"
";
        assert_eq!(text, expected);
    }
}
