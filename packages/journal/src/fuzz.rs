//! The decoders, for fuzzing: none may panic, hang or take more memory than its input allows.

use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::format::{
    ALIGN, FRAME_HEADER, FrameHeader, Header, PAGE, Written, align, body_crc, payload_crc,
};
use crate::lossy::LossyDisk;
use crate::segment::name_of;
use crate::{Journal, Options, Record};

/// Name, decoder, and inputs that it understands.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("journal header", header, headers),
    ("journal records", records, bodies),
    ("journal segment", segment, segments),
    ("journal history", history, histories),
];

const HEADER: Header =
    Header { sequence: 1, salt: 7, first_batch: 1, floor: 1, capacity: 16 * PAGE };

fn header(bytes: &[u8]) {
    let _ = Header::decode(bytes);
    let _ = FrameHeader::decode(bytes, &HEADER);
}

fn headers() -> Vec<Vec<u8>> {
    let frame = FrameHeader { batch: 1, body_len: 5, body_crc: 9 };
    vec![HEADER.encode().to_vec(), frame.encode(&HEADER).to_vec()]
}

fn records(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    let mut at = 0;
    while at < body.len()
        && let Ok((written, start, _)) = Written::decode(&body, at)
    {
        at = start + written.payload_len();
    }
}

fn body() -> Vec<u8> {
    let mut body = Vec::new();
    for written in [
        Written::Record(Record::Meta { group: 1, key: 4, value: "node".into() }),
        Written::Record(Record::Entry { group: 1, index: 1, payload: "one".into() }),
        Written::Record(Record::Entry { group: 1, index: 2, payload: "two".into() }),
        Written::Record(Record::TruncateAfter { group: 1, index: 1 }),
        Written::Moved { group: 2, index: 9, payload: "nine".into() },
        Written::Record(Record::PurgeTo { group: 1, index: 1 }),
        Written::Record(Record::Forget { group: 3 }),
        Written::Floor(1),
    ] {
        written.encode(&mut body);
    }
    body
}

fn bodies() -> Vec<Vec<u8>> {
    vec![body()]
}

/// A segment with one frame a body.
fn sealed(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = HEADER.encode().to_vec();
    bytes.resize(PAGE as usize, 0);
    for (batch, body) in (1..).zip(bodies) {
        let frame = FrameHeader {
            batch,
            body_len: body.len() as u32,
            body_crc: body_crc(body, HEADER.salt),
        };
        if bytes.len() + FRAME_HEADER + body.len() > HEADER.capacity as usize {
            break;
        }
        bytes.extend_from_slice(&frame.encode(&HEADER));
        bytes.extend_from_slice(body);
        bytes.resize(align(bytes.len() as u64, ALIGN) as usize, 0);
    }
    bytes
}

/// A folder with this for its only segment.
fn segment(bytes: &[u8]) {
    let disk = LossyDisk::new(1);
    let written = disk.create(&name_of(1)).and_then(|file| {
        file.set_len(HEADER.capacity)?;
        file.write_at(&bytes[..bytes.len().min(HEADER.capacity as usize)], 0)
    });
    let options =
        Options { segment_bytes: HEADER.capacity, prepare_ahead: false, ..Options::default() };
    let Ok(()) = written else { return };
    let Ok(journal) = Journal::open_stepped(Arc::new(disk), options, || {}) else { return };
    for group in journal.groups() {
        if let Some((first, last)) = journal.span(group) {
            let _ = journal.read(group, first, last.saturating_add(1), 1 << 20);
        }
        let index = journal.span(group).map_or(1, |(_, last)| last.saturating_add(1));
        let record = Record::Entry { group, index, payload: "next".into() };
        let _ = journal.append_wait(vec![record]);
    }
    journal.close();
}

fn segments() -> Vec<Vec<u8>> {
    vec![sealed(&[body(), body()]), sealed(&[])]
}

/// Any records in any order, with the right checksums: three bytes of input make one.
fn history(bytes: &[u8]) {
    let mut frames = vec![Vec::new()];
    for part in bytes.chunks_exact(3) {
        let (kind, group) = (part[0] % 8, u64::from(part[0] >> 5));
        let index = match part[1] {
            255 => u64::MAX - u64::from(part[2] % 4),
            low => u64::from(low % 32),
        };
        let payload = vec![part[2]; usize::from(part[2] % 9)];
        let body = frames.last_mut();
        let Some(body) = body.filter(|_| kind > 0) else {
            frames.push(Vec::new());
            continue;
        };
        body.push(kind);
        body.extend_from_slice(&group.to_le_bytes());
        body.extend_from_slice(&index.to_le_bytes());
        body.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        body.extend_from_slice(&payload_crc(group, index, &payload).to_le_bytes());
        body.extend_from_slice(&payload);
    }
    frames.retain(|frame| !frame.is_empty());
    segment(&sealed(&frames));
}

fn histories() -> Vec<Vec<u8>> {
    vec![vec![
        1, 1, 5, 1, 2, 6, 1, 3, 7, 0, 0, 0, 2, 2, 0, 1, 3, 8, 3, 1, 0, 4, 1, 3, 6, 4, 9, 7, 1, 0,
        5, 0, 0,
    ]]
}
