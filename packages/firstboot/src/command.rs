//! Runs a command of the system: never a shell, always with an end.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// No command of the agent's own steps takes longer on a machine that works.
const LIMIT: Duration = Duration::from_secs(60);

/// What it printed, or one line on why it failed.
pub(crate) async fn run(program: &Path, args: &[&str]) -> Result<String, String> {
    let name = program.display();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| format!("{name} did not end within {} s", LIMIT.as_secs()))?
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name} {}: {} ({})", args.join(" "), said.trim(), output.status))
}
