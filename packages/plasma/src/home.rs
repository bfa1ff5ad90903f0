//! The folder of a cloud on this machine.
//!
//! ```text
//! .plasma-cloud      our marker: only a folder that has it is ever started in or removed
//! lock               held by the supervisor while the cloud runs
//! supervisor.json    its process id and start time
//! cluster.json       the inventory; of `up` on loopback, of `serve` as it was given
//! serve.json         of `serve`: where it serves
//! bootserver.toml    settings;  bootserver/  state, CA, operator's certificate
//! nodes/<node>/      firstboot.toml, join-token (0600), state/
//! logs/<name>.log    one file a process
//! ```

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fault::{Fault, Kind};
use identity::{TlsFiles, write_file};
use inventory::Inventory;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::process::{self, Process};

const MARKER: &str = ".plasma-cloud";

/// The folder of a cloud; it may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
}

/// The supervisor of a running cloud.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Supervisor {
    pub(crate) pid: u32,
    /// In clock ticks since boot: together with the id it names one process for ever.
    pub(crate) started: u64,
    /// What an earlier run left behind is gone: whatever answers now is this run's.
    pub(crate) alone: bool,
}

impl Home {
    /// The folder that is asked for, or `$PLASMA_HOME`, or `~/.local/share/plasma`.
    pub(crate) fn locate(asked: Option<PathBuf>) -> Result<Home, Fault> {
        let from_env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let dir = match asked.or_else(|| from_env("PLASMA_HOME").map(PathBuf::from)) {
            Some(dir) => dir,
            None => match (from_env("XDG_DATA_HOME"), from_env("HOME")) {
                (Some(data), _) => Path::new(&data).join("plasma"),
                (None, Some(home)) => Path::new(&home).join(".local/share/plasma"),
                (None, None) => {
                    return Err(Fault::new(
                        codes::FOLDER,
                        Kind::Invalid,
                        "neither --dir nor PLASMA_HOME nor HOME says where the cloud is",
                        "give --dir",
                    ));
                }
            },
        };
        let dir = std::path::absolute(&dir).map_err(|e| folder("find", &dir, &e))?;
        Ok(Home { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Refuses a folder without a cloud.
    pub(crate) fn must_exist(&self) -> Result<(), Fault> {
        if self.has_marker() {
            return Ok(());
        }
        Err(Fault::new(
            codes::NO_CLOUD,
            Kind::NotFound,
            format!("{} holds no cloud", self.dir.display()),
            "make one: plasma up; or say where it is: --dir",
        ))
    }

    fn has_marker(&self) -> bool {
        let marker = self.dir.join(MARKER).symlink_metadata();
        marker.is_ok_and(|metadata| metadata.is_file())
    }

    /// Makes the folder, for its owner alone; refuses one that has something else in it than the
    /// images that `plasma serve` looks for before there is a cloud.
    pub(crate) fn create(&self) -> Result<(), Fault> {
        if !self.has_marker() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)
                .map_err(|e| folder("create", &self.dir, &e))?;
            let mut entries = self.dir.read_dir().map_err(|e| folder("read", &self.dir, &e))?;
            let has_images = self.images_dir().join("manifest.json").is_file();
            let is_other = |entry: std::io::Result<std::fs::DirEntry>| {
                !(has_images && entry.is_ok_and(|entry| entry.path() == self.images_dir()))
            };
            if entries.any(is_other) {
                return Err(Fault::new(
                    codes::NOT_OURS,
                    Kind::Precondition,
                    format!("{} is not empty and holds no cloud", self.dir.display()),
                    "give a new or empty folder: --dir",
                ));
            }
            let text =
                format!("A PlasmaCloud on this machine, made by plasma {}.\n", telemetry::VERSION);
            write_file(&self.dir.join(MARKER), text.as_bytes(), 0o600)?;
        }
        for dir in [self.dir.join("logs"), self.dir.join("nodes")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|e| folder("create", &dir, &e))?;
        }
        Ok(())
    }

