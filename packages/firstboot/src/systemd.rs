//! Starts the node's services as systemd units.

use fault::{Fault, Kind};
use tokio::process::Command;

use crate::{MachineSettings, codes};

/// Starts a unit and waits until systemd says that it started. Starting a running unit is success.
pub(crate) async fn start(machine: &MachineSettings, unit: &str) -> Result<(), Fault> {
    systemctl(machine, "start", unit).await
}

/// How systemd says that a unit stands: `active`, `activating`, `failed`, …
pub(crate) async fn state(machine: &MachineSettings, unit: &str) -> String {
    let output = Command::new(machine.tool("systemctl")).args(["is-active", unit]).output().await;
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.ok().filter(|word| !word.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Restarts a unit if it runs.
pub(crate) async fn restart_if_running(machine: &MachineSettings, unit: &str) -> Result<(), Fault> {
    systemctl(machine, "try-restart", unit).await
}

async fn systemctl(machine: &MachineSettings, verb: &str, unit: &str) -> Result<(), Fault> {
    let mut command = Command::new(machine.tool("systemctl"));
    let output = command.args([verb, unit]).output().await.map_err(|error| {
        Fault::new(
            codes::UNIT,
            Kind::Internal,
            format!("cannot run systemctl: {error}"),
            "mode = \"systemd\" needs systemd; set mode = \"process\" elsewhere",
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Fault::new(
        codes::UNIT,
        Kind::Unavailable,
        format!("cannot {verb} {unit}: {}", String::from_utf8_lossy(&output.stderr).trim()),
        format!("see journalctl -u {unit}"),
    ))
}
