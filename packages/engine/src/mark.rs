//! The mark: how far the engine was persisted, kept beside it in a file of its own.
//!
//! fjall's write-ahead file ends at its first unreadable entry without a word, whether or not what
//! followed was synced, and refuses to open at all when a torn tail only looks like an entry. So
//! each persist numbers itself twice: inside the engine, as the last batch before the sync, and
//! here, after it. An engine that lacks the number found here has lost what was persisted; bytes
//! behind the batch with that number may be cut.
//!
//! The file has two places, each within a sector and written in turn.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crc32c::crc32c;

/// The format that this version writes.
pub(crate) const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"PLENGN\r\n";
const BYTES: usize = 44;
const PLACE: u64 = 512;

/// What the engine and the file both know of a persist. The salt makes it a needle that no client
/// can put into the hay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) number: u64,
    pub(crate) salt: u128,
}

impl Mark {
    pub(crate) fn encode(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..].copy_from_slice(&self.salt.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Mark> {
        let (number, salt) = bytes.split_first_chunk::<8>()?;
        let salt = u128::from_le_bytes(salt.try_into().ok()?);
        Some(Mark { number: u64::from_le_bytes(*number), salt })
    }
}

/// What the file can hold.
pub(crate) enum Found {
    /// Nothing was persisted yet.
    Nothing,
    Mark(Mark),
    Damaged,
    Foreign(u32),
}

pub(crate) struct MarkFile {
    file: File,
}

impl MarkFile {
    /// Opens or makes the file.
    pub(crate) fn open(path: &Path) -> io::Result<MarkFile> {
        let new = !path.exists();
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if new {
            file.write_all_at(&[0; 2 * PLACE as usize], 0)?;
            file.sync_all()?;
            if let Some(dir) = path.parent() {
                File::open(dir)?.sync_all()?;
            }
        }
        Ok(MarkFile { file })
    }

    pub(crate) fn read(&self) -> io::Result<Found> {
        let mut bytes = vec![0; 2 * PLACE as usize];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                // Cut, or killed before the zeros were written.
                return Ok(if self.file.metadata()?.len() == 0 {
                    Found::Nothing
                } else {
                    Found::Damaged
                });
            }
            Err(error) => return Err(error),
        }
        let mut latest = Found::Nothing;
        for place in bytes.chunks(PLACE as usize) {
            match decode(place) {
                Found::Nothing => {}
                Found::Mark(mark) => match latest {
                    Found::Mark(other) if other.number > mark.number => {}
                    _ => latest = Found::Mark(mark),
                },
                other => return Ok(other),
            }
        }
        Ok(latest)
    }

    pub(crate) fn write(&self, mark: Mark) -> io::Result<()> {
        let mut bytes = [0; PLACE as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..40].copy_from_slice(&mark.encode());
        let crc = crc32c(&bytes[..BYTES - 4]);
        bytes[BYTES - 4..BYTES].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&bytes, mark.number % 2 * PLACE)?;
        self.file.sync_data()
    }
}

fn decode(place: &[u8]) -> Found {
    let bytes = &place[..BYTES];
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let (body, crc) = bytes.split_at(BYTES - 4);
    if body[..8] != MAGIC || crc != crc32c(body).to_le_bytes() {
        return Found::Damaged;
    }
    match <[u8; 4]>::try_from(&body[8..12]).map(u32::from_le_bytes) {
        Ok(FORMAT) => Mark::decode(&body[16..40]).map_or(Found::Damaged, Found::Mark),
        Ok(format) => Found::Foreign(format),
        Err(_) => Found::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_mark_is_found_and_damage_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let file = MarkFile::open(&path).unwrap();
        assert!(matches!(file.read().unwrap(), Found::Nothing));
        for number in 1..=3 {
            file.write(Mark { number, salt: 7 }).unwrap();
        }
        let file = MarkFile::open(&path).unwrap();
        assert!(matches!(file.read().unwrap(), Found::Mark(Mark { number: 3, salt: 7 })));
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..BYTES * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &damaged).unwrap();
            assert!(matches!(file.read().unwrap(), Found::Damaged), "bit {bit}");
        }
        std::fs::write(&path, &bytes[..600]).unwrap();
        assert!(matches!(file.read().unwrap(), Found::Damaged));
    }
}
