//! A copy of the store as a stream of chunks, and the way back.
//!
//! A chunk is `checksum ‖ length ‖ records`; the first begins with a magic and the format, the last
//! holds the number of records. A record is `space ‖ key length ‖ value length ‖ key ‖ value`, spaces
//! in order, keys in order. Chunks may be cut differently on the way: reading goes by lengths.

use std::ops::Bound;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::{Fatal, SnapshotSource};
use engine::{EngineError, Order, Snapshot};

use super::layout::Spaces;
use super::transfer::Record;

pub(crate) const MAGIC: &[u8; 8] = b"CFSNAP\0\x01";
/// A chunk is closed when it has reached this size.
const CHUNK: usize = 256 << 10;
/// A chunk that one large value has made larger is given out in pieces of this size.
const PIECE: usize = 512 << 10;
/// Larger than any record can be.
const LARGEST: usize = 64 << 20;
const END: u8 = 255;
/// Pairs read from the engine at a time.
const PAGE: usize = 1024;

/// The chunks of a consistent copy.
pub struct Pack {
    snapshot: Arc<dyn Snapshot>,
    spaces: [&'static str; 3],
    at: usize,
    after: Option<Bytes>,
    records: u64,
    started: bool,
    done: bool,
    /// What is still to be given out of the chunk at hand.
    rest: Bytes,
}

impl Pack {
    pub(super) fn new(snapshot: Arc<dyn Snapshot>, spaces: Spaces) -> Pack {
        let spaces = spaces.all();
        Pack {
            snapshot,
            spaces,
            at: 0,
            after: None,
            records: 0,
            started: false,
            done: false,
            rest: Bytes::new(),
        }
    }

    fn fill(&mut self, body: &mut BytesMut) -> Result<(), EngineError> {
        while body.len() < CHUNK && self.at < self.spaces.len() {
            let low = self.after.take().map_or(Bound::Unbounded, Bound::Excluded);
            let range = (low, Bound::Unbounded);
            let pairs = self.snapshot.iter(self.spaces[self.at], range, Order::Ascending);
            let mut last = None;
            let mut taken = 0;
            for pair in pairs.take(PAGE) {
                let (key, value) = pair?;
                put_record(body, self.at as u8, &key, &value);
                last = Some(key);
                taken += 1;
                self.records += 1;
                if body.len() >= CHUNK {
                    break;
                }
            }
            self.after = last;
            if taken < PAGE && body.len() < CHUNK {
                self.at += 1;
                self.after = None;
            }
        }
        if self.at == self.spaces.len() {
            put_record(body, END, &self.records.to_be_bytes(), &[]);
            self.done = true;
        }
        Ok(())
    }
}

impl SnapshotSource for Pack {
    fn next(&mut self) -> Result<Option<Bytes>, Fatal> {
        if !self.rest.is_empty() {
            return Ok(Some(self.rest.split_to(self.rest.len().min(PIECE))));
        }
        if self.done {
            return Ok(None);
        }
        let mut body = BytesMut::with_capacity(CHUNK + 4096);
        self.fill(&mut body)?;
        let mut out = BytesMut::with_capacity(body.len() + 16);
        if !self.started {
            out.put_slice(MAGIC);
            self.started = true;
        }
        out.put_u32(crc32c::crc32c(&body));
        out.put_u32(body.len() as u32);
        out.put(body);
        self.rest = out.freeze();
        Ok(Some(self.rest.split_to(self.rest.len().min(PIECE))))
    }
}

fn put_record(out: &mut BytesMut, space: u8, key: &[u8], value: &[u8]) {
    out.put_u8(space);
    out.put_u32(key.len() as u32);
    out.put_u32(value.len() as u32);
    out.put_slice(key);
    out.put_slice(value);
}

/// Makes chunks of records that come from elsewhere, in the order of spaces and keys.
pub(crate) struct Chunks<I> {
    records: I,
    count: u64,
    started: bool,
    done: bool,
}

impl<I: Iterator<Item = Result<Record, Fatal>>> Chunks<I> {
    pub(crate) fn new(records: I) -> Chunks<I> {
        Chunks { records, count: 0, started: false, done: false }
    }

    fn chunk(&mut self) -> Result<Bytes, Fatal> {
        let mut body = BytesMut::with_capacity(CHUNK + 4096);
        while body.len() < CHUNK && !self.done {
            match self.records.next() {
                Some(record) => {
                    let Record { space, key, value } = record?;
                    put_record(&mut body, space as u8, &key, &value);
                    self.count += 1;
                }
                None => {
                    put_record(&mut body, END, &self.count.to_be_bytes(), &[]);
                    self.done = true;
                }
            }
        }
        let mut out = BytesMut::with_capacity(body.len() + 16);
        if !std::mem::replace(&mut self.started, true) {
            out.put_slice(MAGIC);
        }
        out.put_u32(crc32c::crc32c(&body));
        out.put_u32(body.len() as u32);
        out.put(body);
        Ok(out.freeze())
    }
}

impl<I: Iterator<Item = Result<Record, Fatal>>> Iterator for Chunks<I> {
    type Item = Result<Bytes, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let chunk = self.chunk();
        self.done |= chunk.is_err();
        Some(chunk)
    }
}

