//! What all tests of the lab share: one image, a folder, a thread inside a network.

#![allow(clippy::print_stderr, reason = "what is left out is said where the test's output goes")]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use lab::{Accel, Lab, Options};

/// An install or a boot that takes longer does not go on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(400);

/// Runs a test in a lab, or says what the machine lacks for that.
pub(crate) fn test(
    change: impl FnOnce(&mut Options),
    body: impl AsyncFnOnce(&mut Lab) -> Result<()>,
) -> Result<()> {
    if let Some(why) = lacking() {
        eprintln!("left out: {why}");
        return Ok(());
    }
    // one lab at a time: an emulated machine is slow enough with the processors to itself
    let turn = File::create("/run/plasma-lab/turn")?;
    turn.lock()?;
    let image = lab::image::image(None)?;
    let dir = Folder::new()?;
    let mut options = Options::new(&dir.0, &image.dir);
    // the same everywhere, so that what passes here passes elsewhere
    options.accel = Accel::Tcg;
    change(&mut options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // the lab takes this thread into its network, and it must be there before sockets are made
    let mut lab = Lab::prepare(&options)?;
    let done = runtime?.block_on(async {
        lab.server.start().await?;
        body(&mut lab).await
    });
    drop(lab);
    if done.is_err() {
        eprintln!("consoles and logs stay in {}", dir.0.display());
        std::mem::forget(dir);
    }
    done
}

/// A folder that goes with the test, unless it failed.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        // short: a socket's path has room for a hundred bytes; and not in memory
        let made = tempfile::Builder::new().prefix("plasma-lab-").tempdir_in("/var/tmp")?;
        Ok(Folder(made.keep()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lacking() -> Option<String> {
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mmdebstrap", "mmdebstrap"),
        ("mksquashfs", "squashfs-tools"),
        ("dnsmasq", "dnsmasq-base"),
        ("ssh-keygen", "openssh-client"),
        ("setpriv", "util-linux"),
        ("ip", "iproute2"),
    ] {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
        if !found.is_ok_and(|out| out.status.success()) {
            return Some(format!("{program} is missing: install {package}"));
        }
    }
    for (file, package) in [
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
        ("/usr/lib/ipxe/undionly.kpxe", "ipxe"),
        ("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
    ] {
        if !std::path::Path::new(file).exists() {
            return Some(format!("{file} is missing: install {package}"));
        }
    }
    lab::netns::lacking()
}
