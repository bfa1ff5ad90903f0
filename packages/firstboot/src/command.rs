//! Runs the system's commands: arguments as they are, never a shell, always with a deadline. Only
//! the services themselves are started elsewhere, in `supervisor`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fault::{Fault, Kind};
use tokio::process::Command;

use crate::codes;

/// What is kept of an error stream.
const STDERR_MAX: usize = 2000;

/// Runs a command to its end and gives what it printed. Its error stream is in the fault.
pub(crate) async fn run<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    within: Duration,
) -> Result<Vec<u8>, Fault> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let shown: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
    let shown = format!("{name} {}", shown.join(" "));
    tracing::debug!(command = shown, "running");
    let mut command = Command::new(program);
    // what tools print is read by this program: in their own words, not in the operator's language
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let Ok(ended) = tokio::time::timeout(within, command.output()).await else {
        return Err(fault(format!("{shown} did not end within {} s", within.as_secs())));
    };
    let output = ended.map_err(|error| fault(format!("cannot run {shown}: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let mut said: String = stderr.trim().chars().take(STDERR_MAX).collect();
    if said.is_empty() {
        said = "it said nothing".to_owned();
    }
    Err(fault(format!("{shown} failed ({}): {said}", output.status)))
}

/// Trying again is safe: every act begins with a look at what is there.
fn fault(what: String) -> Fault {
    Fault::new(
        codes::DISK_COMMAND,
        Kind::Unavailable,
        what,
        "it is tried again; if it stays, run the command by hand on the machine and mend its cause",
    )
}
