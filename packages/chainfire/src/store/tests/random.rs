//! Random commands: every answer, every read and every event must be the model's.

use std::sync::Arc;

use bytes::Bytes;

use super::super::*;
use super::model::Model;
use super::script::Dice;
use super::{Bench, encode};

/// So little memory that values are fetched and history is read from the engine all the time.
fn tight() -> StoreOptions {
    StoreOptions { cache_bytes: 600, ring_bytes: 3000 }
}

fn compare_all(bench: &Bench, model: &mut Model, dice: &mut Dice) {
    let reader = &bench.reader;
    let revision = model.revision();
    assert_eq!(reader.revision(), revision);
    assert_eq!(reader.compacted(), model.compacted);
    for _ in 0..6 {
        let range = dice.range(revision);
        assert_eq!(reader.range(&range), model.read(&range), "{range:?}");
    }
    let txn = dice.txn(revision, false);
    let expected = model.apply(&Request::Txn(txn.clone()));
    assert_eq!(reader.txn(&txn).map(Reply::Txn), expected, "{txn:?}");

    let from = 1 + dice.below(revision as u64 + 1) as i64;
    let to = from + dice.below(12) as i64;
    check_events(bench, model, from, to);

    let leases: Vec<_> = reader.leases().iter().map(|l| (l.id, (l.ttl, l.remaining))).collect();
    assert_eq!(leases, model.leases.clone().into_iter().collect::<Vec<_>>());
    for id in model.leases.keys().copied().collect::<Vec<_>>() {
        let all = api::etcdserverpb::RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..Default::default()
        };
        let live = model_keys(model, &all, id);
        assert_eq!(reader.lease_keys(id), Some(live));
    }
}

fn model_keys(model: &mut Model, all: &api::etcdserverpb::RangeRequest, id: i64) -> Vec<Bytes> {
    let answer = model.read(all).unwrap();
    answer.kvs.into_iter().filter(|kv| kv.lease == id).map(|kv| kv.key).collect()
}

fn check_events(bench: &Bench, model: &Model, from: i64, to: i64) {
    let all = [KeyRange::all()];
    if from < model.compacted {
        assert_eq!(bench.reader.events(from, to, &all, 1 << 20), Err(StoreError::Compacted));
        return;
    }
    let mut next = from;
    let mut got = Vec::new();
    while next <= to.min(model.revision()) {
        let page = bench.reader.events(next, to, &all, 100).unwrap();
        assert!(page.next > next);
        next = page.next;
        got.extend(page.events);
    }
    let expected: Vec<_> = model
        .events
        .iter()
        .filter(|event| (from..=to).contains(&event.kv.as_ref().unwrap().mod_revision))
        .cloned()
        .collect();
    assert_eq!(got, expected, "events {from}..={to}");
    for event in &got {
        assert_eq!(bench.reader.prev(event).unwrap(), model.prev(event), "{event:?}");
    }
}

fn play(seed: u64, entries: usize, options: StoreOptions) {
    let engine = Arc::new(engine::Memory::new(&Store::SPACES));
    play_on(engine, seed, entries, options);
}

fn play_on(engine: engine::Engine, seed: u64, entries: usize, options: StoreOptions) {
    let mut dice = Dice::new(seed);
    let mut model = Model::new();
    let mut bench = Bench::on(engine, options);
    let mut follow = bench.reader.subscribe();
    let mut seen = 0;
    for entry in 0..entries {
        let count = 1 + dice.below(6);
        model.index += 1;
        let mut command = || dice.command(model.revision(), model.lessor);
        let commands: Vec<Request> = (0..count).map(|_| command()).collect();
        let expected: Vec<Outcome> = commands.iter().map(|command| model.apply(command)).collect();
        let bytes: Vec<Bytes> = commands.iter().cloned().map(encode).collect();
        let got = bench.entry(&bytes);
        for ((got, expected), command) in got.iter().zip(&expected).zip(&commands) {
            assert_eq!(got, expected, "seed {seed}, entry {entry}: {command:?}");
        }
        while let Ok(Some(changes)) = follow.poll() {
            let upto = seen + changes.events.len();
            assert_eq!(changes.events[..], model.events[seen..upto], "seed {seed}");
            for (at, event) in changes.events.iter().enumerate() {
                let prev = bench.reader.prev_of(&changes, at).unwrap();
                if event.kv.as_ref().unwrap().mod_revision > model.compacted {
                    assert_eq!(prev, model.prev(event), "seed {seed}: {event:?}");
                }
            }
            seen = upto;
        }
        assert_eq!(seen, model.events.len());
        compare_all(&bench, &mut model, &mut dice);
        if dice.one_in(40) {
            bench = bench.reopen();
            follow = bench.reader.subscribe();
            compare_all(&bench, &mut model, &mut dice);
        }
        if dice.one_in(25) {
            let at = dice.below(model.revision() as u64 + 1) as i64;
            let hash = bench.reader.hash_kv(at);
            let upto = if at == 0 { model.revision() } else { at };
            if upto < model.compacted {
                assert_eq!(hash, Err(StoreError::Compacted));
            } else {
                assert_eq!(hash.unwrap().hash, model.hash_kv(upto), "seed {seed}");
            }
        }
    }
    assert!(bench.store.cached_bytes() <= bench.options.cache_bytes);
}

#[test]
fn answers_are_the_models_with_little_memory() {
    for seed in super::seeds(1, 40, 2000) {
        play(seed, 120, tight());
    }
}

#[test]
fn answers_are_the_models_with_everything_cached() {
    for seed in 100..=115 {
        play(seed, 150, StoreOptions::default());
    }
}

#[test]
fn answers_are_the_models_on_disk() {
    for seed in 200..=203 {
        let dir = tempfile::tempdir().unwrap();
        let options = engine::FjallOptions::default();
        let engine = engine::open_fjall(dir.path(), &Store::SPACES, options).unwrap();
        play_on(engine, seed, 100, tight());
    }
}
