//! What fjall trusts while it opens: the list of a space's tables, whose checksum it does not look
//! at, and the contents of each table, which it makes room for before it looks.
//!
//! `keyspaces/<id>/current` names the list that counts, `v<number>`, and has its XXH3-128. A table
//! is an SFA archive, its contents and their XXH3-128 at its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

/// The first list, or contents of a listed table, that is not what was written, if there is one.
/// A space without a list was never finished, or lost it; that is for the caller to tell apart.
pub(crate) fn damaged(tables: &Path) -> io::Result<Option<String>> {
    let spaces = match std::fs::read_dir(tables.join("keyspaces")) {
        Ok(spaces) => spaces,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for space in spaces {
        let dir = space?.path();
        let current = dir.join("current");
        let bytes = match std::fs::read(&current) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some((number, checksum)) = decode(&bytes) else {
            return Ok(Some(format!("{} is unreadable", current.display())));
        };
        let list = dir.join(format!("v{number}"));
        let fits = match std::fs::read(&list) {
            Ok(bytes) => xxh3_128(&bytes) == checksum,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !fits {
            return Ok(Some(format!("{} is not what was written", list.display())));
        }
        let Some(tables) = listed(&list) else {
            return Ok(Some(format!("{} is no list of tables", list.display())));
        };
        for table in tables {
            let path = dir.join("tables").join(table.to_string());
            if !contents_fit(&path)? {
                return Ok(Some(format!("the contents of {} are unreadable", path.display())));
            }
        }
    }
    Ok(None)
}

/// The numbers of the tables in a list: by level, by run.
fn listed(list: &Path) -> Option<Vec<u64>> {
    // The reader makes room for as many sections as its contents say.
    if !contents_fit(list).ok()? {
        return None;
    }
    let archive = sfa::Reader::new(list).ok()?;
    let mut section = Vec::new();
    archive.toc().section(b"tables")?.buf_reader(list).ok()?.read_to_end(&mut section).ok()?;
    let (mut rest, mut tables) = (section.as_slice(), Vec::new());
    for _level in 0..*rest.split_off_first()? {
        for _run in 0..*rest.split_off_first()? {
            let count = rest.split_off(..4)?;
            for _table in 0..u32::from_le_bytes(count.try_into().ok()?) {
                // Number, kind of checksum, checksum, sequence number.
                let table = rest.split_off(..8 + 1 + 16 + 8)?;
                tables.push(u64::from_le_bytes(table[..8].try_into().ok()?));
            }
        }
    }
    Some(tables)
}

/// Whether an archive's contents have the checksum that its last bytes name: a magic, the version,
/// the kind of checksum, the checksum, where the contents begin, and their length. A table that
/// is missing is left for fjall to notice.
fn contents_fit(table: &Path) -> io::Result<bool> {
    const TRAILER: u64 = 4 + 1 + 1 + 16 + 8 + 8;
    /// Contents are a few hundred bytes.
    const LONGEST: u64 = 1 << 20;
    let file = match File::open(table) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    let Some(end) = file.metadata()?.len().checked_sub(TRAILER) else { return Ok(false) };
    let mut trailer = [0; TRAILER as usize];
    file.read_exact_at(&mut trailer, end)?;
    let checksum = u128::from_le_bytes(std::array::from_fn(|at| trailer[6 + at]));
    let start = u64::from_le_bytes(std::array::from_fn(|at| trailer[22 + at]));
    let Some(length) = end.checked_sub(start).filter(|length| *length <= LONGEST) else {
        return Ok(false);
    };
    let mut contents = vec![0; length as usize];
    file.read_exact_at(&mut contents, start)?;
    Ok(trailer.starts_with(b"SFA!\x01\x00") && xxh3_128(&contents) == checksum)
}

fn decode(bytes: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (checksum, kind) = rest.split_first_chunk::<16>()?;
    (kind == [0]).then(|| (u64::from_le_bytes(*number), u128::from_le_bytes(*checksum)))
}
