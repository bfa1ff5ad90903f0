//! Snapshots on their way in: gathered in a file, verified, then installed.
//!
//! A file `<group>-<n>.part` is being filled or waits for its turn; it goes when nobody holds it.
//! `<group>.install` is whole, verified and durable, and is being installed: if a crash cuts that,
//! it is installed again at the next start, before anything else. A snapshot is never whole in
//! memory.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::raft as pb;
use bytes::Bytes;
use prost::Message;

use crate::error::{ConsensusError, Fatal};
use crate::machine::SnapshotSource;
use crate::raft::SnapshotMeta;
use crate::types::GroupId;
use crate::wire;

const MAGIC: &[u8; 8] = b"PLSNAP01";
/// Length of the frame that ends a file.
const END: u32 = u32::MAX;
/// No frame is larger.
pub(crate) const MAX_CHUNK: usize = 1 << 20;

/// What the Raft library carries as a snapshot's content.
pub(crate) enum Body {
    /// Only a position: what the machine has made durable.
    Nothing,
    /// A view of the machine, to be sent.
    View(Box<dyn SnapshotSource>),
    /// A file that was received.
    File(Part),
}

/// The folder.
#[derive(Clone)]
pub(crate) struct Spool {
    dir: Arc<Path>,
    next: Arc<AtomicU64>,
}

/// A file that goes when it is dropped, unless it is installed.
pub(crate) struct Part {
    path: PathBuf,
}

impl Part {
    /// Its length; 0 if it cannot be told.
    pub(crate) fn bytes(&self) -> usize {
        fs::metadata(&self.path).map_or(0, |file| file.len() as usize)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn spool_error(path: &Path) -> impl Fn(io::Error) -> ConsensusError + '_ {
    move |source| ConsensusError::Spool { path: path.display().to_string(), source }
}

impl Spool {
    /// Opens the folder and removes what an earlier life left unfinished.
    pub(crate) fn open(dir: &Path) -> Result<Self, ConsensusError> {
        let fail = spool_error(dir);
        fs::create_dir_all(dir).map_err(&fail)?;
        for entry in fs::read_dir(dir).map_err(&fail)? {
            let path = entry.map_err(&fail)?.path();
            if path.extension().is_some_and(|e| e == "part") {
                tracing::info!(path = %path.display(), "removing an unfinished snapshot");
                fs::remove_file(&path).map_err(spool_error(&path))?;
            }
        }
        Ok(Self { dir: dir.into(), next: Arc::new(AtomicU64::new(0)) })
    }

    /// Begins a file.
    pub(crate) fn begin(&self, group: GroupId, meta: &SnapshotMeta) -> io::Result<Writer> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{group:016x}-{n}.part"));
        let file = File::options().write(true).create_new(true).open(&path)?;
        let mut writer = Writer {
            out: BufWriter::with_capacity(256 << 10, file),
            part: Part { path },
            chunks: 0,
            bytes: 0,
        };
        writer.out.write_all(MAGIC)?;
        let head = pb::SnapshotHead {
            address: None,
            vote: None,
            last: meta.last_log_id.as_ref().map(wire::log_id),
            members: Some(wire::stored_membership(&meta.last_membership)),
        };
        writer.frame(&head.encode_to_vec())?;
        Ok(writer)
    }

    fn install_path(&self, group: GroupId) -> PathBuf {
        self.dir.join(format!("{group:016x}.install"))
    }

    /// From now on a crash does not lose the installation.
    pub(crate) fn commit(&self, group: GroupId, part: Part) -> io::Result<Installing> {
        let path = self.install_path(group);
        fs::rename(&part.path, &path)?;
        File::open(&*self.dir)?.sync_all()?;
        Ok(Installing { path })
    }

    /// An installation that a crash has cut.
    pub(crate) fn interrupted(&self, group: GroupId) -> Option<Installing> {
        Self::interrupted_in(&self.dir, group)
    }

    /// The same of a folder that is only looked at.
    pub(crate) fn interrupted_in(dir: &Path, group: GroupId) -> Option<Installing> {
        let path = dir.join(format!("{group:016x}.install"));
        path.exists().then_some(Installing { path })
    }
}

/// A file that is being filled.
pub(crate) struct Writer {
    out: BufWriter<File>,
    part: Part,
    chunks: u64,
    bytes: u64,
}

impl Writer {
    fn frame(&mut self, data: &[u8]) -> io::Result<()> {
        self.out.write_all(&(data.len() as u32).to_le_bytes())?;
        self.out.write_all(&crc32c::crc32c(data).to_le_bytes())?;
        self.out.write_all(data)
    }

