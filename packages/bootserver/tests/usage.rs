//! The command itself: exit codes, the check of settings, and a port that somebody has.

use std::path::Path;
use std::process::{Command, Output};

use bootserver::Settings;
use inventory::Inventory;

fn bootserver(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootserver")).args(arguments).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with an inventory, settings with these lines, and what `init` makes.
fn folder(dir: &Path, more: &str) -> String {
    let inventory = Inventory::parse(Inventory::built_in()).unwrap().on_loopback(1).unwrap();
    std::fs::write(dir.join("cluster.json"), inventory.to_json()).unwrap();
    let (state, file) = (dir.join("state"), dir.join("cluster.json"));
    let text = format!("state_dir = {state:?}\ninventory = {file:?}\n{more}");
    std::fs::write(dir.join("bootserver.toml"), text).unwrap();
    let (state, file) = (state.to_str().unwrap(), file.to_str().unwrap());
    let init = bootserver(&["init", "--dir", state, "--inventory", file]);
    assert!(init.status.success(), "{}", errors(&init));
    dir.join("bootserver.toml").to_str().unwrap().to_owned()
}

#[test]
fn exit_codes() {
    let table: [(&[&str], i32); 6] = [
        (&["version"], 0),
        (&["--help"], 0),
        (&["completions", "zsh"], 0),
        (&["--config", "/nonexistent.toml"], 1),
        (&["token", "new"], 2),
        (&["init", "--dir", "/tmp"], 2),
    ];
    for (arguments, code) in table {
        let output = bootserver(arguments);
        assert_eq!(output.status.code(), Some(code), "bootserver {arguments:?}: {output:?}");
    }
    let example = bootserver(&["example"]).stdout;
    assert_eq!(String::from_utf8(example).unwrap(), Settings::EXAMPLE);
}

#[test]
fn settings_are_checked_without_starting() {
    let dir = tempfile::tempdir().unwrap();
    let config = folder(dir.path(), "");
    let good = bootserver(&["--config", &config, "--check-config"]);
    assert!(good.status.success(), "{}", errors(&good));
    let table = [
        ("listne=\"127.0.0.1:1\"", "SET-1003", "did you mean listen?"),
        ("listen=\"here\"", "SET-1004", "listen"),
        ("tokens.default_ttl_seconds=1", "BS-1008", "tokens.default_ttl_seconds is 1"),
        ("inventory=\"/nonexistent\"", "BS-1006", "/nonexistent"),
    ];
    for (set, code, words) in table {
        let bad = bootserver(&["--config", &config, "--check-config", "--set", set]);
        let errors = errors(&bad);
        assert!(!bad.status.success() && errors.contains(code), "{set}: {errors}");
        assert!(errors.contains(words), "{set}: {errors}");
    }
}

#[test]
fn a_port_in_use_and_a_server_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let config =
        folder(dir.path(), &format!("listen = \"{taken}\"\n[ops]\nlisten = \"127.0.0.1:0\"\n"));
    let output = bootserver(&["--config", &config]);
    let text = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("port is in use") && text.contains("ss -ltnp"), "{text}");
    drop(holder);
    let output = bootserver(&["--config", &config, "token", "list"]);
    let text = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot be reached"), "{text}");
}
