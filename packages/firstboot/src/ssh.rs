//! Operators get in by their keys, and know the machine by its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use fault::{Fault, Kind};
use inventory::Inventory;

use crate::agent::state_fault;
use crate::{MachineSettings, codes, command, files};

const AUTHORIZED: &str = "/etc/ssh/authorized_keys.d/root";
const HOST_KEY: &str = "/etc/ssh/keys/ssh_host_ed25519_key";
const UNIT: &str = "ssh.service";

/// Lets in the inventory's operators, and nobody else.
pub(crate) fn authorize(machine: &MachineSettings, inventory: &Inventory) -> Result<(), Fault> {
    let path = machine.path(AUTHORIZED);
    let text: String = inventory
        .operators
        .iter()
        .flat_map(|operator| &operator.ssh_keys)
        .map(|key| format!("{}\n", key.trim()))
        .collect();
    if files::read(&path)?.is_some_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    files::write(&path, text.as_bytes())
}

/// Whether the machine has its host key.
pub(crate) fn has_host_key(machine: &MachineSettings) -> bool {
    host_key_paths(machine).iter().all(|path| path.exists())
}

fn host_key_paths(machine: &MachineSettings) -> [PathBuf; 2] {
    [machine.path(HOST_KEY), machine.path(&format!("{HOST_KEY}.pub"))]
}

/// Makes the host key, if there is none, and lets sshd know. The private half is renamed into
/// place last: cut anywhere, this runs again.
pub(crate) async fn make_host_key(machine: &MachineSettings) -> Result<(), Fault> {
    let [key, public] = host_key_paths(machine);
    if !has_host_key(machine) {
        let folder = key.parent().unwrap_or(&key);
        files::make_private_folder(folder)?;
        let new = folder.join("new");
        for left in [new.clone(), folder.join("new.pub")] {
            let _ = fs::remove_file(left);
        }
        let path = new.to_string_lossy();
        let args = ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &path];
        command::run(&machine.tool("ssh-keygen"), &args).await.map_err(|why| {
            let hint = "the image needs openssh's ssh-keygen";
            Fault::new(codes::HOST_KEY, Kind::Unavailable, why, hint)
        })?;
        let keep = |error: std::io::Error| state_fault(format!("cannot keep the key: {error}"));
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(keep)?;
        fs::File::open(&new).and_then(|file| file.sync_all()).map_err(keep)?;
        fs::rename(folder.join("new.pub"), &public).map_err(keep)?;
        fs::rename(&new, &key).map_err(keep)?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(keep)?;
    }
    // sshd reads its keys when it starts; without one it could not start before
    let args = ["--no-block", "restart", UNIT];
    if let Err(why) = command::run(&machine.tool("systemctl"), &args).await {
        tracing::warn!(%why, "sshd was not started: nobody can log in over the network");
    }
    Ok(())
}

/// The host key's public line, without a comment; `None` when there is none.
pub(crate) fn host_key(machine: &MachineSettings) -> Option<String> {
    // the second is where a system that keeps its own has it
    let paths = [format!("{HOST_KEY}.pub"), "/etc/ssh/ssh_host_ed25519_key.pub".to_owned()];
    let text = paths.iter().find_map(|path| fs::read_to_string(machine.path(path)).ok())?;
    let mut words = text.split_whitespace();
    Some(format!("{} {}", words.next()?, words.next()?))
}
