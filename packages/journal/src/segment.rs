//! Segment files: made, read frame by frame, searched for what a torn tail would not have.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::error::JournalError;
use crate::format::{ALIGN, FRAME_HEADER, FrameHeader, Header, HeaderPage, PAGE, align, body_crc};

/// A file of the right size that holds nothing wanted.
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) capacity: u64,
}

const SUFFIX: &str = ".segment";
const UNFINISHED: &str = ".new";

pub(crate) fn name_of(number: u64) -> String {
    format!("{number:010}{SUFFIX}")
}

pub(crate) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// Whether it is a segment that a crash kept from being finished.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED).is_some_and(|name| number_of(name).is_some())
}

/// What a failed call on a file is to the journal.
pub(crate) fn failed(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> JournalError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            JournalError::Full { file: file.into(), source }
        }
        _ => JournalError::Io { action, file: file.into(), source },
    }
}

/// Makes a file with all its room taken and written once, so that syncing a later write need not
/// change the file system's own records. It gets its name last: a shorter one was cut.
pub(crate) fn make(disk: &dyn Disk, name: String, bytes: u64) -> Result<Spare, JournalError> {
    let unfinished = format!("{name}{UNFINISHED}");
    let made = disk.create(&unfinished).and_then(|file| {
        fill(&*file, bytes)?;
        disk.rename(&unfinished, &name)?;
        disk.sync_dir()?;
        Ok(file)
    });
    match made {
        Ok(file) => Ok(Spare { name, file, capacity: bytes }),
        Err(error) => {
            // Best effort, so that a full disk is not fuller; the next open removes leftovers.
            let _ = disk.remove(&unfinished);
            Err(failed("preallocate", &name)(error))
        }
    }
}

fn fill(file: &dyn DiskFile, bytes: u64) -> io::Result<()> {
    file.allocate(bytes)?;
    let zeros = vec![0; bytes.min(1 << 20) as usize];
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(zeros.len() as u64) as usize;
        file.write_at(&zeros[..len], at)?;
        at += len as u64;
    }
    file.sync_data()
}

pub(crate) fn read_header(file: &dyn DiskFile, name: &str) -> Result<HeaderPage, JournalError> {
    let mut page = [0; 512];
    file.read_at(&mut page, 0).map_err(failed("read", name))?;
    Ok(Header::decode(&page))
}

/// A frame and where it stands.
pub(crate) struct Frame {
    pub(crate) start: u64,
    pub(crate) batch: u64,
    pub(crate) body: Bytes,
}

impl Frame {
    pub(crate) fn body_start(&self) -> u64 {
        self.start + FRAME_HEADER as u64
    }

    pub(crate) fn end(&self) -> u64 {
        self.body_start() + self.body.len() as u64
    }
}

/// Reads the frame at an offset, if it is whole and the one expected.
pub(crate) fn read_frame(
    file: &dyn DiskFile,
    name: &str,
    segment: &Header,
    start: u64,
    batch: u64,
) -> Result<Option<Frame>, JournalError> {
    if start + FRAME_HEADER as u64 > segment.capacity {
        return Ok(None);
    }
    let mut bytes = [0; FRAME_HEADER];
    file.read_at(&mut bytes, start).map_err(failed("read", name))?;
    let Some(header) = FrameHeader::decode(&bytes, segment) else { return Ok(None) };
    let body_start = start + FRAME_HEADER as u64;
    if header.batch != batch || body_start + u64::from(header.body_len) > segment.capacity {
        return Ok(None);
    }
    let mut body = vec![0; header.body_len as usize];
    let read = file.read_at(&mut body, body_start).map_err(failed("read", name))?;
    if read < body.len() || body_crc(&body, segment.salt) != header.body_crc {
        return Ok(None);
    }
    Ok(Some(Frame { start, batch, body: body.into() }))
}

/// Looks behind the end of the log for a frame that was written after `batch` was synced. There
/// is none behind a torn tail: one write is under way at a time.
pub(crate) fn find_later(
    file: &dyn DiskFile,
    name: &str,
    segment: &Header,
    from: u64,
    batch: u64,
) -> Result<Option<u64>, JournalError> {
    const CHUNK: usize = 1 << 20;
    let mut chunk = vec![0; CHUNK.min(align(segment.capacity, PAGE) as usize)];
    let mut at = align(from, ALIGN);
    while at + (FRAME_HEADER as u64) <= segment.capacity {
        let read = file.read_at(&mut chunk, at).map_err(failed("read", name))?;
        if read < FRAME_HEADER {
            break;
        }
        let mut offset = 0;
        while offset + FRAME_HEADER <= read {
            if let Some(header) = FrameHeader::decode(&chunk[offset..], segment)
                && header.batch > batch
            {
                return Ok(Some(at + offset as u64));
            }
            offset += ALIGN as usize;
        }
        at += offset as u64;
    }
    Ok(None)
}
