//! Files of the state folder, the lock on it, and the ledger as people read it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use fault::{Fault, Kind};
use steps::{Ledger, Outcome};

use crate::agent::state_fault;
use crate::{Settings, codes};

/// The content of a file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(state_fault(format!("cannot read {}: {error}", path.display()))),
    }
}

/// The ledger, if there is one. One that cannot be read is no reason to stop: it informs, the
/// probes decide.
pub(crate) fn read_ledger(path: &Path) -> Result<Option<Ledger>, Fault> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    match Ledger::decode(&String::from_utf8_lossy(&bytes)) {
        Ok(ledger) => Ok(Some(ledger)),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the ledger is damaged, starting a new one");
            Ok(None)
        }
    }
}

/// Writes a file that anybody may read, durably: a power cut leaves the old one or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    Ok(identity::write_file(path, bytes, 0o644)?)
}

/// Writes a file of the system that other users' programs read, whatever the agent's umask is; the
/// folders that are missing too.
pub(crate) fn publish(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| !dir.exists()).collect();
    write(path, bytes)?;
    let open = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|error| state_fault(format!("cannot open {}: {error}", path.display())))
    };
    missing.into_iter().try_for_each(|folder| open(folder, 0o755))?;
    open(path, 0o644)
}

fn make_folder(folder: &Path) -> Result<(), Fault> {
    make(folder, 0o755)
}

/// A folder that only the agent's user may look into.
pub(crate) fn make_private_folder(folder: &Path) -> Result<(), Fault> {
    make(folder, 0o700)
}

fn make(folder: &Path, mode: u32) -> Result<(), Fault> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)
        .map_err(|error| state_fault(format!("cannot make {}: {error}", folder.display())))
}

/// Whether a folder has anything in it; one that is not there has nothing.
pub(crate) fn is_empty(folder: &Path) -> Result<bool, Fault> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(state_fault(format!("cannot read {}: {error}", folder.display()))),
    }
}

/// Makes sure that no second agent works on the same state or machine; the lock ends with the process.
///
/// # Errors
/// When the folder cannot be made, or another agent holds it.
pub fn lock(settings: &Settings) -> Result<File, Fault> {
    let path = settings.lock();
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let file = File::create(&path)
        .map_err(|error| state_fault(format!("cannot write {}: {error}", path.display())))?;
    file.try_lock().map_err(|_| {
        Fault::new(
            codes::STATE,
            Kind::Precondition,
            format!("another firstboot works on {}", settings.state_dir.display()),
            "stop it first; where nothing is installed, a state_dir of its own will do",
        )
    })?;
    Ok(file)
}

/// The ledger as a table for people.
///
/// # Errors
/// When there is a ledger and it cannot be read.
pub fn describe_ledger(settings: &Settings) -> Result<String, Fault> {
    let path = settings.ledger();
    let Some(bytes) = read(&path)? else {
        return Ok(format!("nothing was done yet: there is no {}\n", path.display()));
    };
    let ledger = Ledger::decode(&String::from_utf8_lossy(&bytes))
        .map_err(|error| state_fault(format!("cannot read {}: {error}", path.display())))?;
    let mut text = format!("generation {}, run {}\n", ledger.generation, ledger.runs);
    for (step, record) in &ledger.steps {
        let state = match &record.outcome {
            Outcome::Running => "running".to_owned(),
            Outcome::Done => "done".to_owned(),
            Outcome::Waiting { reason } => format!("waiting: {reason}"),
            Outcome::Off { reason } => format!("off: {reason}"),
            Outcome::Failed { code, what, hint } => format!("failed: {code} {what}, {hint}"),
        };
        text.push_str(&format!("{:9} {:>8} ms  {state}\n", step.name(), record.millis));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_agent_starts_and_the_lock_is_on_no_disk_that_may_be_taken_down() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for target in ["none", "lab", "nixos"] {
            let text = format!(
                "bootserver = \"https://x\"\nca = \"/x\"\nstate_dir = {:?}\ntarget = {target:?}\n\
                 [machine]\nroot = {:?}\n",
                dir.path().join("state"),
                dir.path().join("root"),
            );
            let settings: Settings = settings::parse(Path::new("x.toml"), &text).expect("settings");
            let held = lock(&settings).expect("nobody holds it");
            let fault = lock(&settings).expect_err("it is held");
            assert_eq!(fault.kind, Kind::Precondition);
            drop(held);
            lock(&settings).map(drop).expect("it was let go");
            assert_eq!(dir.path().join("state/lock").exists(), target == "none", "{target}");
            let _ = fs::remove_dir_all(dir.path().join("state"));
        }
    }
}
