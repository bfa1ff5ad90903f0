//! Measures; proves nothing. `cargo test --release -p chainfire speed -- --ignored --nocapture`

#![allow(clippy::print_stderr)]

use std::time::{Duration, Instant};

use super::*;

const KEYS: usize = 1_000_000;

fn key(n: usize) -> String {
    format!("key/{:020}", n.wrapping_mul(7_919) % KEYS)
}

fn rate(what: &str, count: usize, run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    let took = start.elapsed();
    eprintln!("{what}: {:.0}/s, {took:?}", count as f64 / took.as_secs_f64());
    took
}

fn measure(engine: Engine) {
    let options = StoreOptions { cache_bytes: 512 << 20, ..Default::default() };
    let mut bench = Bench::on(engine, options);
    let value = "v".repeat(256);
    let entries: Vec<Vec<Bytes>> = (0..KEYS)
        .collect::<Vec<_>>()
        .chunks(64)
        .map(|chunk| chunk.iter().map(|&n| encode(put(&key(n), &value))).collect())
        .collect();
    rate("puts of new keys, 64 an entry", KEYS, || {
        for entry in &entries {
            bench.entry(entry);
        }
    });
    rate("puts again, 64 an entry", 200_000, || {
        for entry in &entries[..200_000 / 64] {
            bench.entry(entry);
        }
    });
    drop(entries);
    let gets: Vec<RangeRequest> = (0..300_000).map(|n| range(&key(n * 31), "")).collect();
    rate("gets", gets.len(), || {
        for request in &gets {
            assert_eq!(bench.reader.range(request).unwrap().count, 1);
        }
    });
    let revision = bench.reader.revision() - 100;
    rate("gets at an earlier revision", 50_000, || {
        for request in &gets[..50_000] {
            let past = RangeRequest { revision, ..request.clone() };
            bench.reader.range(&past).unwrap();
        }
    });
    rate("keys in scans of 1000 of all", 1_000_000, || {
        for n in 0..1000 {
            let page = RangeRequest { limit: 1000, ..range(&key(n * 997), "\0") };
            bench.reader.range(&page).unwrap();
        }
    });
    rate("keys in scans of 1000 at an earlier revision", 100_000, || {
        for n in 0..100 {
            let page = RangeRequest { limit: 1000, revision, ..range(&key(n * 997), "\0") };
            bench.reader.range(&page).unwrap();
        }
    });
    rate("counts of all", 100, || {
        for _ in 0..100 {
            let all = RangeRequest { count_only: true, ..range("\0", "\0") };
            assert_eq!(bench.reader.range(&all).unwrap().count, KEYS as i64);
        }
    });
    let at = bench.reader.revision();
    rate("events removed", at as usize, || {
        bench.compact(at).unwrap();
        bench.settle();
    });
    let mut bench = Some(bench);
    rate("reopened", KEYS, || bench = bench.take().map(Bench::reopen));
    let bench = bench.take().unwrap();
    assert_eq!(bench.reader.keys(), KEYS);
    rate("hash kv", KEYS, || {
        bench.reader.hash_kv(0).unwrap();
    });
}

#[test]
#[ignore = "measures for a minute"]
fn speed_in_memory() {
    measure(Arc::new(engine::Memory::new(&Store::SPACES)));
}

#[test]
#[ignore = "measures for a minute"]
fn speed_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = engine::FjallOptions::default();
    measure(engine::open_fjall(dir.path(), &Store::SPACES, options).unwrap());
}
