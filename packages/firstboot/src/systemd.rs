//! Starts the node's services as systemd units.

use fault::{Fault, Kind};
use tokio::process::Command;

use crate::codes;

/// Starts a unit and waits until systemd says that it started. Starting a running unit is success.
pub(crate) async fn start(unit: &str) -> Result<(), Fault> {
    systemctl("start", unit).await
}

/// Restarts a unit if it runs.
pub(crate) async fn restart_if_running(unit: &str) -> Result<(), Fault> {
    systemctl("try-restart", unit).await
}

async fn systemctl(verb: &str, unit: &str) -> Result<(), Fault> {
    let output = Command::new("systemctl").args([verb, unit]).output().await.map_err(|error| {
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
