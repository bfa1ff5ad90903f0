//! Starts the node's services as systemd units.

use std::time::Duration;

use fault::{Fault, Kind};

use crate::{MachineSettings, codes, command};

/// systemd's own limits end a stop and a start before.
const CHANGES: Duration = Duration::from_secs(240);
const ANSWERS: Duration = Duration::from_secs(30);

/// Starts a unit and waits until systemd says that it started. Starting a running unit is success.
pub(crate) async fn start(machine: &MachineSettings, unit: &str) -> Result<(), Fault> {
    systemctl(machine, "start", unit).await
}

/// How systemd says that a unit stands: `active`, `activating`, `failed`, …
pub(crate) async fn state(machine: &MachineSettings, unit: &str) -> String {
    let args = ["show", "--property=ActiveState", "--value", "--", unit];
    let said = command::run(&machine.tool("systemctl"), &args, ANSWERS).await;
    let word = said.map(|said| String::from_utf8_lossy(&said).trim().to_owned());
    word.ok().filter(|word| !word.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Restarts a unit if it runs.
pub(crate) async fn restart_if_running(machine: &MachineSettings, unit: &str) -> Result<(), Fault> {
    systemctl(machine, "try-restart", unit).await
}

async fn systemctl(machine: &MachineSettings, verb: &str, unit: &str) -> Result<(), Fault> {
    let told = command::run(&machine.tool("systemctl"), &[verb, unit], CHANGES).await;
    told.map(drop).map_err(|failed| {
        let hint = format!("see journalctl -u {unit}; without systemd, set mode = \"process\"");
        Fault::new(codes::UNIT, Kind::Unavailable, failed.what, hint)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_unit_is_what_systemd_says_of_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let tools = dir.path().to_owned();
        let text =
            "#!/bin/sh\ncase $1 in show) echo activating ;; *) echo no >&2; exit 3 ;; esac\n";
        let path = tools.join("systemctl");
        std::fs::write(&path, text).expect("a tool");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a tool");
        let machine = MachineSettings { tools: Some(tools), ..MachineSettings::default() };
        assert_eq!(state(&machine, "x.service").await, "activating");
        let fault = start(&machine, "x.service").await.expect_err("it says no");
        assert_eq!((fault.code, fault.kind), (codes::UNIT, Kind::Unavailable));
        assert!(fault.what.contains("systemctl start x.service failed"), "{fault}");
        std::fs::remove_file(path).expect("the tool");
        assert_eq!(state(&machine, "x.service").await, "unknown");
    }
}
