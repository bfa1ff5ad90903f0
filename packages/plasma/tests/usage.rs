//! What needs no cloud: exit codes, help, completions, and the inventory's check.

use std::process::{Command, Output};

fn plasma(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plasma"));
    command.args(arguments).env("PLASMA_HOME", "/nonexistent/plasma").output().unwrap()
}

#[test]
fn exit_codes() {
    let table: [(&[&str], i32); 20] = [
        (&["check", "--help"], 0),
        (&["serve", "--help"], 0),
        (&["node", "wipe", "--help"], 0),
        (&["topology", "-o", "svg"], 0),
        (&["topology", "-o", "text"], 0),
        (&["check", "/nonexistent/cluster.json"], 1),
        (&["plan"], 1),
        (&["ssh", "node01"], 255),
        (&["node", "list"], 1),
        (&["check", "-o", "svg"], 2),
        (&["serve", "--dhcp", "full"], 2),
        (&["node", "wipe"], 2),
        (&["version"], 0),
        (&["--help"], 0),
        (&["up", "--help"], 0),
        (&["completions", "bash"], 0),
        (&["inventory", "check"], 0),
        (&["status"], 1),
        (&["up", "--nodes", "many"], 2),
        (&["fly"], 2),
    ];
    for (arguments, code) in table {
        let output = plasma(arguments);
        assert_eq!(output.status.code(), Some(code), "plasma {arguments:?}: {output:?}");
    }
}

#[test]
fn help_has_examples() {
    let help = String::from_utf8(plasma(&["--help"]).stdout).unwrap();
    assert!(help.contains("plasma up --nodes 1 --detach"), "{help}");
}

#[test]
fn a_bad_inventory_is_told_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.json");
    std::fs::write(&path, r#"{"cluster":{"name":"X"},"nodes":{"a":{"roles":["king"]}}}"#).unwrap();
    let output = plasma(&["inventory", "check", path.to_str().unwrap()]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("PL-1008"));
    for part in [
        "cluster.json:1: INV-1005 cluster.name",
        "INV-1009 nodes.a.roles[0]",
        "    change: use control, data or compute",
        "nodes.a.address",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

/// Every command, at every depth.
#[test]
fn every_help_has_examples() {
    let table: [&[&str]; 23] = [
        &["check"],
        &["plan"],
        &["serve"],
        &["status"],
        &["node"],
        &["node", "list"],
        &["node", "wipe"],
        &["node", "replace"],
        &["node", "rescue"],
        &["node", "run"],
        &["node", "reboot"],
        &["machines"],
        &["boot", "explain"],
        &["token"],
        &["token", "new"],
        &["token", "list"],
        &["token", "revoke"],
        &["ssh"],
        &["topology"],
        &["up"],
        &["down"],
        &["logs"],
        &["destroy"],
    ];
    for words in table {
        let arguments: Vec<&str> = words.iter().chain(&["--help"]).copied().collect();
        let help = String::from_utf8(plasma(&arguments).stdout).unwrap();
        let example = format!("  plasma {}", words.join(" "));
        assert!(help.contains("Examples:") && help.contains(&example), "{words:?}: {help}");
    }
}

#[test]
fn the_pictures() {
    let dir = "tests/golden";
    let inventory = format!("{dir}/cluster.json");
    for (output, golden) in [("text", "topology.txt"), ("svg", "topology.svg")] {
        let drawn = plasma(&["topology", &inventory, "-o", output]).stdout;
        let drawn = String::from_utf8(drawn).unwrap();
        let path = format!("{dir}/{golden}");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &drawn).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(drawn, expected, "{path}; UPDATE_GOLDEN=1 writes it anew");
    }
}
