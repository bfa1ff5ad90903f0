//! What the bytes of a segment mean.
//!
//! A segment is a header page and then frames. A frame is what one write and one sync made
//! durable: all of it counts or nothing. All numbers are little-endian.
//!
//! ```text
//! header (at 0, within one sector)     frame (at a multiple of 16)      record (in a frame's body)
//!   magic        8                       magic        4                   kind     1
//!   format       4                       header crc   4                   group    8
//!   reserved     4                       sequence     8                   index    8   or key, floor
//!   sequence     8                       batch        8                   length   4
//!   salt         8                       body length  4                   crc      4
//!   first batch  8                       body crc     4                   payload
//!   floor        8                       body …
//!   capacity     8
//!   crc          4
//! ```
//!
//! - `sequence` orders segments; a recycled file gets a new one, and a new `salt`. Both are part of
//!   every frame's header crc, so that a frame of the file's former life, or one that a client
//!   planted in a payload, is never taken for valid.
//! - `batch` counts frames over all segments without a gap, which shows a lost one.
//! - `floor`: segments below it are free. A file is recycled only after a floor above it is durable.

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use crate::{GroupId, Record};

/// The format that this version writes.
pub(crate) const FORMAT: u32 = 1;
/// Header and writes are multiples of this, so that no write needs to read a page first.
pub(crate) const PAGE: u64 = 4096;
/// Frames begin at multiples of this.
pub(crate) const ALIGN: u64 = 16;
pub(crate) const FRAME_HEADER: usize = 32;
pub(crate) const RECORD_HEADER: usize = 25;

const MAGIC: [u8; 8] = *b"PLJRNL\r\n";
const FRAME_MAGIC: [u8; 4] = [0xf7, b'J', 0x1e, 0xb5];
const HEADER_BYTES: usize = 60;

/// The first page of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
    pub(crate) first_batch: u64,
    pub(crate) floor: u64,
    pub(crate) capacity: u64,
}

/// What a header page can be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderPage {
    /// Never written.
    Blank,
    /// A segment's.
    Valid(Header),
    /// Of a format that this version does not know.
    Foreign(u32),
    /// Neither.
    Damaged,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let fields = [self.sequence, self.salt, self.first_batch, self.floor, self.capacity];
        for (at, field) in fields.iter().enumerate() {
            bytes[16 + 8 * at..24 + 8 * at].copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(page: &[u8]) -> HeaderPage {
        let Some(bytes) = page.get(..HEADER_BYTES) else { return HeaderPage::Damaged };
        if bytes.iter().all(|byte| *byte == 0) {
            return HeaderPage::Blank;
        }
        let (body, crc) = bytes.split_at(HEADER_BYTES - 4);
        if u32_at(crc, 0) != crc32c(body) || body[..8] != MAGIC {
            return HeaderPage::Damaged;
        }
        let format = u32_at(body, 8);
        if format != FORMAT {
            return HeaderPage::Foreign(format);
        }
        HeaderPage::Valid(Header {
            sequence: u64_at(body, 16),
            salt: u64_at(body, 24),
            first_batch: u64_at(body, 32),
            floor: u64_at(body, 40),
            capacity: u64_at(body, 48),
        })
    }
}

/// The first bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) batch: u64,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
}

impl FrameHeader {
    pub(crate) fn encode(&self, segment: &Header) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[8..16].copy_from_slice(&segment.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.batch.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = frame_crc(&bytes, segment.salt);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header, if one of this segment stands here.
    pub(crate) fn decode(bytes: &[u8], segment: &Header) -> Option<FrameHeader> {
        let bytes = bytes.get(..FRAME_HEADER)?;
        if bytes[..4] != FRAME_MAGIC
            || u64_at(bytes, 8) != segment.sequence
            || u32_at(bytes, 4) != frame_crc(bytes, segment.salt)
        {
            return None;
        }
        Some(FrameHeader {
            batch: u64_at(bytes, 16),
            body_len: u32_at(bytes, 24),
            body_crc: u32_at(bytes, 28),
        })
    }
}

fn frame_crc(bytes: &[u8], salt: u64) -> u32 {
    crc32c_append(crc32c(&salt.to_le_bytes()), &bytes[8..FRAME_HEADER])
}

/// Frames of each segment have checksums of their own.
pub(crate) fn body_crc(body: &[u8], salt: u64) -> u32 {
    crc32c_append(crc32c(&salt.to_le_bytes()), body)
}

/// What stands in a frame's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    /// What a caller appended.
    Record(Record),
    /// An entry that is in the log already, written again so that its old segment can be freed.
    Moved { group: GroupId, index: u64, payload: Bytes },
    /// Segments below this sequence number are free.
    Floor(u64),
}

const ENTRY: u8 = 1;
const TRUNCATE: u8 = 2;
const PURGE: u8 = 3;
const META: u8 = 4;
const FORGET: u8 = 5;
const MOVED: u8 = 6;
const FLOOR: u8 = 7;

impl Written {
    pub(crate) fn payload_len(&self) -> usize {
        match self {
            Written::Record(record) => record.payload().len(),
            Written::Moved { payload, .. } => payload.len(),
            Written::Floor(_) => 0,
        }
    }

