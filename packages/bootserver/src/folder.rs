//! The state folder: one cluster's identity, and what the boot server has promised.
//!
//! ```text
//! lock           held while a boot server runs here
//! cluster.json   the cluster's name and id; written last by `init`, so its presence means whole
//! ca/            the cluster CA
//! server/        the boot server's own certificate      cert.pem key.pem ca.pem
//! operator/      the first operator's certificate       cert.pem key.pem ca.pem
//! registry.json  tokens, enrolled keys, the grant to form
//! progress.json  the nodes' latest reports; may lag by a second, decides nothing
//! machines.json  the machines that asked what to boot; may lag by a second as well
//! dhcp/          what the dnsmasq that is run needs, if one is
//! ```
//!
//! Every file is replaced whole (write, fsync, rename, fsync of the folder). A promise is on disk
//! before anybody hears of it.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fault::{Code, Fault, Kind};
use identity::{Authority, SpiffeId, TlsFiles, write_file};
use inventory::Inventory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::certificates::{Wanted, ensure};
use crate::codes;
use crate::settings::CertificateSettings;

const VERSION: u32 = 1;
/// No file of ours comes near this.
const MAX_BYTES: u64 = 64 << 20;

/// An open state folder; nobody else has it open.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    cluster: ClusterFile,
    _lock: File,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    name: String,
    id: String,
}

/// What every JSON file of the folder is wrapped in.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    content: T,
}

/// Whether `init` had anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// The folder is new, or its making was cut short before.
    Made,
    /// It was whole already.
    Already,
}

impl Folder {
    /// Makes the CA, the cluster's id and the operator's certificate. Running it again, or after
    /// it was cut short at any point, completes what is missing and changes nothing else.
    pub fn init(
        dir: &Path,
        inventory: &Inventory,
        certificates: &CertificateSettings,
    ) -> Result<(Folder, Init), Fault> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| storage("create", dir, &e))?;
        let lock = lock(dir)?;
        let name = &inventory.cluster.name;
        let path = dir.join("cluster.json");
        let known: Option<ClusterFile> = read(&path)?;
        if let Some(known) = &known
            && known.name != *name
        {
            return Err(other_cluster(dir, &known.name, name));
        }
        let ca_dir = dir.join("ca");
        let authority = if Authority::exists(&ca_dir) {
            Authority::load(&ca_dir)?
        } else {
            Authority::create(name, &ca_dir)?
        };
        if authority.cluster() != name {
            return Err(other_cluster(dir, authority.cluster(), name));
        }
        let already = if known.is_some() { Init::Already } else { Init::Made };
        let cluster = known.unwrap_or_else(|| ClusterFile {
            name: name.clone(),
            id: uuid::Uuid::now_v7().to_string(),
        });
        let folder = Folder { dir: dir.to_owned(), cluster, _lock: lock };
        folder.renew_operator(&authority, certificates)?;
        if already == Init::Made {
            write(&path, &folder.cluster)?;
        }
        Ok((folder, already))
    }

    /// Opens what `init` made.
    pub fn open(dir: &Path) -> Result<Folder, Fault> {
        let path = dir.join("cluster.json");
        let missing = || {
            Fault::new(
                codes::NOT_INITIALISED,
                Kind::Precondition,
                format!("{} is no state folder of a boot server", dir.display()),
                format!("make it: bootserver init --dir {} --inventory <file>", dir.display()),
            )
        };
        if !path.exists() {
            return Err(missing());
        }
        let lock = lock(dir)?;
        let cluster = read(&path)?.ok_or_else(missing)?;
        Ok(Folder { dir: dir.to_owned(), cluster, _lock: lock })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster.name
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        &self.cluster.id
    }

    /// Refuses the inventory of another cluster.
    pub fn check(&self, inventory: &Inventory) -> Result<(), Fault> {
        if inventory.cluster.name == self.cluster.name {
            return Ok(());
        }
        Err(other_cluster(&self.dir, &self.cluster.name, &inventory.cluster.name))
    }

    /// The cluster CA.
    pub fn authority(&self) -> Result<Authority, Fault> {
        Ok(Authority::load(&self.dir.join("ca"))?)
    }

    /// The boot server's own certificate.
    pub fn server_files(&self) -> TlsFiles {
        TlsFiles::in_dir(self.dir.join("server"))
    }

    /// The first operator's certificate.
    pub fn operator_files(&self) -> TlsFiles {
        operator_files(&self.dir)
    }

    /// Makes the operator's certificate, or renews it when its time has come.
    pub fn renew_operator(
        &self,
        authority: &Authority,
        certificates: &CertificateSettings,
    ) -> Result<bool, Fault> {
        let id = SpiffeId::operator(&self.cluster.name, "admin")?;
        let wanted = Wanted { id, sans: Vec::new(), days: certificates.own_days };
        ensure(authority, &self.operator_files(), &wanted)
    }

    /// A file of the folder, or `None` when it was never written.
    pub(crate) fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Fault> {
        read(&self.dir.join(name))
    }

    /// Replaces a file of the folder.
    pub(crate) fn store<T: Serialize>(&self, name: &str, content: &T) -> Result<(), Fault> {
        write(&self.dir.join(name), content)
    }
}

