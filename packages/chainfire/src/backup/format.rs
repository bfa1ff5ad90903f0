//! The backup file.
//!
//! ```text
//! "CFBACKUP"
//! block*      kind ‖ length (u32) ‖ CRC-32C of kind, length and data (u32) ‖ data
//! SHA-256 of everything before it
//! ```
//!
//! Numbers are big-endian. The kinds, in the order in which they stand: `H`, the head, once, JSON;
//! `s`, `v` and `e`, the sections, any number of blocks each, holding `key length (u32) ‖ value
//! length (u32) ‖ key ‖ value` in the order of keys; `T`, the summary, once, JSON. A block never
//! holds a part of a record.
//!
//! What must stay true: a file is written beside its name, synced, then renamed; the summary is
//! found again by whoever reads the sections; nothing in a file decides how much memory is taken
//! before it was read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::{BufMut, BytesMut};
use fault::Fault;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::{cannot, damaged};
use crate::store::transfer::{Census, Record, Space};

pub(super) const MAGIC: &[u8; 8] = b"CFBACKUP";
/// The version of the format.
pub const FORMAT: u32 = 1;
pub(super) const HEAD: u8 = b'H';
pub(super) const SUMMARY: u8 = b'T';
/// A block is closed when it has reached this size.
const BLOCK: usize = 256 << 10;
/// No block is larger: a record that is the largest there can be, and what was before it.
pub(super) const BLOCK_MAX: usize = 64 << 20;
pub(super) const DIGEST: usize = 32;

pub(super) fn kind_of(space: Space) -> u8 {
    match space {
        Space::Small => b's',
        Space::Versions => b'v',
        Space::Events => b'e',
    }
}

/// Where a backup was taken from, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the format.
    pub format: u32,
    /// The program that wrote it.
    pub program: String,
    /// When it was begun, in RFC 3339, UTC, by the clock of the machine that wrote it.
    pub begun: String,
    /// The endpoint or the data folder it was read from.
    pub source: String,
    /// The cluster's id as etcd's API shows it, in hexadecimal.
    pub cluster_id: String,
    /// The member that it was read from, in hexadecimal.
    pub member_id: String,
    /// Whether it holds everything that was acknowledged before it was begun: the member had asked
    /// a majority. Otherwise it holds what the member had.
    pub linearizable: bool,
    /// The members at that time.
    pub members: Vec<BackupMember>,
}

/// A member at the time of a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMember {
    /// In hexadecimal.
    pub id: String,
    /// Its name; empty for one that was added and never started.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub learner: bool,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The revision: the backup is the store right after it.
    pub revision: i64,
    /// The compaction revision; -1 before the first compaction.
    pub compacted: i64,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and their values.
    pub live_bytes: u64,
    /// Versions of keys, live ones, older ones and deletions.
    pub versions: u64,
    /// Events, for watches that start in the past.
    pub events: u64,
    /// Leases.
    pub leases: u64,
    /// The sections, in order.
    pub sections: Vec<Section>,
}

/// One section of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// `state`, `versions` or `events`.
    pub name: String,
    /// How many records it has.
    pub records: u64,
    /// Bytes of its records.
    pub bytes: u64,
    /// SHA-256 of its records, in hexadecimal.
    pub sha256: String,
}

/// Sums up records as they pass.
pub(super) struct Sum {
    census: Census,
    sections: [(u64, u64, Context); 3],
}

impl Sum {
    pub(super) fn new() -> Sum {
        let section = || (0, 0, Context::new(&SHA256));
        Sum { census: Census::default(), sections: [section(), section(), section()] }
    }

    pub(super) fn see(&mut self, record: &Record, encoded: &[u8]) -> Result<(), Fault> {
        self.census.see(record).map_err(|error| damaged(error.to_string()))?;
        let (records, bytes, digest) = &mut self.sections[record.space as usize];
        *records += 1;
        *bytes += encoded.len() as u64;
        digest.update(encoded);
        Ok(())
    }