    /// Takes the folder for this process; the lock ends with the returned file, however the
    /// process ends.
    pub(crate) fn lock(&self) -> Result<File, Fault> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| folder("open", &path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                let by = self.supervisor().map(|s| format!(" (pid {})", s.pid)).unwrap_or_default();
                Err(Fault::new(
                    codes::RUNNING,
                    Kind::Precondition,
                    format!("a cloud runs in {} already{by}", self.dir.display()),
                    "look at it: plasma status; stop it: plasma down",
                ))
            }
            Err(TryLockError::Error(error)) => Err(folder("lock", &path, &error)),
        }
    }

    /// Whether somebody holds the lock.
    pub(crate) fn is_locked(&self) -> bool {
        let Ok(file) = File::open(self.dir.join("lock")) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Notes that this process supervises, and how far it is.
    pub(crate) fn note_supervisor(&self, alone: bool) -> Result<(), Fault> {
        let pid = std::process::id();
        let started = Process::of(pid).map(|p| p.started).unwrap_or_default();
        let text = serde_json::to_vec(&Supervisor { pid, started, alone }).unwrap_or_default();
        Ok(write_file(&self.dir.join("supervisor.json"), &text, 0o600)?)
    }

    /// The supervisor, if it lives: a process of the same id that started at another time is
    /// somebody else.
    pub(crate) fn supervisor(&self) -> Option<Supervisor> {
        let text = std::fs::read(self.dir.join("supervisor.json")).ok()?;
        let noted: Supervisor = serde_json::from_slice(&text).ok()?;
        let now = Process::of(noted.pid)?;
        (now.started == noted.started).then_some(noted)
    }

    /// All processes that this cloud consists of, its supervisor aside: their command lines name
    /// files of this folder.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let prefix = format!("{}/", self.dir.display());
        let ours = |p: &Process| {
            let program = p.arguments.first().map(|a| a.rsplit('/').next().unwrap_or(a));
            let is_program = matches!(program, Some("bootserver" | "firstboot" | "chainfire"));
            is_program && p.arguments.iter().skip(1).any(|a| a.starts_with(&prefix))
        };
        process::all().filter(ours).collect()
    }

    /// The inventory of the last start.
    pub(crate) fn inventory(&self) -> Result<Option<Inventory>, Fault> {
        let path = self.inventory_path();
        match std::fs::read_to_string(&path) {
            Ok(text) => match Inventory::parse(&text) {
                Ok(inventory) => Ok(Some(inventory)),
                Err(faults) => Err(bad_inventory(&path, &faults)),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(folder("read", &path, &error)),
        }
    }

    pub(crate) fn inventory_path(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// Where `plasma serve` serves.
    pub(crate) fn served_path(&self) -> PathBuf {
        self.dir.join("serve.json")
    }

    pub(crate) fn bootserver_toml(&self) -> PathBuf {
        self.dir.join("bootserver.toml")
    }

    pub(crate) fn bootserver_dir(&self) -> PathBuf {
        self.dir.join("bootserver")
    }

    /// What machines boot, unless it is said where else.
    pub(crate) fn images_dir(&self) -> PathBuf {
        self.dir.join("images")
    }

    pub(crate) fn operator(&self) -> TlsFiles {
        bootserver::operator_files(&self.bootserver_dir())
    }

    pub(crate) fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Removes the cloud and everything in it.
    pub(crate) fn remove(&self) -> Result<(), Fault> {
        self.must_exist()?;
        let _lock = self.lock()?;
        // the marker goes last: a removal that is cut short can be repeated
        let entries = self.dir.read_dir().map_err(|e| folder("read", &self.dir, &e))?;
        for entry in entries {
            let entry = entry.map_err(|e| folder("read", &self.dir, &e))?;
            if entry.file_name() == MARKER {
                continue;
            }
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            let removed =
                if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|e| folder("remove", &path, &e))?;
        }
        let marker = self.dir.join(MARKER);
        std::fs::remove_file(&marker).map_err(|e| folder("remove", &marker, &e))?;
        std::fs::remove_dir(&self.dir).map_err(|e| folder("remove", &self.dir, &e))
    }
}

pub(crate) fn folder(action: &str, path: &Path, error: &std::io::Error) -> Fault {
    Fault::new(
        codes::FOLDER,
        Kind::Internal,
        format!("cannot {action} {}: {error}", path.display()),
        "check the path, the disk and who may write there",
    )
}

pub(crate) fn bad_inventory(path: &Path, faults: &[Fault]) -> Fault {
    let all: Vec<String> = faults.iter().map(|f| format!("\n  {f}")).collect();
    Fault::new(
        codes::INVENTORY,
        Kind::Invalid,
        format!("the inventory {} has faults:{}", path.display(), all.concat()),
        "",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(dir.path().join("cloud"))).unwrap();
        (dir, home)
    }

    #[test]
    fn only_a_marked_folder_is_started_in_or_removed() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, home) = home();
        assert_eq!(home.remove().unwrap_err().code, codes::NO_CLOUD);
        std::fs::create_dir(home.dir()).unwrap();
        std::fs::write(home.dir().join("thesis.txt"), "years of work").unwrap();
        assert_eq!(home.create().unwrap_err().code, codes::NOT_OURS);
        assert_eq!(home.remove().unwrap_err().code, codes::NO_CLOUD);
        std::fs::remove_file(home.dir().join("thesis.txt")).unwrap();
        std::fs::remove_dir(home.dir()).unwrap();

        home.create().unwrap();
        home.create().unwrap();
        let mode = home.dir().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        home.remove().unwrap();
        assert!(!home.dir().exists());
    }

    #[test]
    fn images_may_lie_there_before_the_first_start() {
        let (_dir, home) = home();
        std::fs::create_dir_all(home.images_dir()).unwrap();
        std::fs::write(home.images_dir().join("thesis.txt"), "years of work").unwrap();
        assert_eq!(home.create().unwrap_err().code, codes::NOT_OURS, "no images of ours");
        std::fs::write(home.images_dir().join("manifest.json"), "{}").unwrap();
        std::fs::write(home.dir().join("more.txt"), "").unwrap();
        assert_eq!(home.create().unwrap_err().code, codes::NOT_OURS);
        std::fs::remove_file(home.dir().join("more.txt")).unwrap();
        home.create().unwrap();
        assert!(home.images_dir().join("manifest.json").is_file());
    }

    #[test]
    fn one_supervisor_and_no_recycled_id() {
        let (_dir, home) = home();
        home.create().unwrap();
        assert!(!home.is_locked());
        let lock = home.lock().unwrap();
        home.note_supervisor(false).unwrap();
        assert!(home.is_locked());
        assert_eq!(home.lock().unwrap_err().code, codes::RUNNING);
        assert_eq!(home.remove().unwrap_err().code, codes::RUNNING);
        assert_eq!(home.supervisor().unwrap().pid, std::process::id());
        drop(lock);

        let other = Supervisor { pid: std::process::id(), started: 1, alone: true };
        let text = serde_json::to_vec(&other).unwrap();
        std::fs::write(home.dir().join("supervisor.json"), text).unwrap();
        assert!(home.supervisor().is_none(), "another process with the same id");
    }
}
