//! The data folder: its lock, who it belongs to, and where the process listens.
//!
//! `lock` is held while the process lives. `member.json` says whose data this is: it is written
//! before a join is asked for (with the nonce) and again before Raft starts (with the id), so that
//! a crash in between is repeated with the same nonce and gets the same id.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fault::{Fault, Kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codes;

const FORMAT: u32 = 1;

/// The folder of one member, locked.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Held, not read.
    _lock: File,
}

/// Whose data a folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owner {
    format: u32,
    /// The cluster.
    pub cluster_id: Uuid,
    /// The member's name.
    pub name: String,
    /// Tells this life of the folder from an earlier one.
    pub nonce: Uuid,
    /// The member's id, once it is known.
    pub member_id: Option<u64>,
    /// Whether this member formed the cluster. Set together with the id: one that joined never
    /// forms, whatever the settings say later.
    pub formed: bool,
    /// Whether Raft has started here, so that votes and acknowledgements may have been given. From
    /// then on the journal is never empty: one that is has forgotten them.
    pub started: bool,
}

/// Where the process really listens, for tests and tools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Clients over TLS.
    pub client: Option<String>,
    /// Other members.
    pub peer: Option<String>,
    /// Probes and metrics.
    pub ops: Option<String>,
    /// Clients without TLS.
    pub plaintext: Option<String>,
    /// Gossip, over UDP.
    pub gossip: Option<String>,
    /// The member.
    pub member_id: u64,
    /// The process.
    pub pid: u32,
}

impl DataDir {
    /// Makes the folder if it is missing, and takes it for this process.
    pub(crate) fn open(path: &Path) -> Result<DataDir, Fault> {
        make(path)
            .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)))
            .map_err(|e| unusable(path, &e))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| unusable(&lock_path, &e))?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDir { path: path.to_owned(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => Err(Fault::new(
                codes::LOCKED,
                Kind::Precondition,
                format!("data folder {} is in use by another process", path.display()),
                "stop that process, or set data_dir to another folder",
            )),
            Err(std::fs::TryLockError::Error(e)) => Err(unusable(&lock_path, &e)),
        }
    }

    /// A path in the folder.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the folder of a member that does not run, as it is.
    pub(crate) fn existing(path: &Path) -> Result<(DataDir, Owner), Fault> {
        let file = path.join("member.json");
        let text = std::fs::read_to_string(&file).map_err(|e| unusable(&file, &e))?;
        let owner: Owner = serde_json::from_str(&text).map_err(|e| unusable(&file, &e))?;
        if owner.format != FORMAT {
            let what = format!("format {}, this is {FORMAT}", owner.format);
            return Err(unusable(&file, &what));
        }
        Ok((DataDir::open(path)?, owner))
    }

    /// Whose data this is. A fresh folder becomes `name`'s with a new nonce; data of another
    /// cluster or member is refused.
    pub(crate) fn owner(&self, cluster_id: Uuid, name: &str) -> Result<Owner, Fault> {
        let path = self.join("member.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return self.new_owner(cluster_id, name);
            }
            Err(e) => return Err(unusable(&path, &e)),
        };
        let owner: Owner = serde_json::from_str(&text).map_err(|e| unusable(&path, &e))?;
        let foreign = |what: String| {
            let hint = "correct the settings, or move the folder away and join anew";
            Err(Fault::new(codes::FOREIGN_DATA, Kind::Precondition, what, hint))
        };
        let here = self.path.display();
        if owner.format != FORMAT {
            return foreign(format!("{here} has format {}, this is {FORMAT}", owner.format));
        }
        if owner.cluster_id != cluster_id {
            return foreign(format!(
                "{here} belongs to cluster {}, the settings say {cluster_id}",
                owner.cluster_id
            ));
        }
        if owner.name != name {
            return foreign(format!("{here} belongs to {}, the settings say {name}", owner.name));
        }
        Ok(owner)
    }

    fn new_owner(&self, cluster_id: Uuid, name: &str) -> Result<Owner, Fault> {
        // A restore begins with the spool; a member that starts has its member.json before it has one.
        for data in ["journal", "engine", "spool"] {
            if self.join(data).exists() {
                return Err(Fault::new(
                    codes::FOREIGN_DATA,
                    Kind::Precondition,
                    format!("{} holds data but no member.json", self.path.display()),
                    "repeat the restore if one was cut here, in an empty folder; else put member.json \
                     back, or move the folder away and join anew",
                ));
            }
        }
        let owner = self.fresh_owner(cluster_id, name);
        self.keep_owner(&owner)?;
        Ok(owner)
    }

    /// The owner of a folder that is to become `name`'s, not written down yet.
    pub(crate) fn fresh_owner(&self, cluster_id: Uuid, name: &str) -> Owner {
        Owner {
            format: FORMAT,
            cluster_id,
            name: name.to_owned(),
            nonce: Uuid::new_v4(),
            member_id: None,
            formed: false,
            started: false,
        }
    }

    /// Writes the owner down; durable when this returns.
    pub(crate) fn keep_owner(&self, owner: &Owner) -> Result<(), Fault> {
        self.replace("member.json", &json(owner)?)
    }

    /// The number of this run of the process: larger than all before it, and near the wall clock,
    /// so that also a folder that lost this file goes on with larger ones.
    pub(crate) fn next_run(&self, unix_ms: u64) -> Result<u64, Fault> {
        let path = self.join("run");
        let last = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(unusable(&path, &e)),
        };
        let run = unix_ms.max(u64::saturating_add(last, 1));
        self.replace("run", run.to_string().as_bytes())?;
        Ok(run)
    }

    /// Says where the process listens.
    pub(crate) fn keep_endpoints(&self, endpoints: &Endpoints) -> Result<(), Fault> {
        self.replace("endpoints.json", &json(endpoints)?)
    }

    /// Takes back what [`DataDir::keep_endpoints`] said.
    pub(crate) fn forget_endpoints(&self) {
        let _ = std::fs::remove_file(self.join("endpoints.json"));
    }

    /// The file has the old content or the new one, whatever happens.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        let (path, scratch) = (self.join(name), self.join(&format!("{name}.new")));
        let write = || {
            let mut file = File::create(&scratch)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&scratch, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|e: std::io::Error| unusable(&path, &e))
    }
}

