//! What only the engine on disk can get wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use engine::{Batch, Engine, EngineError, FjallOptions, Order, open_fjall};

const SPACES: [&str; 2] = ["data", "meta"];

fn open(dir: &Path) -> Result<Engine, EngineError> {
    let options = FjallOptions { memtable_bytes: 64 << 10, ..FjallOptions::default() };
    open_fjall(dir, &SPACES, options)
}

fn fill(engine: &Engine, from: u64, to: u64) {
    for number in from..to {
        let mut batch = Batch::new();
        batch.put("data", number.to_be_bytes().to_vec(), vec![number as u8; 200]);
        batch.put("meta", &b"applied"[..], number.to_be_bytes().to_vec());
        engine.write(batch).unwrap();
    }
}

fn read(engine: &Engine) -> Result<BTreeMap<Bytes, Bytes>, EngineError> {
    let mut all = BTreeMap::new();
    for space in SPACES {
        for pair in engine.iter(space, engine::all(), Order::Ascending) {
            all.extend([pair?]);
        }
    }
    Ok(all)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Copies what was made, without the zeros that write-ahead files end in.
fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, &target).unwrap();
        if target.extension().is_some_and(|end| end == "jnl")
            && file.metadata().unwrap().len() > 1 << 25
        {
            let bytes = std::fs::read(&file).unwrap();
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            std::fs::OpenOptions::new()
                .write(true)
                .open(&target)
                .unwrap()
                .set_len(end as u64)
                .unwrap();
        }
    }
}

/// An engine of tables and a write-ahead file, persisted, and what it holds.
fn persisted(dir: &Path) -> (PathBuf, BTreeMap<Bytes, Bytes>) {
    let engine = open(&dir.join("written")).unwrap();
    fill(&engine, 0, 1500);
    engine.persist().unwrap();
    let wanted = read(&engine).unwrap();
    drop(engine);
    let source = dir.join("source");
    copy(&dir.join("written"), &source);
    (source, wanted)
}

#[test]
fn damage_to_what_was_persisted_is_never_a_wrong_value() {
    let dir = tempfile::tempdir().unwrap();
    let (source, wanted) = persisted(dir.path());
    let (mut found, mut tried, mut harmless) = (0, 0, 0);
    let mut random = 7u64;
    for file in files(&source) {
        let bytes = std::fs::read(&file).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let flips = if file.extension().is_some_and(|end| end == "jnl") { 60 } else { 8 };
        for _ in 0..flips.min(end) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize % end;
            let damaged = dir.path().join("damaged");
            copy(&source, &damaged);
            let target = damaged.join(file.strip_prefix(&source).unwrap());
            let mut bytes = std::fs::read(&target).unwrap();
            bytes[at] ^= 1 << (random >> 61);
            std::fs::write(&target, bytes).unwrap();
            tried += 1;
            match open(&damaged).and_then(|engine| read(&engine)) {
                Ok(seen) => {
                    assert!(seen == wanted, "{} byte {at}: wrong values", target.display());
                    harmless += 1;
                }
                Err(error) => {
                    assert!(
                        matches!(error, EngineError::Corrupt { .. } | EngineError::Version { .. }),
                        "{} byte {at}: {error:?}",
                        target.display()
                    );
                    found += 1;
                }
            }
            std::fs::remove_dir_all(&damaged).unwrap();
        }
    }
    assert!(found * 2 > tried, "{found} of {tried} found, {harmless} harmless");
}

#[test]
fn a_damaged_length_is_found_before_room_is_made_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (source, wanted) = persisted(dir.path());
    let (mut contents, mut values) = (0, 0);
    for file in files(&source) {
        let bytes = std::fs::read(&file).unwrap();
        let at = if bytes.ends_with(&[0; 4]) && file.parent().unwrap().ends_with("tables") {
            // The number of a table's contents: behind the magic at the place that its end names.
            let start = u64::from_le_bytes(bytes[bytes.len() - 16..][..8].try_into().unwrap());
            contents += 1;
            start as usize + 4 + 3
        } else if file.extension().is_some_and(|end| end == "jnl") && bytes.starts_with(&[1]) {
            // The stored length of the first value, behind the first batch's start.
            assert_eq!(bytes[13], 2);
            values += 1;
            13 + 1 + 16 + 3
        } else {
            continue;
        };
        let damaged = dir.path().join("damaged");
        copy(&source, &damaged);
        let target = damaged.join(file.strip_prefix(&source).unwrap());
        let mut bytes = bytes;
        bytes[at] ^= 0x80;
        std::fs::write(&target, bytes).unwrap();
        match open(&damaged).and_then(|engine| read(&engine)) {
            Ok(seen) => assert!(seen == wanted, "{}: wrong values", target.display()),
            Err(EngineError::Corrupt { .. }) => {}
            Err(error) => panic!("{}: {error:?}", target.display()),
        }
        std::fs::remove_dir_all(&damaged).unwrap();
    }
    assert!(contents > 0 && values > 0, "{contents} tables, {values} write-ahead files");
}

