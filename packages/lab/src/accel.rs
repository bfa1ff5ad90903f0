//! Whether this host's KVM runs guests: tried, not believed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::Accel;

/// A guest under a KVM that works is here long before.
const PATIENCE: Duration = Duration::from_secs(15);

/// KVM where a kernel gets as far as looking for its root under it, else software emulation. What
/// was found holds until the host boots again.
pub fn accel(kernel: &Path) -> Accel {
    if !Path::new("/dev/kvm").exists() {
        return Accel::Tcg;
    }
    let verdict = verdict_file();
    if let Some(text) = verdict.as_deref().and_then(|path| fs::read_to_string(path).ok()) {
        return if text.trim() == "kvm" { Accel::Kvm } else { Accel::Tcg };
    }
    let works = boots(kernel);
    if let Some(path) = verdict {
        let _ = fs::create_dir_all(path.parent().unwrap_or(Path::new("/run")));
        let _ = fs::write(path, if works { "kvm" } else { "tcg" });
    }
    if works { Accel::Kvm } else { Accel::Tcg }
}

/// In /run, which is empty after a boot of the host.
fn verdict_file() -> Option<PathBuf> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Path::new("/run/plasma-lab-accel").join(boot.trim()))
}

fn boots(kernel: &Path) -> bool {
    let Ok(dir) = tempfile::tempdir() else { return false };
    let serial = dir.path().join("serial");
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
        .args(["-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-append", "console=ttyS0 panic=-1", "-kernel"])
        .arg(kernel)
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let begun = Instant::now();
    let mut works = false;
    while !works && begun.elapsed() < PATIENCE {
        let said = fs::read(&serial).unwrap_or_default();
        works = String::from_utf8_lossy(&said).contains("Kernel panic");
        if !matches!(child.try_wait(), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    works
}
