//! The files of one folder, so that tests can lose them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

use crate::JournalError;

/// The files of one folder. Names are plain file names.
///
/// What a crash keeps: bytes written before the last `sync_data` of their file, and names made or
/// removed before the last `sync_dir`. All else may be there, in part, or not.
pub trait Disk: Send + Sync + 'static {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new, empty file; an error if it exists.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing the one that had the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; open handles stay usable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends it.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes room for `len` bytes now, extending it, so that later writes within need none.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Writes all bytes at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads until the buffer or the file ends; returns how many bytes.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes bytes and length durable. After an error nothing is known about them.
    fn sync_data(&self) -> io::Result<()>;
}

/// A folder of the file system, held by a lock as long as this lives.
pub struct RealDisk {
    dir: PathBuf,
    folder: File,
    _lock: File,
}

impl RealDisk {
    /// Opens a folder, making it if needed. An error if another process has it.
    pub fn open(dir: &Path) -> Result<Arc<RealDisk>, JournalError> {
        let failed = |action| {
            move |source| JournalError::Io { action, file: dir.display().to_string(), source }
        };
        std::fs::create_dir_all(dir).map_err(failed("make the folder of"))?;
        let lock = options(true).create(true).open(dir.join(LOCK)).map_err(failed("lock"))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(JournalError::Locked { dir: dir.display().to_string() });
            }
            Err(errno) => return Err(failed("lock")(errno.into())),
        }
        let folder = File::open(dir).map_err(failed("open the folder of"))?;
        // The folder's own name must survive as well.
        if let Some(parent) = dir.canonicalize().ok().as_deref().and_then(Path::parent) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync"))?;
        }
        Ok(Arc::new(RealDisk { dir: dir.into(), folder, _lock: lock }))
    }
}

const LOCK: &str = "LOCK";

fn options(write: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(rustix::fs::OFlags::CLOEXEC.bits() as i32);
    options.mode(0o600);
    options
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(options(true).create_new(true).open(self.dir.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(options(true).open(self.dir.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.folder.sync_all()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // The zeros that are written next take the room instead.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.0.set_len(len),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.0.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