/// The cluster whose data is in a folder, if it is anybody's.
pub(crate) fn known_cluster(folder: &Path) -> Result<Option<Uuid>, Fault> {
    let path = folder.join("member.json");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let owner: Owner = serde_json::from_str(&text).map_err(|e| unusable(&path, &e))?;
            Ok(Some(owner.cluster_id))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unusable(&path, &e)),
    }
}

/// Makes a folder and those above it; what is new is durable by its name, too.
fn make(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    make(above)?;
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    File::open(above)?.sync_all()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec_pretty(value)
        .map_err(|e| Fault::new(codes::DATA_DIR, Kind::Internal, e.to_string(), ""))
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Fault {
    Fault::new(
        codes::DATA_DIR,
        Kind::Precondition,
        format!("{} cannot be used: {why}", path.display()),
        "check that it exists, is owned by this user and has free space",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        assert_eq!(DataDir::open(dir.path()).unwrap_err().code, codes::LOCKED);
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_is_made_with_those_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some/where");
        DataDir::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for below in [file.join("below"), file] {
            assert_eq!(DataDir::open(&below).unwrap_err().code, codes::DATA_DIR);
        }
    }

    #[test]
    fn a_folder_remembers_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let cluster = Uuid::new_v4();
        let mut owner = data.owner(cluster, "a").unwrap();
        assert_eq!(data.owner(cluster, "a").unwrap(), owner, "the nonce stays");
        owner.member_id = Some(7);
        data.keep_owner(&owner).unwrap();
        assert_eq!(data.owner(cluster, "a").unwrap().member_id, Some(7));
        let other = data.owner(Uuid::new_v4(), "a").unwrap_err();
        assert_eq!(other.code, codes::FOREIGN_DATA);
        assert!(other.what.contains("belongs to cluster"), "{other}");
        assert_eq!(data.owner(cluster, "b").unwrap_err().code, codes::FOREIGN_DATA);
    }

    #[test]
    fn data_without_an_owner_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        for part in ["journal", "engine", "spool"] {
            std::fs::create_dir(dir.path().join(part)).unwrap();
            let fault = data.owner(Uuid::new_v4(), "a").unwrap_err();
            assert!(fault.what.contains("no member.json"), "{part}: {fault}");
            std::fs::remove_dir(dir.path().join(part)).unwrap();
        }
        std::fs::write(dir.path().join("member.json"), "{").unwrap();
        assert_eq!(data.owner(Uuid::new_v4(), "a").unwrap_err().code, codes::DATA_DIR);
    }
}
