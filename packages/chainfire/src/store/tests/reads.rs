//! Ranges: limits, order, filters, revisions, and readers beside the writer.

use super::*;

fn filled() -> Bench {
    let mut bench = Bench::new();
    // Revisions 2..=6; "b" is written twice.
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("d", "0"), ("b", "9")] {
        bench.put(key, value);
    }
    bench
}

#[test]
fn the_count_ignores_limit_and_filters() {
    let bench = filled();
    let all = range("a", "\0");
    let table = [
        (RangeRequest { limit: 2, ..all.clone() }, vec!["a", "b"], true, 4),
        (RangeRequest { limit: 4, ..all.clone() }, vec!["a", "b", "c", "d"], false, 4),
        (RangeRequest { limit: -1, ..all.clone() }, vec!["a", "b", "c", "d"], false, 4),
        (RangeRequest { count_only: true, limit: 1, ..all.clone() }, vec![], false, 4),
        (RangeRequest { min_mod_revision: 5, ..all.clone() }, vec!["b", "d"], false, 4),
        (RangeRequest { max_mod_revision: 4, ..all.clone() }, vec!["a", "c"], false, 4),
        (RangeRequest { min_create_revision: 4, ..all.clone() }, vec!["c", "d"], false, 4),
        (RangeRequest { max_create_revision: 3, ..all.clone() }, vec!["a", "b"], false, 4),
        (RangeRequest { min_mod_revision: 4, limit: 1, ..all.clone() }, vec!["b"], true, 4),
        (RangeRequest { min_mod_revision: 6, limit: 1, ..all }, vec!["b"], false, 4),
    ];
    for (request, expected, more, count) in table {
        let answer = bench.reader.range(&request).unwrap();
        assert_eq!(
            (keys(&answer), answer.more, answer.count),
            (expected.iter().map(ToString::to_string).collect(), more, count,),
            "{request:?}"
        );
    }
}

#[test]
fn the_order_comes_before_the_limit_unless_only_a_target_is_named() {
    let bench = filled();
    let sorted = |order, target, limit| {
        let all = range("a", "\0");
        let request = RangeRequest { sort_order: order, sort_target: target, limit, ..all };
        keys(&bench.reader.range(&request).unwrap()).join("")
    };
    assert_eq!(sorted(1, 0, 2), "ab");
    assert_eq!(sorted(2, 0, 2), "dc");
    assert_eq!(sorted(2, 1, 1), "b", "version");
    assert_eq!(sorted(2, 2, 2), "dc", "create");
    assert_eq!(sorted(2, 3, 2), "bd", "mod");
    assert_eq!(sorted(1, 4, 2), "dc", "value");
    assert_eq!(sorted(0, 4, 0), "dcab", "a target without an order sorts upwards");
    assert_eq!(sorted(0, 4, 1), "a", "but after the limit");
}

#[test]
fn keys_only_keeps_everything_but_the_value() {
    let bench = filled();
    let request = RangeRequest { keys_only: true, ..range("b", "") };
    let kv = bench.reader.range(&request).unwrap().kvs.remove(0);
    assert_eq!((kv.version, kv.value.len(), kv.mod_revision), (2, 0, 6));
}

#[test]
fn every_revision_stays_readable() {
    let bench = filled();
    let at = |revision| {
        let request = RangeRequest { revision, ..range("a", "\0") };
        let answer = bench.reader.range(&request).unwrap();
        assert_eq!(answer.header.unwrap().revision, 6, "the header tells the present");
        let pairs = answer.kvs.iter().map(|kv| text(&kv.key) + &text(&kv.value));
        pairs.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(at(1), "");
    assert_eq!(at(3), "a3 b1");
    assert_eq!(at(5), "a3 b1 c2 d0");
    assert_eq!(at(6), "a3 b9 c2 d0");
}

#[test]
fn long_histories_are_sought_over() {
    let mut bench = Bench::new();
    for round in 0..200 {
        bench.put("a", &format!("a{round}"));
        bench.put("b", &format!("b{round}"));
    }
    for revision in [2, 3, 40, 200, 399, 400, 401] {
        let request = RangeRequest { revision, ..range("a", "\0") };
        let answer = bench.reader.range(&request).unwrap();
        let (a, b) = ((revision - 2) / 2, (revision - 3).div_euclid(2));
        let mut expected = vec![format!("a{a}")];
        if b >= 0 {
            expected.push(format!("b{b}"));
        }
        let values: Vec<_> = answer.kvs.iter().map(|kv| text(&kv.value)).collect();
        assert_eq!((values, answer.count), (expected.clone(), expected.len() as i64));
    }
}

#[test]
fn many_keys_fill_and_leave_their_chunks() {
    let mut bench = Bench::new();
    let key = |n: usize| format!("k{:05}", (n * 7919) % 5000);
    let commands: Vec<Request> = (0..5000).map(|n| put(&key(n), "v")).collect();
    for batch in commands.chunks(300) {
        bench.batch(batch);
    }
    let count = |bench: &Bench, from: &str, to: &str| {
        let request = RangeRequest { count_only: true, ..range(from, to) };
        bench.reader.range(&request).unwrap().count
    };
    assert_eq!((count(&bench, "k", "l"), bench.reader.keys()), (5000, 5000));
    assert_eq!(count(&bench, "k00100", "k01100"), 1000);
    let page = RangeRequest { limit: 3, ..range("k01234", "\0") };
    let answer = bench.reader.range(&page).unwrap();
    assert_eq!((keys(&answer).join(" "), answer.count), ("k01234 k01235 k01236".into(), 3766));
    assert_eq!(bench.delete("k00500", "k04500").0, 4000);
    assert_eq!(count(&bench, "\0", "\0"), 1000);
    let mut bench = bench.reopen();
    assert_eq!(count(&bench, "\0", "\0"), 1000);
    assert_eq!(bench.delete("\0", "\0").0, 1000);
    assert_eq!((count(&bench, "\0", "\0"), bench.reader.keys()), (0, 0));
    bench.put("a", "1");
    assert_eq!(count(&bench, "\0", "\0"), 1);
}

#[test]
fn readers_beside_the_writer_see_whole_transactions() {
    let mut bench = Bench::on(
        Arc::new(engine::Memory::new(&Store::SPACES)),
        StoreOptions { cache_bytes: 2000, ring_bytes: 2000 },
    );
    let reader = bench.reader.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let reading = std::thread::spawn(move || {
        let mut reads = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
            let answer = reader.range(&range("k", "l")).unwrap();
            // Each transaction writes the same value to all keys.
            assert!(answer.kvs.windows(2).all(|two| two[0].value == two[1].value));
            assert!(answer.count == 0 || answer.count == 50);
            let revision = answer.header.unwrap().revision;
            let again = RangeRequest { revision, ..range("k", "l") };
            match reader.range(&again) {
                Ok(past) => assert_eq!(past.kvs, answer.kvs),
                Err(error) => assert_eq!(error, StoreError::Compacted),
            }
            reads += 1;
        }
    });
    for round in 0..300 {
        let ops = (0..50).map(|n| op_put(&format!("k{n:02}"), &format!("{round:040}"))).collect();
        bench.txn(always(ops)).unwrap();
        if round % 10 == 9 {
            bench.compact(bench.reader.revision()).unwrap();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    reading.join().unwrap();
}
