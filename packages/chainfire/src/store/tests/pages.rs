//! Ranges in pages: together they are the range.

use api::mvccpb::KeyValue;

use super::script::Dice;
use super::*;
use crate::store::pages::Totals;

fn all(reader: &Reader, request: &RangeRequest, bytes: usize) -> (Vec<KeyValue>, Totals, usize) {
    let mut pages = reader.pages(request).unwrap();
    let (mut kvs, mut count) = (Vec::new(), 0);
    while let Some(page) = pages.next(bytes).unwrap() {
        count += 1;
        assert!(!page.kvs.is_empty() || count == 1, "only the first page may be empty");
        kvs.extend(page.kvs);
        if let Some(totals) = page.totals {
            assert!(pages.next(bytes).unwrap().is_none(), "the totals end it");
            return (kvs, totals, count);
        }
    }
    panic!("no totals");
}

#[test]
fn pages_together_are_the_range() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let mut bench = Bench::new();
        let key = |dice: &mut Dice| format!("k{}", dice.below(40));
        for _ in 0..300 {
            let name = key(&mut dice);
            match dice.below(10) {
                0 => drop(bench.delete(&name, "")),
                1 => drop(bench.delete(&name, &key(&mut dice))),
                _ => drop(bench.put(&name, &"v".repeat(dice.below(30) as usize))),
            }
        }
        // one key with a long history, which must be passed over by seeking
        for _ in 0..60 {
            bench.put("k20", "again");
        }
        let revision = bench.reader.revision();
        for _ in 0..200 {
            let request = RangeRequest {
                key: key(&mut dice).into(),
                range_end: match dice.below(4) {
                    0 => Bytes::new(),
                    1 => Bytes::from_static(&[0]),
                    _ => key(&mut dice).into(),
                },
                limit: dice.below(13) as i64 - 1,
                revision: match dice.below(2) {
                    0 => 0,
                    _ => 1 + dice.below(revision as u64) as i64,
                },
                keys_only: dice.below(2) == 0,
                ..Default::default()
            };
            let range = bench.reader.range(&request).unwrap();
            let (kvs, totals, _) = all(&bench.reader, &request, dice.below(200) as usize);
            assert_eq!(kvs, range.kvs, "seed {seed}: {request:?}");
            let header = range.header.unwrap();
            let expected =
                Totals { revision: header.revision, more: range.more, count: range.count };
            assert_eq!(totals, expected, "seed {seed}: {request:?}");
        }
    }
}

#[test]
fn a_page_holds_about_what_was_asked_for() {
    let mut bench = Bench::new();
    for number in 0..100 {
        bench.put(&format!("k{number:02}"), &"v".repeat(100));
    }
    let request = RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let (kvs, _, pages) = all(&bench.reader, &request, 1200);
    assert_eq!(kvs.len(), 100);
    assert_eq!(pages, 10, "ten pairs of 113 bytes a page");
    let (_, _, pages) = all(&bench.reader, &request, 1);
    assert_eq!(pages, 100, "at least a pair a page");
}

#[test]
fn writes_and_compactions_meanwhile_change_nothing() {
    let mut bench = Bench::new();
    for number in 0..50 {
        bench.put(&format!("k{number:02}"), "old");
    }
    let request = RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let expected = bench.reader.range(&request).unwrap();
    let mut pages = bench.reader.pages(&request).unwrap();
    let mut kvs = pages.next(100).unwrap().unwrap().kvs;
    assert!(kvs.len() < 50);
    for number in 0..50 {
        bench.put(&format!("k{number:02}"), "new");
    }
    bench.delete("k10", "k20");
    let revision = bench.reader.revision();
    bench.run(Request::Compact(CompactionRequest { revision, physical: false })).unwrap();
    while let Some(page) = pages.next(100).unwrap() {
        kvs.extend(page.kvs);
    }
    assert_eq!(kvs, expected.kvs);
    let old = RangeRequest { revision: 3, ..request.clone() };
    assert_eq!(bench.reader.pages(&old).err(), Some(StoreError::Compacted));
    let future = RangeRequest { revision: revision + 1, ..request };
    assert_eq!(bench.reader.pages(&future).err(), Some(StoreError::FutureRevision));
}
