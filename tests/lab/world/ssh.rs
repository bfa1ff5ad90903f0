//! Logs in on machines, as an operator does: with OpenSSH.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use lab::Lab;

/// Runs a command there as root, with this key and in no other way. The machine's own key must be
/// the line that it enrolled with; a rescue system's is known to nobody.
pub(crate) fn ssh(
    lab: &Lab,
    address: &str,
    key: &Path,
    host_key: Option<&str>,
    command: &str,
) -> Result<Output> {
    let known = lab.dir().join("known_hosts");
    let (lines, strict) = match host_key {
        Some(line) => (format!("{address} {line}\n"), "yes"),
        None => (String::new(), "no"),
    };
    std::fs::write(&known, lines)?;
    let options = [
        format!("UserKnownHostsFile={}", known.display()),
        format!("StrictHostKeyChecking={strict}"),
        "BatchMode=yes".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "ConnectTimeout=60".to_owned(),
    ];
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-i"]).arg(key).args(["-l", "root"]);
    ssh.args(options.iter().flat_map(|option| ["-o", option]));
    ssh.args([address, command]).output().context("run ssh: install openssh-client")
}

/// What the command printed; its failure is one.
pub(crate) fn said(out: &Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{}: {}", out.status, errors.trim());
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