/// Where the first operator's certificate is in a state folder.
pub fn operator_files(dir: &Path) -> TlsFiles {
    TlsFiles::in_dir(dir.join("operator"))
}

fn lock(dir: &Path) -> Result<File, Fault> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| storage("open", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Fault::new(
            codes::BUSY,
            Kind::Precondition,
            format!("another boot server runs on {}", dir.display()),
            "stop it first, or give this one a folder of its own",
        )),
        Err(TryLockError::Error(error)) => Err(storage("lock", &path, &error)),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Fault> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(storage("read", path, &error)),
    };
    if size > MAX_BYTES {
        return Err(damaged(path, format!("it has {size} bytes")));
    }
    let text = std::fs::read(path).map_err(|e| storage("read", path, &e))?;
    let versioned: Versioned<serde_json::Value> =
        serde_json::from_slice(&text).map_err(|e| damaged(path, e.to_string()))?;
    if versioned.version != VERSION {
        return Err(damaged(path, format!("it has version {}", versioned.version)));
    }
    serde_json::from_value(versioned.content).map(Some).map_err(|e| damaged(path, e.to_string()))
}

fn write<T: Serialize>(path: &Path, content: &T) -> Result<(), Fault> {
    let text = serde_json::to_vec_pretty(&Versioned { version: VERSION, content })
        .map_err(|e| damaged(path, e.to_string()))?;
    Ok(write_file(path, &text, 0o600)?)
}

pub(crate) fn storage(action: &str, path: &Path, error: &std::io::Error) -> Fault {
    Fault::new(
        codes::STORAGE,
        Kind::Internal,
        format!("cannot {action} {}: {error}", path.display()),
        "check the disk and who may write there",
    )
}

fn damaged(path: &Path, why: String) -> Fault {
    Fault::new(
        codes::DAMAGED,
        Kind::Corrupt,
        format!("{} cannot be understood: {why}", path.display()),
        "restore the state folder from its backup, or use the version that wrote it",
    )
}

fn other_cluster(dir: &Path, has: &str, wants: &str) -> Fault {
    Fault::new(
        codes::OTHER_CLUSTER,
        Kind::Precondition,
        format!("{} belongs to cluster {has:?}, the inventory to {wants:?}", dir.display()),
        "use a folder for each cluster; a cluster's name cannot change",
    )
}

/// Reads and checks an inventory's file.
pub fn read_inventory(path: &Path) -> Result<Inventory, Vec<Fault>> {
    let fault = |code: Code, what: String, hint: &str| Fault::new(code, Kind::Invalid, what, hint);
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("the inventory {} cannot be read: {error}", path.display());
        vec![fault(codes::NO_INVENTORY, what, "give the JSON made of nodes/cluster.nix")]
    })?;
    Inventory::parse(&text).map_err(|mut faults| {
        let what = format!("the inventory {} has {} faults", path.display(), faults.len());
        faults.insert(0, fault(codes::BAD_INVENTORY, what, "mend each of these"));
        faults
    })
}
