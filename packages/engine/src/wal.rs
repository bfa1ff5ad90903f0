//! fjall's write-ahead files, where fjall itself is too quiet about them.
//!
//! It ends each at its first unreadable entry, cutting off what follows. That is right for what
//! was not synced. For the rest it is damage: found by the mark in the newest file, and in the
//! older ones, all synced when they were sealed, by their being cut.

use std::fs::{File, OpenOptions};
use std::io;
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
