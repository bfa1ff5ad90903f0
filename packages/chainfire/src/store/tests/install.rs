//! Snapshots: the way there and back, damage, and crashes on the way.

use std::sync::Arc;

use bytes::Bytes;
use consensus::{Fatal, Machine};
use engine::LossyMemory;

use super::super::layout::META;
use super::super::*;
use super::script::Dice;
use super::{Bench, put, put_with};

fn busy(seed: u64) -> Bench {
    let mut bench = Bench::new();
    let mut dice = Dice::new(seed);
    for _ in 0..150 {
        let command = dice.command(bench.reader.revision(), bench.reader.lessor_claim());
        let _ = bench.run(command);
    }
    let _ = bench.grant(77, 60);
    bench.run(put_with("leased", "v", 77)).unwrap();
    bench.put("huge", &"y".repeat(1_400_000));
    for n in 0..40 {
        bench.put(&format!("big{n}"), &"x".repeat(20_000));
    }
    bench
}

fn chunks(bench: &mut Bench) -> Vec<Bytes> {
    let mut source = bench.store.snapshot().unwrap();
    std::iter::from_fn(move || source.next().unwrap()).collect()
}

fn install(bench: &mut Bench, chunks: &[Bytes]) -> Result<(), Fatal> {
    let mut chunks = chunks.iter().cloned().map(Ok);
    bench.store.replace(&mut chunks, |batch| batch.put(META, &b"mark"[..], &b"new"[..]))
}

fn assert_same(a: &Bench, b: &Bench) {
    assert_eq!(a.reader.revision(), b.reader.revision());
    assert_eq!(a.reader.hash().unwrap(), b.reader.hash().unwrap());
    assert_eq!(a.reader.leases(), b.reader.leases());
    let all = [KeyRange::all()];
    let from = a.reader.compacted().max(1);
    let events = |bench: &Bench| bench.reader.events(from, i64::MAX, &all, 1 << 30).unwrap();
    assert_eq!(events(a), events(b));
}

#[test]
fn an_installed_snapshot_is_the_other_store() {
    for seed in 1..=8 {
        let mut from = busy(seed);
        let chunks = chunks(&mut from);
        assert!(chunks.len() > 4 && chunks.iter().all(|chunk| chunk.len() <= 1 << 20));
        let mut to = busy(seed + 100);
        let mut follow = to.reader.subscribe();
        install(&mut to, &chunks).unwrap();
        assert_same(&from, &to);
        assert_eq!(follow.poll().unwrap_err(), Lagged);
        let mut to = to.reopen();
        assert_same(&from, &to);
        // Both go on alike, and the other generation serves as well.
        from.put("more", "1");
        to.put("more", "1");
        assert_same(&from, &to);
        let chunks = self::chunks(&mut to);
        install(&mut from, &chunks).unwrap();
        assert_same(&from, &to);
    }
}

#[test]
fn a_snapshot_installed_on_disk_is_there_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let options = engine::FjallOptions::default();
        let engine = engine::open_fjall(dir.path(), &Store::SPACES, options).unwrap();
        Bench::on(engine, StoreOptions::default())
    };
    let mut to = open();
    to.put("old", "1");
    for seed in [3, 4] {
        let mut from = busy(seed);
        let chunks = chunks(&mut from);
        install(&mut to, &chunks).unwrap();
        assert_same(&from, &to);
        drop(to);
        to = open();
        assert_same(&from, &to);
    }
}

#[test]
fn chunks_may_be_cut_anywhere_on_the_way() {
    let mut from = busy(5);
    let whole: Vec<u8> = chunks(&mut from).concat();
    let pieces: Vec<Bytes> = whole.chunks(777).map(Bytes::copy_from_slice).collect();
    let mut to = Bench::new();
    install(&mut to, &pieces).unwrap();
    assert_same(&from, &to);
}

#[test]
fn damage_is_noticed_and_the_old_state_stays() {
    let mut from = busy(6);
    let whole: Vec<u8> = chunks(&mut from).concat();
    let mut to = Bench::new();
    to.put("old", "1");
    let hash = to.reader.hash().unwrap();
    let mut dice = Dice::new(6);
    for round in 0..60 {
        let mut damaged = whole.clone();
        match round % 3 {
            0 => damaged.truncate(dice.below(whole.len() as u64) as usize),
            1 => damaged[dice.below(whole.len() as u64) as usize] ^= 1 << dice.below(8),
            _ => damaged.push(0),
        }
        assert!(install(&mut to, &[damaged.into()]).is_err(), "round {round}");
        assert_eq!((to.get("old").unwrap().0.as_str(), to.reader.hash().unwrap()), ("1", hash));
    }
    let mut to = to.reopen();
    assert_eq!(to.reader.hash().unwrap(), hash);
    install(&mut to, &[whole.into()]).unwrap();
    assert_same(&from, &to);
}

#[test]
fn a_crash_leaves_the_old_state_or_the_new_one() {
    let mut from = busy(9);
    let chunks = chunks(&mut from);
    let (mut old, mut new) = (0, 0);
    for seed in 0..40 {
        let engine = Arc::new(LossyMemory::new(&Store::SPACES, seed));
        let mut bench = Bench::on(engine.clone(), StoreOptions::default());
        bench.put("old", "1");
        let hash = bench.reader.hash().unwrap();
        engine::StorageBackend::persist(&*engine).unwrap();
        let cut = seed as usize % (chunks.len() + 2);
        if cut <= chunks.len() {
            // The stream breaks off.
            let _ = install(&mut bench, &chunks[..cut]);
        } else {
            install(&mut bench, &chunks).unwrap();
            bench.batch(&[put("after", "1")]);
        }
        drop((bench.store, bench.reader));
        engine.crash();
        let mut bench = Bench::on(engine.clone(), StoreOptions::default());
        let mark = engine::StorageBackend::get(&*engine, META, b"mark").unwrap();
        if mark.is_none() {
            assert_eq!(bench.reader.hash().unwrap(), hash);
            old += 1;
            install(&mut bench, &chunks).unwrap();
            assert_same(&from, &bench);
        } else {
            assert!(bench.get("leased").is_some() && bench.get("old").is_none());
            new += 1;
        }
    }
    assert!(old > 0 && new > 0, "{old} {new}");
}
