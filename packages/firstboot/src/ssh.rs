//! Operators get in by their keys, and know the machine by its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fault::{Fault, Kind};
use inventory::Inventory;

use crate::agent::state_fault;
use crate::{MachineSettings, codes, command, files};

const AUTHORIZED: &str = "/etc/ssh/authorized_keys.d/root";
const HOST_KEY: &str = "/etc/ssh/keys/ssh_host_ed25519_key";
const UNIT: &str = "ssh.service";
/// Making a key takes no longer, even where the processor is software.
const SHORT: Duration = Duration::from_secs(60);

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
    files::publish(&path, text.as_bytes())
}

/// Whether the machine has its host key, and both halves are written.
pub(crate) fn has_host_key(machine: &MachineSettings) -> bool {
    let [key, public] = host_key_paths(machine);
    is_written(&key) && public_line(&public).is_some()
}

fn is_written(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

/// A public key without its comment.
fn public_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let mut words = text.split_whitespace();
    Some(format!("{} {}", words.next()?, words.next()?))
}

/// Has systemd start sshd, if it does not run. Its unit is left out of a boot on which there was no
/// key yet, and a key may come to light with the disk.
pub(crate) async fn start(machine: &MachineSettings) -> bool {
    tell_sshd(machine, "start").await
}

async fn tell_sshd(machine: &MachineSettings, verb: &str) -> bool {
    let told = command::run(&machine.tool("systemctl"), &["--no-block", verb, UNIT], SHORT).await;
    if let Err(fault) = &told {
        tracing::warn!(%fault, "sshd was not started: nobody can log in over the network");
    }
    told.is_ok()
}

fn host_key_paths(machine: &MachineSettings) -> [PathBuf; 2] {
    [machine.path(HOST_KEY), machine.path(&format!("{HOST_KEY}.pub"))]
}

/// Makes the host key, if there is none, and lets sshd know. Both halves are on the disk before
/// they have their names, and the private one gets its name last: cut anywhere, this runs again. A
/// private half that is there stays, since people know the machine by it.
pub(crate) async fn make_host_key(machine: &MachineSettings) -> Result<(), Fault> {
    let [key, public] = host_key_paths(machine);
    if !has_host_key(machine) && !derive_public(machine).await {
        let folder = key.parent().unwrap_or(&key);
        files::make_private_folder(folder)?;
        let new = folder.join("new");
        for left in [new.clone(), folder.join("new.pub")] {
            let _ = fs::remove_file(left);
        }
        let path = new.to_string_lossy();
        let args = ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &path];
        command::run(&machine.tool("ssh-keygen"), &args, SHORT).await.map_err(|failed| {
            let hint = "the image needs openssh's ssh-keygen";
            Fault::new(codes::HOST_KEY, Kind::Unavailable, failed.what, hint)
        })?;
        let keep = |error: std::io::Error| state_fault(format!("cannot keep the key: {error}"));
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(keep)?;
        for half in [&new, &folder.join("new.pub")] {
            fs::File::open(half).and_then(|file| file.sync_all()).map_err(keep)?;
        }
        fs::rename(folder.join("new.pub"), &public).map_err(keep)?;
        fs::rename(&new, &key).map_err(keep)?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(keep)?;
    }
    // sshd reads its keys when it starts; without one it could not start before
    tell_sshd(machine, "restart").await;
    Ok(())
}

/// Makes the public half from the private one; false where there is none that can be read.
async fn derive_public(machine: &MachineSettings) -> bool {
    let [key, public] = host_key_paths(machine);
    if !is_written(&key) {
        return false;
    }
    let path = key.to_string_lossy();
    let args = ["-y", "-P", "", "-f", &path];
    match command::run(&machine.tool("ssh-keygen"), &args, SHORT).await {
        Ok(line) => files::write(&public, &line).is_ok() && has_host_key(machine),
        Err(fault) => {
            tracing::warn!(%fault, "the host key cannot be read: a new one is made");
            false
        }
    }
}

