//! What a file is, and whether it is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use consensus::Fatal;
use fault::Fault;
use ring::digest::{Context, SHA256};
use serde::Serialize;

use super::etcd::{self, Import};
use super::format::{BackupMember, DIGEST, Head, MAGIC, Sum, Summary, encode, hex};
use super::read::Reader;
use super::{cannot, damaged, foreign};
use crate::store::transfer::{self, Record, Records, Space, Turn};
use crate::store::{Chunks, STREAM_MAGIC};

/// What wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// `chainfire backup save`.
    Backup,
    /// `etcdctl snapshot save` against Chainfire.
    Snapshot,
    /// `etcdctl snapshot save` against etcd, or a copy of its database.
    Etcd,
}

/// What a whole file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspected {
    /// What wrote it.
    pub origin: Origin,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of all that is before its checksum, in hexadecimal; none if the file has no checksum.
    pub sha256: Option<String>,
    /// Where and when it was taken; only a backup says that.
    pub head: Option<Head>,
    /// The members at that time, as far as the file says.
    pub members: Vec<BackupMember>,
    /// Whether etcd's authentication was on in it. Users and roles of etcd are not taken over.
    pub etcd_auth: bool,
    /// What it holds.
    #[serde(flatten)]
    pub summary: Summary,
}

/// Reads a file to its end and says what it holds; refuses one that is not whole. `bare` admits a
/// copy of etcd's database that has no checksum.
pub fn inspect(path: &Path, bare: bool) -> Result<Inspected, Fault> {
    Source::open(path, bare)?.inspect()
}

/// A file whose records can be had.
pub(super) enum Source {
    Backup(Box<Reader>),
    Snapshot(Box<Stream>),
    Etcd(Box<Import>, u64),
}

impl Source {
    pub(super) fn open(path: &Path, bare: bool) -> Result<Source, Fault> {
        let unreadable = |e: std::io::Error| {
            cannot(path, "read", &e.to_string(), "name a file that you may read")
        };
        let mut file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        let mut start = Vec::new();
        (&mut file).take(24).read_to_end(&mut start).map_err(unreadable)?;
        if start.starts_with(MAGIC) {
            Ok(Source::Backup(Box::new(Reader::open(path)?)))
        } else if start.starts_with(STREAM_MAGIC) {
            file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
            Ok(Source::Snapshot(Box::new(Stream::new(file, bytes)?)))
        } else if etcd::is(&start) {
            Ok(Source::Etcd(Box::new(etcd::open(path, bare)?), bytes))
        } else if start.is_empty() {
            Err(damaged("it is empty"))
        } else {
            Err(foreign("the file is of no kind that is known"))
        }
    }

    /// Reads it to its end.
    pub(super) fn inspect(self) -> Result<Inspected, Fault> {
        match self {
            Source::Backup(mut reader) => {
                while reader.record()?.is_some() {}
                let Some((summary, sha256)) = reader.summary().cloned() else {
                    return Err(damaged("it has no end"));
                };
                let head = reader.head().clone();
                Ok(Inspected {
                    origin: Origin::Backup,
                    bytes: reader.bytes(),
                    sha256: Some(sha256),
                    members: head.members.clone(),
                    head: Some(head),
                    etcd_auth: false,
                    summary,
                })
            }
            Source::Snapshot(mut stream) => {
                let bytes = stream.bytes;
                let summary = sum(&mut Records::new(&mut *stream, true))?;
                Ok(Inspected {
                    origin: Origin::Snapshot,
                    bytes,
                    sha256: stream.sha256,
                    head: None,
                    members: Vec::new(),
                    etcd_auth: false,
                    summary,
                })
            }
            Source::Etcd(import, bytes) => Ok(Inspected {
                origin: Origin::Etcd,
                bytes,
                sha256: import.sha256.clone(),
                head: None,
                members: import.members.clone(),
                etcd_auth: import.auth,
                summary: sum(&mut import.records())?,
            }),
        }
    }

    /// Hands the chunks of a store that is made of it to `take`.
    pub(super) fn chunks<T>(
        self,
        turn: Turn,
        take: impl FnOnce(&mut dyn Iterator<Item = Result<Bytes, Fatal>>) -> T,
    ) -> Result<T, Fault> {
        let with = |records: &mut dyn Iterator<Item = Result<Record, Fatal>>| {
            let records = turned(records, turn)?;
            Ok(take(&mut Chunks::new(records)))
        };
        match self {
            Source::Backup(mut reader) => with(&mut *reader),
            Source::Snapshot(mut stream) => with(&mut Records::new(&mut *stream, true)),
            Source::Etcd(import, _) => with(&mut import.records()),
        }
    }
}

fn sum(records: &mut dyn Iterator<Item = Result<Record, Fatal>>) -> Result<Summary, Fault> {
    let mut sum = Sum::new();
    let mut scratch = BytesMut::new();
    for record in records {
        let record = record.map_err(|e| damaged(e.to_string()))?;
        scratch.clear();
        encode(&record, &mut scratch);
        sum.see(&record, &scratch)?;
    }
    Ok(sum.end())
}

/// The records for a new cluster. The small state comes first and is held in memory.
fn turned(
    records: &mut dyn Iterator<Item = Result<Record, Fatal>>,
    turn: Turn,
) -> Result<impl Iterator<Item = Result<Record, Fatal>>, Fault> {
    let mut small = BTreeMap::new();
    let mut first = None;
    for record in &mut *records {
        match record.map_err(|e| damaged(e.to_string()))? {
            Record { space: Space::Small, key, value } => {
                small.insert(key, value);
            }
            other => {
                first = Some(Ok(other));
                break;
            }
        }
    }
    transfer::turn(&mut small, turn).map_err(|e| damaged(e.to_string()))?;
    let small = small.into_iter();
    let small = small.map(|(key, value)| Ok(Record { space: Space::Small, key, value }));
    Ok(small.chain(first).chain(records))
}

/// The chunks of a file that etcd's client saved: what the member sent, then its SHA-256.
pub(super) struct Stream {
    from: BufReader<File>,
    digest: Option<Context>,
    left: u64,
    bytes: u64,
    sha256: Option<String>,
}

impl Stream {
    fn new(file: File, bytes: u64) -> Result<Stream, Fault> {
        let left = bytes.checked_sub(DIGEST as u64).ok_or_else(|| damaged("it is cut"))?;
        Ok(Stream {
            from: BufReader::with_capacity(1 << 20, file),
            digest: Some(Context::new(&SHA256)),
            left,
            bytes,
            sha256: None,
        })
    }

    fn chunk(&mut self) -> Result<Option<Bytes>, Fatal> {
        let Some(digest) = &mut self.digest else { return Ok(None) };
        let want = self.left.min(256 << 10) as usize;
        let mut chunk = vec![0; want.max(DIGEST)];
        if want > 0 {
            chunk.truncate(want);
            self.from.read_exact(&mut chunk).map_err(Fatal::new)?;
            digest.update(&chunk);
            self.left -= want as u64;
            return Ok(Some(chunk.into()));
        }
        self.from.read_exact(&mut chunk).map_err(Fatal::new)?;
        let found = self.digest.take().map(Context::finish);
        if found.is_none_or(|found| found.as_ref() != chunk) {
            return Err(Fatal::new("the checksum at its end is wrong"));
        }
        self.sha256 = Some(hex(&chunk));
        Ok(None)
    }
}

impl Iterator for Stream {
    type Item = Result<Bytes, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        self.chunk().transpose()
    }
}
