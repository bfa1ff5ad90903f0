//! The TFTP folder: the boot loaders that firmware fetches, and nothing else.

use std::fs::{self, DirBuilder, Permissions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fault::{Fault, Kind};

use crate::codes;

/// What a BIOS machine loads: iPXE on the card's own driver.
pub(super) const BIOS_LOADER: &str = "undionly.kpxe";
/// What a UEFI machine loads: iPXE.
pub(super) const UEFI_LOADER: &str = "ipxe.efi";

/// Where the loaders are served from. dnsmasq reads them after it has given up root, and the state
/// folder is closed to everybody else; so root keeps them in `/run`.
pub(super) fn tftp_dir(dir: &Path, root: bool) -> PathBuf {
    if root { run_dir(dir).join("tftp") } else { dir.join("tftp") }
}

fn run_dir(dir: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    Path::new("/run/bootserver").join(format!("{:016x}", hasher.finish()))
}

/// Copies the loaders; a folder that is there already is brought up to date. As root, dnsmasq reads
/// them as somebody else, whatever this process's umask is.
pub(super) fn stage(loaders: &Path, tftp: &Path, root: bool) -> Result<(), Fault> {
    DirBuilder::new().recursive(true).create(tftp).map_err(|e| storage("create", tftp, &e))?;
    // the state folder of one who is not root stays as closed as it is
    let run = tftp.parent().filter(|_| root);
    for dir in run.and_then(Path::parent).into_iter().chain(run).chain([tftp]) {
        fs::set_permissions(dir, Permissions::from_mode(0o755))
            .map_err(|e| storage("open", dir, &e))?;
    }
    for name in [BIOS_LOADER, UEFI_LOADER] {
        let (from, to) = (loaders.join(name), tftp.join(name));
        let bytes = fs::read(&from).map_err(|e| {
            Fault::new(
                codes::NO_LOADER,
                Kind::Precondition,
                format!("the boot loader {} cannot be read: {e}", from.display()),
                "install iPXE (Debian: ipxe) and name its folder in boot.loaders",
            )
        })?;
        let half = tftp.join(format!(".{name}.new"));
        fs::write(&half, bytes)
            .and_then(|()| fs::set_permissions(&half, Permissions::from_mode(0o644)))
            .and_then(|()| fs::rename(&half, &to))
            .map_err(|e| storage("write", &to, &e))?;
    }
    Ok(())
}

/// Takes away what lies outside the state folder.
pub(super) fn unstage(tftp: &Path, root: bool) {
    let Some(run) = tftp.parent().filter(|_| root) else { return };
    if let Err(error) = fs::remove_dir_all(run)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, dir = %run.display(), "the tftp folder stays");
    }
}

pub(super) fn storage(verb: &str, path: &Path, error: &io::Error) -> Fault {
    Fault::new(
        codes::STORAGE,
        Kind::Unavailable,
        format!("cannot {verb} {}: {error}", path.display()),
        "check permissions and space",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_copied_and_kept_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("ipxe"), dir.path().join("a/tftp"));
        fs::create_dir(&from).unwrap();
        let fault = stage(&from, &to, false).unwrap_err();
        assert_eq!(fault.code, codes::NO_LOADER, "{fault}");
        fs::write(from.join("real"), "one").unwrap();
        // Debian's loaders are links
        std::os::unix::fs::symlink("real", from.join(UEFI_LOADER)).unwrap();
        fs::write(from.join(BIOS_LOADER), "bios").unwrap();
        stage(&from, &to, false).unwrap();
        fs::write(from.join("real"), "two").unwrap();
        stage(&from, &to, false).unwrap();
        assert_eq!(fs::read_to_string(to.join(UEFI_LOADER)).unwrap(), "two");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
        let mode = fs::metadata(to.join(BIOS_LOADER)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn folders_are_open_whatever_the_umask_made_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let (from, top) = (dir.path().join("ipxe"), dir.path().join("bootserver"));
        fs::create_dir(&from).unwrap();
        for name in [BIOS_LOADER, UEFI_LOADER] {
            fs::write(from.join(name), name).unwrap();
        }
        let (run, tftp) = (top.join("0"), top.join("0/tftp"));
        let modes = || {
            [&top, &run, &tftp].map(|dir| fs::metadata(dir).unwrap().permissions().mode() & 0o777)
        };
        // as a umask of 077 leaves them
        fs::create_dir_all(&tftp).unwrap();
        let close = || {
            for dir in [&tftp, &run, &top] {
                fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
            }
        };
        close();
        stage(&from, &tftp, false).unwrap();
        assert_eq!(modes(), [0o700, 0o700, 0o755]);
        close();
        stage(&from, &tftp, true).unwrap();
        assert_eq!(modes(), [0o755; 3]);
    }

    #[test]
    fn two_state_folders_have_two_run_folders() {
        assert_ne!(run_dir("/a".as_ref()), run_dir("/b".as_ref()));
        assert_eq!(tftp_dir("/a".as_ref(), false), Path::new("/a/tftp"));
    }
}