/// The host key's public line, without a comment; `None` when there is none.
pub(crate) fn host_key(machine: &MachineSettings) -> Option<String> {
    // the second is where a system that keeps its own has it
    let paths = [format!("{HOST_KEY}.pub"), "/etc/ssh/ssh_host_ed25519_key.pub".to_owned()];
    paths.iter().find_map(|path| public_line(&machine.path(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(dir: &std::path::Path) -> MachineSettings {
        let tools = dir.join("tools");
        fs::create_dir_all(&tools).expect("tools");
        let systemctl = format!("#!/bin/sh\necho $* >>{}/told\n", dir.display());
        fs::write(tools.join("systemctl"), systemctl).expect("a tool");
        let all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(tools.join("systemctl"), all).expect("a tool");
        MachineSettings { root: dir.join("root"), tools: Some(tools) }
    }

    #[tokio::test]
    #[allow(clippy::print_stderr, reason = "says what it leaves out")]
    async fn the_host_key_is_made_once_and_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let machine = machine(dir.path());
        let real = ["/usr/bin/ssh-keygen", "/bin/ssh-keygen"];
        let Some(real) = real.iter().find(|path| fs::exists(path).unwrap_or(false)) else {
            eprintln!("left out: there is no ssh-keygen here");
            return;
        };
        assert_eq!(host_key(&machine), None);
        // without the tool it waits, and leaves nothing behind that looks like a key
        let fault = make_host_key(&machine).await.expect_err("no ssh-keygen");
        assert_eq!((fault.code, fault.kind), (codes::HOST_KEY, Kind::Unavailable));
        assert!(!has_host_key(&machine));
        std::os::unix::fs::symlink(real, machine.tool("ssh-keygen")).expect("a link");
        // cut between the two renames: the public half of a key that was lost
        let [key, public] = host_key_paths(&machine);
        fs::write(&public, "ssh-ed25519 OLD").expect("half a key");
        assert!(!has_host_key(&machine));
        make_host_key(&machine).await.expect("a key");
        let line = host_key(&machine).expect("a public line");
        assert!(line.starts_with("ssh-ed25519 AAAA") && !line.contains("OLD"), "{line}");
        assert_eq!(fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600);
        make_host_key(&machine).await.expect("it is there");
        assert_eq!(host_key(&machine), Some(line.clone()));
        // the public half was cut: people go on to know the machine by the same key
        fs::write(&public, "").expect("an empty file");
        assert!(!has_host_key(&machine));
        make_host_key(&machine).await.expect("the public half");
        assert_eq!(host_key(&machine), Some(line.clone()));
        // the private half was cut: nothing is left of that key
        fs::write(&key, "").expect("an empty file");
        assert!(!has_host_key(&machine));
        make_host_key(&machine).await.expect("a new key");
        assert!(host_key(&machine).is_some_and(|new| new != line));
        let told = fs::read_to_string(dir.path().join("told")).expect("what systemctl was told");
        assert_eq!(told, "--no-block restart ssh.service\n".repeat(4));
    }

    #[test]
    fn operators_and_nobody_else_get_in() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let machine = machine(dir.path());
        let mut inventory = Inventory::parse(Inventory::built_in()).expect("built in");
        let operator = |name: &str, key: &str| inventory::Operator {
            name: name.to_owned(),
            ssh_keys: vec![key.to_owned()],
        };
        inventory.operators = vec![operator("ann", "ssh-ed25519 A"), operator("bob", "ssh-rsa B ")];
        authorize(&machine, &inventory).expect("keys are written");
        let text = || fs::read_to_string(machine.path(AUTHORIZED)).expect("a file");
        assert_eq!(text(), "ssh-ed25519 A\nssh-rsa B\n");
        inventory.operators.remove(0);
        authorize(&machine, &inventory).expect("keys are written");
        assert_eq!(text(), "ssh-rsa B\n");
    }
}
