//! What needs no cloud: exit codes, help, completions, and the inventory's check.

use std::process::{Command, Output};

fn plasma(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plasma"));
    command.args(arguments).env("PLASMA_HOME", "/nonexistent/plasma").output().unwrap()
}

#[test]
fn exit_codes() {
    let table: [(&[&str], i32); 8] = [
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
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for part in ["PL-1008", "INV-1005 cluster.name", "INV-1009 nodes.a.roles[0]", "nodes.a.address"]
    {
        assert!(errors.contains(part), "{part} in {errors}");
    }
}
