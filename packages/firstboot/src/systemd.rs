//! Starts the node's services as systemd units.

use fault::{Fault, Kind};
use tokio::process::Command;

use crate::codes;

/// Starts a unit and waits until systemd says that it started. Starting a running unit is success.
///
/// # Errors
/// When systemctl is not there or refuses; its words are in the fault.
pub(crate) async fn start(unit: &str) -> Result<(), Fault> {
    let output =
        Command::new("systemctl").args(["start", unit]).output().await.map_err(|error| {
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
        format!("cannot start {unit}: {}", String::from_utf8_lossy(&output.stderr).trim()),
        format!("see journalctl -u {unit}"),
    ))
}
