//! The decoders, for fuzzing: none may panic, hang or take more memory than its input allows.

use std::path::Path;

use crate::mark::{Mark, MarkFile};
use crate::{manifest, wal};

/// Name, decoder, and inputs that it understands.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("engine mark", mark, marks),
    ("engine list of tables", list, lists),
    ("engine log", log, logs),
];

/// Runs `look` in a folder, which goes afterwards.
fn within(look: impl FnOnce(&Path) -> std::io::Result<()>) {
    let name = format!("plasma-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
    let dir = std::env::temp_dir().join(name);
    let _ = std::fs::create_dir_all(&dir);
    let _ = look(&dir);
    let _ = std::fs::remove_dir_all(&dir);
}

fn mark(bytes: &[u8]) {
    let _ = Mark::decode(bytes);
    within(|dir| {
        let path = dir.join("mark");
        std::fs::write(&path, bytes)?;
        MarkFile::open(&path)?.read().map(drop)
    });
}

fn marks() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    within(|dir| {
        let path = dir.join("mark");
        let file = MarkFile::open(&path)?;
        file.write(Mark { number: 1, salt: 7 })?;
        file.write(Mark { number: 2, salt: 8 })?;
        bytes = std::fs::read(&path)?;
        Ok(())
    });
    vec![bytes]
}

/// The first 25 bytes name the list, the rest is the list and a table too.
fn list(bytes: &[u8]) {
    within(|dir| {
        let space = dir.join("keyspaces").join("1");
        std::fs::create_dir_all(space.join("tables"))?;
        let (_, rest) = bytes.split_at(bytes.len().min(25));
        let mut current = 1u64.to_le_bytes().to_vec();
        current.extend_from_slice(&xxhash_rust::xxh3::xxh3_128(rest).to_le_bytes());
        current.push(0);
        std::fs::write(space.join("v1"), rest)?;
        std::fs::write(space.join("tables").join("1"), rest)?;
        std::fs::write(space.join("current"), &current)?;
        let _ = manifest::damaged(dir);
        std::fs::write(space.join("current"), &bytes[..bytes.len().min(25)])?;
        manifest::damaged(dir).map(drop)
    });
}

/// Of a real engine.
fn lists() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    within(|dir| {
        let options = crate::FjallOptions::default();
        let Ok(engine) = crate::open_fjall(dir, &["a"], options) else { return Ok(()) };
        let mut batch = crate::Batch::new();
        batch.put("a", "key", "value");
        let _ = engine.write(batch);
        let _ = engine.persist();
        drop(engine);
        let mut folders = vec![dir.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path
                    .file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with('v'))
                {
                    let mut bytes = vec![0; 25];
                    bytes.extend(std::fs::read(&path)?);
                    found.push(bytes);
                }
            }
        }
        Ok(())
    });
    found
}

fn log(bytes: &[u8]) {
    within(|dir| {
        std::fs::write(dir.join("1.jnl"), bytes)?;
        wal::ascending(dir)?;
        wal::Sealed::look(dir)?;
        wal::cut_tail(dir, Some(Mark { number: 1, salt: 7 }))
    });
}

fn logs() -> Vec<Vec<u8>> {
    let mut bytes = vec![1, 2, 0, 0, 0];
    bytes.extend(5u64.to_le_bytes());
    for key in [b"a", b"b"] {
        bytes.push(2);
        bytes.extend([0; 10]);
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(key);
        bytes.push(9);
    }
    bytes.push(3);
    bytes.extend([0; 12]);
    vec![bytes]
}
