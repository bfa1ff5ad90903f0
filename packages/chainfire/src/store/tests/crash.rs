//! Power loss: what comes back is a prefix of the entries, and replaying the rest gives the state
//! that a member without a crash has.

use std::sync::Arc;

use bytes::Bytes;
use engine::LossyMemory;

use super::super::layout::META;
use super::super::*;
use super::Bench;
use super::model::Model;
use super::script::Dice;

const APPLIED: &[u8] = b"applied";

fn script(seed: u64, entries: usize) -> Vec<Vec<Bytes>> {
    let mut dice = Dice::new(seed);
    let mut model = Model::new();
    let mut entry = || {
        let count = 1 + dice.below(5);
        let mut commands = Vec::new();
        model.index += 1;
        for _ in 0..count {
            let command = dice.command(model.revision(), model.lessor);
            let _ = model.apply(&command);
            commands.push(encode(command));
        }
        commands
    };
    (0..entries).map(|_| entry()).collect()
}

fn apply(bench: &mut Bench, entry: &[Bytes], index: usize) {
    let mark = |batch: &mut engine::Batch| {
        batch.put(META, APPLIED, index.to_be_bytes().to_vec());
    };
    bench.store.run(index as u64, entry, mark).unwrap();
}

fn applied(engine: &LossyMemory) -> usize {
    let value = engine::StorageBackend::get(engine, META, APPLIED).unwrap();
    value.map_or(0, |value| usize::from_be_bytes(value.as_ref().try_into().unwrap()))
}

fn crash_everywhere(seed: u64) {
    let entries = script(seed, 60);
    let mut straight = Bench::new();
    for (index, entry) in (1..).zip(&entries) {
        apply(&mut straight, entry, index);
    }
    let options = StoreOptions { cache_bytes: 1000, ring_bytes: 1000 };
    let engine = Arc::new(LossyMemory::new(&Store::SPACES, seed));
    let mut dice = Dice::new(seed + 7);
    let mut persisted = 0;
    let mut bench = Bench::on(engine.clone(), options.clone());
    let mut next = 1;
    let mut crashes = 0;
    while next <= entries.len() {
        apply(&mut bench, &entries[next - 1], next);
        if dice.one_in(8) {
            engine::StorageBackend::persist(&*engine).unwrap();
            persisted = next;
        }
        next += 1;
        if dice.one_in(10) && crashes < 20 {
            crashes += 1;
            drop((bench.store, bench.reader));
            engine.crash();
            let back = applied(&engine);
            assert!(back >= persisted && back < next, "{persisted} <= {back} < {next}");
            next = back + 1;
            bench = Bench::on(engine.clone(), options.clone());
        }
    }
    let (a, b) = (&bench.reader, &straight.reader);
    assert_eq!((a.revision(), a.compacted()), (b.revision(), b.compacted()), "seed {seed}");
    assert_eq!(a.hash().unwrap(), b.hash().unwrap(), "seed {seed}");
    bench.settle();
    straight.settle();
    assert_eq!(a.hash().unwrap(), b.hash().unwrap(), "seed {seed}");
    for space in ["v0", "e0"] {
        assert_eq!(bench.stored(space), straight.stored(space), "seed {seed}: {space}");
    }
}

#[test]
fn replay_after_crashes_gives_the_same_state() {
    for seed in super::seeds(1, 60, 5000) {
        crash_everywhere(seed);
    }
}

#[test]
fn a_dead_engine_stops_the_store_and_publishes_nothing() {
    let engine = Arc::new(LossyMemory::new(&Store::SPACES, 3));
    let mut bench = Bench::on(engine.clone(), StoreOptions::default());
    bench.put("a", "1");
    engine.fail();
    let entry = [encode(super::put("a", "2"))];
    assert!(bench.store.run(1000, &entry, |_| {}).is_err());
    assert_eq!(bench.get("a").unwrap().0, "1");
    assert_eq!(bench.reader.revision(), 2);
}