    pub(super) fn end(self) -> Summary {
        let sections = Space::ALL.into_iter().zip(self.sections).map(|(space, section)| Section {
            name: space.name().to_owned(),
            records: section.0,
            bytes: section.1,
            sha256: hex(section.2.finish().as_ref()),
        });
        Summary {
            revision: self.census.revision,
            compacted: self.census.compacted,
            keys: self.census.keys,
            live_bytes: self.census.live_bytes,
            versions: self.census.versions,
            events: self.census.events,
            leases: self.census.leases,
            sections: sections.collect(),
        }
    }
}

/// The lower-case hexadecimal form.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

pub(super) fn encode(record: &Record, out: &mut BytesMut) {
    out.put_u32(record.key.len() as u32);
    out.put_u32(record.value.len() as u32);
    out.put_slice(&record.key);
    out.put_slice(&record.value);
}

/// A file on its way. It goes when it is dropped before [`Writer::finish`].
pub(super) struct Writer {
    out: BufWriter<File>,
    digest: Context,
    written: u64,
    sum: Sum,
    block: BytesMut,
    space: Space,
    path: PathBuf,
    scratch: Scratch,
}

/// A file that goes when it is dropped.
struct Scratch(Option<PathBuf>);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Writer {
    /// Begins a file that will have this name. One that is there is refused.
    pub(super) fn create(path: &Path, head: &Head) -> Result<Writer, Fault> {
        if path.exists() {
            return Err(cannot(path, "write", "it exists", "name a file that does not exist"));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        let hint = "name a file in a folder that exists, with room, and that you may write";
        let file = private(&part).map_err(|e| cannot(&part, "write", &e.to_string(), hint))?;
        let mut writer = Writer {
            out: BufWriter::with_capacity(1 << 20, file),
            digest: Context::new(&SHA256),
            written: 0,
            sum: Sum::new(),
            block: BytesMut::with_capacity(BLOCK + 4096),
            space: Space::Small,
            path: path.to_owned(),
            scratch: Scratch(Some(part)),
        };
        writer.put(MAGIC)?;
        writer.put_block(HEAD, &json(head)?)?;
        Ok(writer)
    }

    /// Bytes so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn record(&mut self, record: &Record) -> Result<(), Fault> {
        if record.space != self.space || self.block.len() >= BLOCK {
            self.flush()?;
            self.space = record.space;
        }
        let before = self.block.len();
        encode(record, &mut self.block);
        self.sum.see(record, &self.block[before..])
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let block = self.block.split();
        if block.is_empty() { Ok(()) } else { self.put_block(kind_of(self.space), &block) }
    }

    fn put_block(&mut self, kind: u8, data: &[u8]) -> Result<(), Fault> {
        let mut head = [kind, 0, 0, 0, 0];
        head[1..].copy_from_slice(&(data.len() as u32).to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), data);
        self.put(&head)?;
        self.put(&crc.to_be_bytes())?;
        self.put(data)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.digest.update(bytes);
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|e| lost(&self.path, &e))
    }

    /// Ends the file, makes it durable and gives it its name. Answers what it holds, its checksum
    /// and its bytes.
    pub(super) fn finish(mut self) -> Result<(Summary, String, u64), Fault> {
        self.flush()?;
        let sum = std::mem::replace(&mut self.sum, Sum::new()).end();
        self.put_block(SUMMARY, &json(&sum)?)?;
        let whole = self.digest.clone().finish();
        let failed = |e: std::io::Error| lost(&self.path, &e);
        self.out.write_all(whole.as_ref()).map_err(failed)?;
        self.out.flush().map_err(failed)?;
        self.out.get_ref().sync_all().map_err(failed)?;
        let Some(part) = &self.scratch.0 else { return Err(damaged("it was finished already")) };
        std::fs::rename(part, &self.path).map_err(failed)?;
        self.scratch.0 = None;
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok((sum, hex(whole.as_ref()), self.written + DIGEST as u64))
    }
}

/// A new file that only its owner reads: it holds every value of the cluster.
fn private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600).open(path)
}

fn lost(path: &Path, why: &std::io::Error) -> Fault {
    cannot(path, "write", &why.to_string(), "check the disk and its room, then take it again")
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec_pretty(value).map_err(|e| damaged(e.to_string()))
}