    pub(crate) fn chunk(&mut self, data: &[u8]) -> io::Result<()> {
        self.chunks += 1;
        self.bytes += data.len() as u64;
        self.frame(data)
    }

    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the file and makes it durable.
    pub(crate) fn finish(mut self) -> io::Result<Part> {
        self.out.write_all(&END.to_le_bytes())?;
        self.out.write_all(&self.chunks.to_le_bytes())?;
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        Ok(self.part)
    }
}

/// A whole file on its way into the machine.
pub(crate) struct Installing {
    path: PathBuf,
}

impl Installing {
    /// The position and members it leads to, and its chunks.
    pub(crate) fn read(&self) -> Result<(SnapshotMeta, Chunks), Fatal> {
        let file = File::open(&self.path).map_err(Fatal::new)?;
        let mut chunks =
            Chunks { from: BufReader::with_capacity(256 << 10, file), seen: 0, ended: false };
        let mut magic = [0; 8];
        chunks.from.read_exact(&mut magic).map_err(Fatal::new)?;
        if &magic != MAGIC {
            return Err(Fatal::new("snapshot file: unknown format"));
        }
        let head = chunks.frame()?.ok_or_else(|| Fatal::new("snapshot file: no head"))?;
        chunks.seen = 0;
        let head = pb::SnapshotHead::decode(head).map_err(Fatal::new)?;
        let meta = meta_of(&head).map_err(Fatal::new)?;
        Ok((meta, chunks))
    }

    /// It is installed and durable.
    pub(crate) fn done(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Position and members of a snapshot's head.
pub(crate) fn meta_of(head: &pb::SnapshotHead) -> Result<SnapshotMeta, wire::Malformed> {
    Ok(SnapshotMeta {
        last_log_id: wire::from_log_id_of(head.last.as_ref())?,
        last_membership: wire::from_stored_membership(head.members.clone().unwrap_or_default())?,
    })
}

/// The chunks of a file, verified one by one.
pub(crate) struct Chunks {
    from: BufReader<File>,
    seen: u64,
    ended: bool,
}

impl Chunks {
    fn frame(&mut self) -> Result<Option<Bytes>, Fatal> {
        let mut word = [0; 4];
        self.from.read_exact(&mut word).map_err(Fatal::new)?;
        let len = u32::from_le_bytes(word);
        if len == END {
            let mut count = [0; 8];
            self.from.read_exact(&mut count).map_err(Fatal::new)?;
            if u64::from_le_bytes(count) != self.seen {
                return Err(Fatal::new("snapshot file: chunks are missing"));
            }
            return Ok(None);
        }
        if len as usize > 2 * MAX_CHUNK {
            return Err(Fatal::new("snapshot file: impossible length"));
        }
        self.from.read_exact(&mut word).map_err(Fatal::new)?;
        let crc = u32::from_le_bytes(word);
        let mut data = vec![0; len as usize];
        self.from.read_exact(&mut data).map_err(Fatal::new)?;
        if crc32c::crc32c(&data) != crc {
            return Err(Fatal::new("snapshot file: checksum mismatch"));
        }
        self.seen += 1;
        Ok(Some(data.into()))
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.frame().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> SnapshotMeta {
        SnapshotMeta { last_log_id: None, last_membership: Default::default() }
    }

    fn whole(spool: &Spool) -> Installing {
        let mut writer = spool.begin(1, &meta()).unwrap();
        writer.chunk(b"one").unwrap();
        writer.chunk(b"two").unwrap();
        spool.commit(1, writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn a_file_comes_back_as_it_was_and_goes_when_done() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let file = whole(&spool);
        let (read, chunks) = file.read().unwrap();
        assert_eq!(read, meta());
        let chunks: Vec<Bytes> = chunks.map(Result::unwrap).collect();
        assert_eq!(chunks, ["one", "two"]);
        assert!(spool.interrupted(1).is_some());
        file.done().unwrap();
        assert!(spool.interrupted(1).is_none());
    }

    #[test]
    fn a_damaged_or_cut_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let file = whole(&spool);
        let bytes = fs::read(&file.path).unwrap();
        for cut in 0..bytes.len() {
            fs::write(&file.path, &bytes[..cut]).unwrap();
            let whole = file.read().is_ok_and(|(_, mut chunks)| chunks.all(|c| c.is_ok()));
            assert!(!whole, "cut at {cut}");
        }
        for flip in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[flip] ^= 0x10;
            fs::write(&file.path, &damaged).unwrap();
            let whole = file.read().is_ok_and(|(_, mut chunks)| chunks.all(|c| c.is_ok()));
            assert!(!whole, "flipped at {flip}");
        }
    }

    #[test]
    fn what_is_unfinished_goes_at_once_or_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        drop(spool.begin(1, &meta()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let lost = spool.begin(1, &meta()).unwrap();
        std::mem::forget(lost);
        Spool::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
