//! A small disk of a member's own, that fills up and stands still when it is told to.
//!
//! It is a file with ext4 in it, mounted in a mount namespace that only a keeper and the processes
//! started by [`Disk::enter`] are in: whatever becomes of the test, nothing stays mounted. The
//! keeper takes orders on its standard input and thaws the disk when that ends, so that no process
//! hangs on it for ever. Needs root.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What the keeper does. Arguments: image, mount point.
const KEEPER: &str = r#"
mount -t ext4 -o loop "$1" "$2" && echo done || exit 1
while read -r order; do
  case $order in
    freeze) fsfreeze --freeze "$2" ;;
    thaw) fsfreeze --unfreeze "$2" ;;
    fill) fallocate -l "$(stat -f -c %a "$2")K" "$2/balloon" 2>/dev/null
          while head -c 4096 /dev/zero >> "$2/balloon" 2>/dev/null; do :; done ;;
    empty) rm -f "$2/balloon" ;;
  esac
  echo done
done
fsfreeze --unfreeze "$2" 2>/dev/null
"#;

/// A disk. Dropping it ends its keeper; it is unmounted when the last process on it has ended.
#[derive(Debug)]
pub struct Disk {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    dir: PathBuf,
}

impl Disk {
    /// Makes a disk of so many MiB and mounts it on `dir`, which only who enters sees. None where
    /// that is not allowed.
    pub fn make(dir: &Path, mib: u64) -> Result<Option<Disk>> {
        std::fs::create_dir_all(dir)?;
        let image = dir.with_extension("img");
        std::fs::File::create(&image)?.set_len(mib << 20)?;
        // The blocks of 1 KiB are what the keeper counts in.
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "1024", "-m", "0", "-O", "^has_journal"])
            .arg(&image)
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            return Ok(None);
        }
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", KEEPER, "sh"])
            .args([&image, dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start unshare")?;
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().context("stdout")?);
        let mut disk = Disk { keeper, orders, answers, dir: dir.to_owned() };
        Ok(disk.answer().is_ok().then_some(disk))
    }

    fn answer(&mut self) -> Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line == "done\n", "the disk's keeper said {line:?}");
        Ok(())
    }

    fn order(&mut self, order: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("the keeper has ended")?;
        writeln!(orders, "{order}")?;
        self.answer()
    }

    /// From now on every write waits, and every sync.
    pub fn freeze(&mut self) -> Result<()> {
        self.order("freeze")
    }

    /// They go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.order("thaw")
    }

    /// Leaves no room.
    pub fn fill(&mut self) -> Result<()> {
        self.order("fill")
    }

    /// Gives the room back.
    pub fn empty(&mut self) -> Result<()> {
        self.order("empty")
    }

    /// What stands before a command that is to see the disk.
    pub fn enter(&self) -> Vec<String> {
        let space = format!("--mount=/proc/{}/ns/mnt", self.keeper.id());
        vec!["nsenter".to_owned(), space, "--".to_owned()]
    }

    /// Where this process sees what those inside call `path`.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        path.strip_prefix("/").map_or_else(|_| root.clone(), |path| root.join(path))
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its end of input: it thaws the disk and ends.
        self.orders = None;
        let _ = self.keeper.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_disk_fills_up_and_stands_still() {
        let dir = tempfile::tempdir().unwrap();
        let Some(mut disk) = Disk::make(&dir.path().join("disk"), 16).unwrap() else { return };
        let file = disk.seen(&disk.dir().join("file"));
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        disk.fill().unwrap();
        let full = fs::write(disk.seen(&disk.dir().join("more")), [1; 8192]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        disk.empty().unwrap();
        fs::write(&file, b"fits").unwrap();

        disk.freeze().unwrap();
        let writer = std::thread::spawn({
            let file = file.clone();
            move || fs::write(file, b"waited")
        });
        assert_eq!(fs::read(&file).unwrap(), b"fits");
        disk.thaw().unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"waited");
        // Who enters sees it, others do not.
        assert!(!disk.dir().join("file").exists());
        let enter = disk.enter();
        let seen = Command::new(&enter[0]).args(&enter[1..]).arg("ls").arg(disk.dir()).output();
        assert!(String::from_utf8_lossy(&seen.unwrap().stdout).contains("file"));
    }
}