#[test]
fn a_lost_or_cut_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (source, wanted) = persisted(dir.path());
    for file in files(&source) {
        if file.ends_with("lock") {
            continue;
        }
        for cut in [false, true] {
            let damaged = dir.path().join("damaged");
            copy(&source, &damaged);
            let target = damaged.join(file.strip_prefix(&source).unwrap());
            let len = std::fs::metadata(&target).unwrap().len();
            if cut {
                let file = std::fs::OpenOptions::new().write(true).open(&target).unwrap();
                file.set_len((len / 2).min(100)).unwrap();
            } else {
                std::fs::remove_file(&target).unwrap();
            }
            if let Ok(seen) = open(&damaged).and_then(|engine| read(&engine)) {
                assert!(seen == wanted, "{} cut {cut}: wrong values", target.display());
            }
            std::fs::remove_dir_all(&damaged).unwrap();
        }
    }
}

#[test]
fn a_second_opener_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert_eq!(error.code().0, "EN-1004", "{error}");
    let snapshot = engine.snapshot().unwrap();
    drop((engine, snapshot));
    open(dir.path()).unwrap();
}

#[test]
fn dropped_spaces_give_their_room_back_and_ingested_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    for round in 0..5u64 {
        engine.drop_space("data").unwrap();
        let mut pairs = (0..20_000u64)
            .map(|key| Ok((key.to_be_bytes().to_vec().into(), vec![round as u8; 100].into())));
        engine.ingest("data", &mut pairs).unwrap();
        fill(&engine, 30_000, 30_100);
    }
    engine.persist().unwrap();
    let size = engine.disk_size();
    assert!(size < 20 << 20, "{size}");
    let wanted = read(&engine).unwrap();
    assert_eq!(wanted.len(), 20_000 + 100 + 1);
    drop(engine);
    for _ in 0..2 {
        let engine = open(dir.path()).unwrap();
        assert!(read(&engine).unwrap() == wanted, "changed by opening again");
    }
}

#[test]
fn readers_see_whole_batches_while_one_writes() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let snapshot = engine.snapshot().unwrap();
                    let applied = snapshot.get("meta", b"applied").unwrap();
                    let Some(applied) = applied else { continue };
                    let number = u64::from_be_bytes(applied[..].try_into().unwrap());
                    assert!(number >= last);
                    last = number;
                    let newest = snapshot.iter("data", engine::all(), Order::Descending).next();
                    assert_eq!(newest.unwrap().unwrap().0, applied);
                    let now = engine.get("meta", b"applied").unwrap().unwrap();
                    assert!(engine.get("data", &now).unwrap().is_some());
                }
            });
        }
        fill(&engine, 1, 4000);
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn keys_that_cannot_be_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let memory: Engine = Arc::new(engine::Memory::new(&SPACES));
    for engine in [open(dir.path()).unwrap(), memory] {
        for key in [Bytes::new(), vec![0; engine::MAX_KEY + 1].into()] {
            let mut batch = Batch::new();
            batch.put("data", &b"good"[..], &b""[..]);
            batch.put("data", key.clone(), &b""[..]);
            assert_eq!(engine.write(batch).unwrap_err().code().0, "EN-1008");
            assert_eq!(engine.get("data", &key).unwrap(), None);
        }
        assert_eq!(engine.get("data", b"good").unwrap(), None);
        let mut batch = Batch::new();
        batch.put("nowhere", &b"key"[..], &b""[..]);
        assert_eq!(engine.write(batch).unwrap_err().code().0, "EN-1007");
        assert!(engine.get("nowhere", b"key").is_err());
        assert!(engine.iter("nowhere", engine::all(), Order::Ascending).next().unwrap().is_err());
    }
}

#[test]
fn a_full_disk_stops_it_with_a_code_and_what_was_persisted_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "engine-test"])
        .arg(dir.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"skipped: a tmpfs needs the right to mount\n",
        );
        return;
    }
    let _unmount = Unmount(dir.path().into());
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let folder = dir.path().join("engine");
    let engine = open(&folder).unwrap();
    fill(&engine, 0, 100);
    engine.persist().unwrap();
    let mut error = None;
    for number in 0..40_000u64 {
        let mut batch = Batch::new();
        batch.put("meta", (number ^ 0x5555).to_be_bytes().to_vec(), vec![number as u8; 500]);
        if let Err(refused) = engine.write(batch) {
            error = Some(refused);
            break;
        }
    }
    let error = error.unwrap();
    assert!(["EN-1003", "EN-1006"].contains(&error.code().0), "{error}");
    drop(engine);
    std::fs::remove_file(&ballast).unwrap();
    let engine = open(&folder).unwrap();
    for number in 0..100u64 {
        assert!(engine.get("data", &number.to_be_bytes()).unwrap().is_some(), "{number}");
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}
