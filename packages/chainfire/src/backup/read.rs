//! Reads backup files back. Anything that does not fit is an error, and nothing of a file counts
//! before its end was found to be right.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use bytes::{Buf, Bytes};
use consensus::Fatal;
use fault::Fault;
use ring::digest::{Context, SHA256};

use super::format::{
    BLOCK_MAX, DIGEST, FORMAT, HEAD, Head, MAGIC, SUMMARY, Sum, Summary, hex, kind_of,
};
use super::{cannot, damaged, foreign};
use crate::store::transfer::{Record, Space};

/// The records of a file, checked while they are read. The last item is an error, or the file was
/// whole: then there is a [`Reader::summary`].
pub(super) struct Reader {
    from: BufReader<File>,
    digest: Context,
    at: u64,
    head: Head,
    sum: Option<Sum>,
    space: Space,
    block: Bytes,
    whole: Option<(Summary, String)>,
    done: bool,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Reader, Fault> {
        let unreadable = |e: std::io::Error| {
            cannot(path, "read", &e.to_string(), "name a file that you may read")
        };
        let from = BufReader::with_capacity(1 << 20, File::open(path).map_err(unreadable)?);
        let head = Head {
            format: 0,
            program: String::new(),
            begun: String::new(),
            source: String::new(),
            cluster_id: String::new(),
            member_id: String::new(),
            linearizable: false,
            members: Vec::new(),
        };
        let mut reader = Reader {
            from,
            digest: Context::new(&SHA256),
            at: 0,
            head,
            sum: Some(Sum::new()),
            space: Space::Small,
            block: Bytes::new(),
            whole: None,
            done: false,
        };
        if reader.read(MAGIC.len())? != MAGIC[..] {
            return Err(foreign("it is no backup of chainfire"));
        }
        let (kind, head) = reader.next_block()?;
        if kind != HEAD {
            return Err(damaged("it has no head"));
        }
        let known: Format =
            serde_json::from_slice(&head).map_err(|e| damaged(format!("head: {e}")))?;
        if known.format != FORMAT {
            let what = format!("it has format {}, this program reads {FORMAT}", known.format);
            return Err(foreign(&what));
        }
        reader.head = serde_json::from_slice(&head).map_err(|e| damaged(format!("head: {e}")))?;
        Ok(reader)
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.at
    }

    /// What it holds, and its checksum, once it was read to its end.
    pub(super) fn summary(&self) -> Option<&(Summary, String)> {
        self.whole.as_ref()
    }

    fn read(&mut self, bytes: usize) -> Result<Bytes, Fault> {
        let mut out = Vec::new();
        // It grows as data comes: a length that lies takes no memory.
        let mut limited = (&mut self.from).take(bytes as u64);
        limited.read_to_end(&mut out).map_err(|e| damaged(e.to_string()))?;
        if out.len() < bytes {
            return Err(damaged("it is cut"));
        }
        self.digest.update(&out);
        self.at += bytes as u64;
        Ok(out.into())
    }

    fn next_block(&mut self) -> Result<(u8, Bytes), Fault> {
        let at = self.at;
        let mut head = self.read(9)?;
        let start = head.clone();
        let (kind, length, crc) = (head.get_u8(), head.get_u32() as usize, head.get_u32());
        if length > BLOCK_MAX {
            return Err(damaged(format!("the length of the block at {at} is impossible")));
        }
        let data = self.read(length)?;
        if crc32c::crc32c_append(crc32c::crc32c(&start[..5]), &data) != crc {
            return Err(damaged(format!("the checksum of the block at {at} is wrong")));
        }
        Ok((kind, data))
    }

    /// The next record; none after the last.
    pub(super) fn record(&mut self) -> Result<Option<Record>, Fault> {
        if self.whole.is_some() {
            return Ok(None);
        }
        while self.block.is_empty() {
            let (kind, data) = self.next_block()?;
            let space = Space::ALL.into_iter().find(|space| kind_of(*space) == kind);
            match space {
                Some(space) if space >= self.space => (self.space, self.block) = (space, data),
                None if kind == SUMMARY => {
                    self.end(&data)?;
                    return Ok(None);
                }
                _ => return Err(damaged("its blocks are out of order")),
            }
        }
        let block = &mut self.block;
        if block.len() < 8 {
            return Err(damaged("a record is cut"));
        }
        let whole = block.clone();
        let (key, value) = (block.get_u32() as usize, block.get_u32() as usize);
        if block.len() < key.saturating_add(value) {
            return Err(damaged("a record is cut"));
        }
        let record =
            Record { space: self.space, key: block.split_to(key), value: block.split_to(value) };
        match &mut self.sum {
            Some(sum) => sum.see(&record, &whole[..8 + key + value])?,
            None => return Err(damaged("it goes on after its end")),
        }
        Ok(Some(record))
    }

    fn end(&mut self, data: &[u8]) -> Result<(), Fault> {
        let says: Summary =
            serde_json::from_slice(data).map_err(|e| damaged(format!("summary: {e}")))?;
        let found = self.sum.take().ok_or_else(|| damaged("it ends twice"))?.end();
        if says != found {
            return Err(damaged("it does not hold what its summary says"));
        }
        let whole = self.digest.clone().finish();
        if self.read(DIGEST)? != whole.as_ref() {
            return Err(damaged("the checksum of the whole is wrong"));
        }
        if self.from.read(&mut [0]).map_err(|e| damaged(e.to_string()))? != 0 {
            return Err(damaged("it goes on after its end"));
        }
        self.whole = Some((found, hex(whole.as_ref())));
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = Result<Record, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.record().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next.map(|record| record.map_err(Fatal::new))
    }
}

/// What every format begins with.
#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}
