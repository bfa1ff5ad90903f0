//! fjall's write-ahead files, where fjall itself is too quiet about them.
//!
//! It ends each at its first unreadable entry, cutting off what follows. That is right for what
//! was not synced. For the rest it is damage: found by the mark in the newest file, and in the
//! older ones, all synced when they were sealed, by their being cut. And its checksums leave out
//! the batches' sequence numbers, which decide what is older: they must ascend. Nor does it doubt
//! a length before it makes room for it: none may pass the end of its file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::mark::Mark;

/// The write-ahead files, oldest first.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Makes durable what the newest file holds by now, while others write to it.
pub(crate) fn sync_newest(dir: &Path) -> io::Result<()> {
    match files(dir)?.pop() {
        Some(path) => match File::open(path) {
            Ok(file) => file.sync_data(),
            // It was sealed, which syncs it, and freed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        },
        None => Ok(()),
    }
}

/// The sealed files as they are before fjall opens them. They are kept open, since it may remove
/// them at once.
pub(crate) struct Sealed {
    files: Vec<(PathBuf, File, u64)>,
}

impl Sealed {
    pub(crate) fn look(dir: &Path) -> io::Result<Sealed> {
        let mut paths = files(dir)?;
        paths.pop();
        let mut files = Vec::new();
        for path in paths {
            let file = File::open(&path)?;
            let end = last_byte(&file)?;
            files.push((path, file, end));
        }
        Ok(Sealed { files })
    }

    /// The first file that was cut since.
    pub(crate) fn cut(&self) -> io::Result<Option<&Path>> {
        for (path, file, end) in &self.files {
            if file.metadata()?.len() < *end {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// Whether the sequence numbers of all batches ascend, and all lengths can be: in the sealed files,
/// and in the newest one.
pub(crate) fn ascending(dir: &Path) -> io::Result<(bool, bool)> {
    let (mut last, mut sealed, mut newest) = (None, true, true);
    for path in files(dir)? {
        sealed &= newest;
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        newest = walk(BufReader::new(file), length, &mut last)?;
    }
    Ok((sealed, newest))
}

/// Goes through the entries up to the first that is none.
fn walk(mut file: impl BufRead, length: u64, last: &mut Option<u64>) -> io::Result<bool> {
    loop {
        let mut tag = [0];
        let skip = match read(&mut file, &mut tag)?.then_some(tag[0]) {
            // The start of a batch: count, sequence number.
            Some(1) => {
                let mut start = [0; 12];
                if !read(&mut file, &mut start)? {
                    return Ok(true);
                }
                let number = u64::from_le_bytes(std::array::from_fn(|at| start[4 + at]));
                if last.is_some_and(|last| last >= number) || number >= 1 << 62 {
                    return Ok(false);
                }
                *last = Some(number);
                0
            }
            // A change: kind, compression, keyspace, lengths of key, value, stored value.
            Some(2) => {
                let mut change = [0; 20];
                if !read(&mut file, &mut change)? {
                    return Ok(true);
                }
                let key = u16::from_le_bytes([change[10], change[11]]);
                let value = u32::from_le_bytes(std::array::from_fn(|at| change[16 + at]));
                let [key, value] = [u64::from(key), u64::from(value)];
                if value > length {
                    return Ok(false);
                }
                key + value
            }
            Some(3) => BATCH_END as u64 - 1,
            Some(4) => 8,
            _ => return Ok(true),
        };
        if io::copy(&mut file.by_ref().take(skip), &mut io::sink())? < skip {
            return Ok(true);
        }
    }
}

/// Fills the buffer; false at the end of the file.
fn read(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}

/// Where the zeros at the end of a file begin.
fn last_byte(file: &File) -> io::Result<u64> {
    let mut chunk = vec![0; 1 << 16];
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let here = &mut chunk[..(end - start) as usize];
        file.read_exact_at(here, start)?;
        if let Some(at) = here.iter().rposition(|byte| *byte != 0) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// fjall ends a batch with a tag, a checksum and four more bytes.
const BATCH_END: usize = 1 + 8 + 4;

/// Cuts what stands behind the mark in the newest write-ahead file: none of it was persisted.
/// Without the mark in it all of the file is newer. Whether the mark itself survived is for the
/// caller to see.
pub(crate) fn cut_tail(dir: &Path, mark: Option<Mark>) -> io::Result<()> {
    let Some(path) = files(dir)?.pop() else { return Ok(()) };
    let bytes = std::fs::read(&path)?;
    let needle = mark.map(|mark| mark.encode());
    let at = needle.and_then(|needle| bytes.windows(needle.len()).rposition(|here| here == needle));
    let keep = match (needle, at) {
        (Some(needle), Some(at)) => (at + needle.len() + BATCH_END).min(bytes.len()),
        _ => 0,
    };
    let file = OpenOptions::new().write(true).open(&path)?;
    tracing::warn!(file = %path.display(), keep, "cutting an unsynced tail of the engine's log");
    file.set_len(keep as u64)?;
    file.sync_all()
}