    pub(crate) fn encoded_len(&self) -> usize {
        RECORD_HEADER + self.payload_len()
    }

    /// Appends the record; returns the payload's checksum.
    pub(crate) fn encode(&self, body: &mut Vec<u8>) -> u32 {
        let empty: &[u8] = &[];
        let (kind, group, index, payload) = match self {
            Written::Record(record) => {
                let (kind, index) = match record {
                    Record::Entry { index, .. } => (ENTRY, *index),
                    Record::TruncateAfter { index, .. } => (TRUNCATE, *index),
                    Record::PurgeTo { index, .. } => (PURGE, *index),
                    Record::Meta { key, .. } => (META, u64::from(*key)),
                    Record::Forget { .. } => (FORGET, 0),
                };
                (kind, record.group(), index, record.payload())
            }
            Written::Moved { group, index, payload } => (MOVED, *group, *index, &payload[..]),
            Written::Floor(floor) => (FLOOR, 0, *floor, empty),
        };
        let crc = payload_crc(group, index, payload);
        body.push(kind);
        body.extend_from_slice(&group.to_le_bytes());
        body.extend_from_slice(&index.to_le_bytes());
        // Checked on append: a payload is smaller than half a segment, which is below 4 GiB.
        body.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        body.extend_from_slice(&crc.to_le_bytes());
        body.extend_from_slice(payload);
        crc
    }

    /// Reads the record at an offset of a body: the record, where its payload begins, its checksum.
    pub(crate) fn decode(body: &Bytes, at: usize) -> Result<(Written, usize, u32), &'static str> {
        let header = body.get(at..at + RECORD_HEADER).ok_or("a record's header is cut")?;
        let (kind, group, index) = (header[0], u64_at(header, 1), u64_at(header, 9));
        let (len, crc) = (u32_at(header, 17) as usize, u32_at(header, 21));
        let start = at + RECORD_HEADER;
        let end = start.checked_add(len).filter(|end| *end <= body.len());
        let payload = body.slice(start..end.ok_or("a record's payload is cut")?);
        if crc != payload_crc(group, index, &payload) {
            return Err("a record's checksum does not fit");
        }
        let written = match kind {
            ENTRY => Written::Record(Record::Entry { group, index, payload }),
            TRUNCATE => Written::Record(Record::TruncateAfter { group, index }),
            PURGE => Written::Record(Record::PurgeTo { group, index }),
            META => {
                let key = u8::try_from(index).map_err(|_| "a value's key is out of range")?;
                Written::Record(Record::Meta { group, key, value: payload })
            }
            FORGET => Written::Record(Record::Forget { group }),
            MOVED => Written::Moved { group, index, payload },
            FLOOR => Written::Floor(index),
            _ => return Err("a record has an unknown kind"),
        };
        Ok((written, start, crc))
    }
}

/// The checksum that guards a payload wherever it is read from.
pub(crate) fn payload_crc(group: GroupId, index: u64, payload: &[u8]) -> u32 {
    let place = crc32c_append(crc32c(&group.to_le_bytes()), &index.to_le_bytes());
    crc32c_append(place, payload)
}

pub(crate) fn align(offset: u64, to: u64) -> u64 {
    offset.next_multiple_of(to)
}

// The callers have checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { sequence: 7, salt: 99, first_batch: 3, floor: 5, capacity: 1 << 20 };

    #[test]
    fn headers_round_trip_and_notice_every_flip() {
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), HeaderPage::Valid(HEADER));
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), HeaderPage::Blank);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes), HeaderPage::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_life_is_no_frame() {
        let frame = FrameHeader { batch: 4, body_len: 10, body_crc: 1 };
        let bytes = frame.encode(&HEADER);
        assert_eq!(FrameHeader::decode(&bytes, &HEADER), Some(frame));
        assert_eq!(FrameHeader::decode(&bytes, &Header { sequence: 8, ..HEADER }), None);
        assert_eq!(FrameHeader::decode(&bytes, &Header { salt: 98, ..HEADER }), None);
    }

    #[test]
    fn records_round_trip() {
        let all = [
            Written::Record(Record::Entry { group: 1, index: 2, payload: "three".into() }),
            Written::Record(Record::TruncateAfter { group: 1, index: 2 }),
            Written::Record(Record::PurgeTo { group: u64::MAX, index: u64::MAX }),
            Written::Record(Record::Meta { group: 1, key: 255, value: Bytes::new() }),
            Written::Record(Record::Forget { group: 9 }),
            Written::Moved { group: 1, index: 2, payload: "three".into() },
            Written::Floor(12),
        ];
        let mut body = Vec::new();
        for written in &all {
            written.encode(&mut body);
        }
        let body = Bytes::from(body);
        let mut at = 0;
        for written in &all {
            let (read, start, _) = Written::decode(&body, at).unwrap();
            assert_eq!(&read, written);
            at = start + written.encoded_len() - RECORD_HEADER;
        }
        assert_eq!(at, body.len());
    }
}