/// Reads chunks back. Anything that does not fit is an error.
pub(super) struct Unpack<'a> {
    chunks: &'a mut dyn Iterator<Item = Result<Bytes, Fatal>>,
    buffer: BytesMut,
    body: Bytes,
    ahead: Option<(u8, Bytes, Bytes)>,
    records: u64,
    started: bool,
    /// The last record was read and its number is right.
    complete: bool,
    /// The engine's iterator cannot carry our error: it is kept here.
    pub(super) failed: Option<Fatal>,
}

impl<'a> Unpack<'a> {
    pub(super) fn new(chunks: &'a mut dyn Iterator<Item = Result<Bytes, Fatal>>) -> Unpack<'a> {
        Unpack {
            chunks,
            buffer: BytesMut::new(),
            body: Bytes::new(),
            ahead: None,
            records: 0,
            started: false,
            complete: false,
            failed: None,
        }
    }

    /// The next pair of this space; none when the next record is of a later one.
    pub(super) fn pair(&mut self, space: u8) -> Result<Option<(Bytes, Bytes)>, Fatal> {
        if self.ahead.is_none() && !self.complete {
            self.ahead = Some(self.record()?);
        }
        match self.ahead.take() {
            Some((of, key, value)) if of == space => {
                self.records += 1;
                Ok(Some((key, value)))
            }
            Some((of, ..)) if of < space => Err(torn("its spaces are out of order")),
            ahead => {
                self.ahead = ahead;
                Ok(None)
            }
        }
    }

    /// The snapshot must be whole. Zeros may follow where it is `padded`.
    pub(super) fn end(&mut self, padded: bool) -> Result<(), Fatal> {
        match self.ahead.take() {
            Some((END, count, _)) if count.as_ref() == self.records.to_be_bytes() => {
                self.complete = true;
            }
            Some(_) => return Err(torn("its records are not as many as it says")),
            None => return Err(torn("it has no end")),
        }
        if !self.body.is_empty() {
            return Err(torn("it goes on after its end"));
        }
        let mut rest = std::mem::take(&mut self.buffer).freeze();
        loop {
            if rest.iter().any(|byte| *byte != 0) || !(padded || rest.is_empty()) {
                return Err(torn("it goes on after its end"));
            }
            match self.chunks.next() {
                Some(more) if padded => rest = more?,
                _ => return Ok(()),
            }
        }
    }

    fn record(&mut self) -> Result<(u8, Bytes, Bytes), Fatal> {
        if self.body.is_empty() {
            self.body = self.next_body()?;
        }
        let body = &mut self.body;
        if body.len() < 9 {
            return Err(torn("a record is cut"));
        }
        let space = body.get_u8();
        let (key, value) = (body.get_u32() as usize, body.get_u32() as usize);
        if body.len() < key.saturating_add(value) {
            return Err(torn("a record is cut"));
        }
        Ok((space, body.split_to(key), body.split_to(value)))
    }

    fn next_body(&mut self) -> Result<Bytes, Fatal> {
        if !self.started {
            self.need(MAGIC.len())?;
            if self.buffer.split_to(MAGIC.len()) != MAGIC[..] {
                return Err(torn("it is of another format"));
            }
            self.started = true;
        }
        self.need(8)?;
        let mut head = self.buffer.split_to(8);
        let (crc, len) = (head.get_u32(), head.get_u32() as usize);
        if len == 0 || len > LARGEST {
            return Err(torn("a length is impossible"));
        }
        self.need(len)?;
        let body = self.buffer.split_to(len).freeze();
        if crc32c::crc32c(&body) != crc {
            return Err(torn("a checksum is wrong"));
        }
        Ok(body)
    }

    fn need(&mut self, bytes: usize) -> Result<(), Fatal> {
        while self.buffer.len() < bytes {
            match self.chunks.next() {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None => return Err(torn("it ends too early")),
            }
        }
        Ok(())
    }
}

fn torn(what: &str) -> Fatal {
    Fatal::new(format_args!("the snapshot is damaged: {what}"))
}

/// The pairs of one space, for [`engine::StorageBackend::ingest`].
pub(super) struct SpacePairs<'u, 'a> {
    pub(super) unpack: &'u mut Unpack<'a>,
    pub(super) space: u8,
}

impl Iterator for SpacePairs<'_, '_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.unpack.pair(self.space) {
            Ok(pair) => pair.map(Ok),
            Err(fatal) => {
                let what = fatal.to_string();
                self.unpack.failed = Some(fatal);
                Some(Err(EngineError::Misuse(what)))
            }
        }
    }
}
