//! The list of a space's tables, which fjall reads without looking at its checksum.
//!
//! `keyspaces/<id>/current` names the list that counts, `v<number>`, and has its XXH3-128.

use std::io;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

/// The first list that is not what was written, if there is one. A space without any was never
/// finished, or lost it; that is for the caller to tell apart.
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
    }
    Ok(None)
}

fn decode(bytes: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (checksum, kind) = rest.split_first_chunk::<16>()?;
    (kind == [0]).then(|| (u64::from_le_bytes(*number), u128::from_le_bytes(*checksum)))
}
