//! Limits on namespaces as part of the replicated state.

use std::collections::BTreeMap;

use api::chainfire::Quota;
use api::chainfire_internal::QuotaChange;
use api::chainfire_internal::quota_change::Change;

use super::*;
use crate::store::transfer::{self, Census, Record, Space};

fn set(prefix: &str, keys: u64, size: u64) -> Request {
    let quota = Quota { prefix: bytes(prefix), keys, bytes: size, requests_per_second: 0 };
    Request::Quota(QuotaChange { change: Some(Change::Set(quota)) })
}

fn unset(prefix: &str) -> Request {
    Request::Quota(QuotaChange { change: Some(Change::Delete(bytes(prefix))) })
}

/// What a namespace holds: keys and bytes.
fn usage(bench: &Bench, prefix: &str) -> (u64, u64) {
    let all = bench.reader.quotas();
    let found = all.iter().find(|it| it.quota.as_ref().unwrap().prefix == prefix);
    found.map(|it| (it.keys, it.bytes)).unwrap()
}

fn over(outcome: Outcome) -> bool {
    match outcome {
        Ok(_) => false,
        Err(StoreError::OverQuota { .. }) => true,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_namespace_holds_what_it_may() {
    let mut bench = Bench::new();
    bench.put("a/1", "xx");
    bench.put("b/1", "xx");
    bench.run(set("a/", 3, 20)).unwrap();
    assert_eq!(usage(&bench, "a/"), (1, 5), "what was there counts");
    bench.put("a/2", "xx");
    bench.put("a/3", "xx");
    assert_eq!(usage(&bench, "a/"), (3, 15));
    let refused = bench.run(put("a/4", "")).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let said = refused.to_string();
    assert!(said.contains("\"a/\"") && said.contains("3 of 3 keys"), "{said}");
    bench.put("b/2", "whatever");
    assert!(!over(bench.run(put("a/3", "xxxxxxx"))), "20 bytes are allowed");
    assert!(over(bench.run(put("a/3", "xxxxxxxx"))), "21 are not");
    assert_eq!(usage(&bench, "a/"), (3, 20));
    assert!(!over(bench.run(put("a/3", "y"))), "less is always allowed");
    assert_eq!(bench.delete("a/1", ""), (1, 9));
    assert_eq!(usage(&bench, "a/"), (2, 9));
    assert!(!over(bench.run(put("a/4", ""))));

    // one that is lowered below what is there refuses growth alone
    bench.run(set("a/", 1, 0)).unwrap();
    assert!(
        over(bench.run(put("a/5", ""))) && !over(bench.run(put("a/2", "much longer than before")))
    );
    bench.run(unset("a/")).unwrap();
    assert!(!over(bench.run(put("a/5", ""))));
    assert_eq!(bench.run(unset("a/")), Err(StoreError::NoQuota));
}

#[test]
fn a_transaction_is_refused_whole() {
    let mut bench = Bench::new();
    bench.run(set("a/", 2, 0)).unwrap();
    bench.put("a/1", "x");
    let before = bench.reader.revision();
    let two = always(vec![op_put("a/2", "x"), op_put("b/1", "x"), op_put("a/3", "x")]);
    assert!(matches!(bench.txn(two), Err(StoreError::OverQuota { .. })));
    assert_eq!(bench.reader.revision(), before);
    assert_eq!(usage(&bench, "a/"), (1, 4));
    assert_eq!(bench.get("b/1"), None);
    // what the transaction itself gives back may be used
    let swap = always(vec![op_delete("a/1", ""), op_put("a/2", "x"), op_put("a/3", "x")]);
    bench.txn(swap).unwrap();
    assert_eq!(usage(&bench, "a/"), (2, 8));
}

#[test]
fn namespaces_lie_in_one_another() {
    let mut bench = Bench::new();
    bench.run(set("", 3, 0)).unwrap();
    bench.run(set("a/", 2, 0)).unwrap();
    bench.run(set("a/b/", 1, 0)).unwrap();
    for (key, refused) in [
        ("a/b/1", false),
        ("a/b/2", true),
        ("a/1", false),
        ("a/2", true),
        ("x", false),
        ("y", true),
    ] {
        assert_eq!(over(bench.run(put(key, ""))), refused, "{key}");
    }
    assert_eq!((usage(&bench, "").0, usage(&bench, "a/").0, usage(&bench, "a/b/").0), (3, 2, 1));
}

#[test]
fn a_lease_that_ends_gives_room_back() {
    let mut bench = Bench::new();
    bench.run(set("a/", 1, 0)).unwrap();
    bench.grant(7, 10).unwrap();
    bench.run(put_with("a/1", "x", 7)).unwrap();
    assert!(over(bench.run(put("a/2", ""))));
    bench.revoke(7).unwrap();
    assert_eq!(usage(&bench, "a/"), (0, 0));
    assert!(!over(bench.run(put("a/2", ""))));
}

#[test]
fn only_root_sets_limits() {
    let mut bench = super::auth::world();
    for request in [set("a/", 1, 0), unset("a/")] {
        let denied = Err(AuthError::PermissionDenied.into());
        assert_eq!(bench.by("writer", request.clone()), denied);
        assert_eq!(bench.run(request.clone()), Err(AuthError::UserEmpty.into()));
        bench.by("root", request).unwrap();
    }
    bench.by("root", set("a/", 1, 0)).unwrap();
    bench.by("writer", put("a/1", "")).unwrap();
    assert!(over(bench.by("writer", put("a/2", ""))));
    assert!(over(bench.by("root", put("a/2", ""))), "limits hold for everybody");
}

#[test]
fn a_request_of_nothing_and_too_many_namespaces_are_refused() {
    let mut bench = Bench::new();
    let nothing = Request::Quota(QuotaChange { change: None });
    assert_eq!(bench.run(nothing), Err(StoreError::Malformed));
    let all: Vec<Request> = (0..QUOTAS_MAX).map(|n| set(&n.to_string(), 1, 0)).collect();
    assert!(bench.batch(&all).iter().all(Result::is_ok));
    assert_eq!(bench.run(set("one more", 1, 0)), Err(StoreError::TooManyQuotas));
    bench.run(set("7", 2, 0)).unwrap();
    bench.run(unset("8")).unwrap();
    bench.run(set("one more", 1, 0)).unwrap();
    assert_eq!(bench.run(set(&"x".repeat(MAX_KEY + 1), 1, 0)), Err(StoreError::TooLarge));
    bench.run(unset("9")).unwrap();
    let longest = "\0".repeat(MAX_KEY);
    bench.run(set(&longest, 1, 0)).unwrap();
    bench.put(&longest, "x");
    assert_eq!(usage(&bench.reopen(), &longest), (1, MAX_KEY as u64 + 1));
}

#[test]
fn limits_on_requests_hold_for_the_keys_of_their_namespaces() {
    let mut bench = Bench::new();
    assert!(!bench.reader.has_rates());
    let rate = |prefix: &str, requests_per_second| {
        let quota = Quota { prefix: bytes(prefix), requests_per_second, ..Default::default() };
        Request::Quota(QuotaChange { change: Some(Change::Set(quota)) })
    };
    bench.run(set("a/", 9, 0)).unwrap();
    assert!(!bench.reader.has_rates());
    bench.run(rate("", 100)).unwrap();
    bench.run(rate("a/b/", 5)).unwrap();
    let bench = bench.reopen();
    assert!(bench.reader.has_rates());
    let expected = vec![(bytes("a/b/"), 5), (bytes(""), 100)];
    assert_eq!(bench.reader.rates_of(b"a/b/c"), expected);
    assert_eq!(bench.reader.rates_of(b"a/b"), [(bytes(""), 100)]);
    let mut bench = bench;
    bench.batch(&[unset(""), unset("a/b/")]);
    assert!(!bench.reader.has_rates() && bench.reader.rates_of(b"a/b/c").is_empty());
}

/// What a backup is made of, and a restore makes of it.
#[test]
fn a_restore_keeps_limits() {
    let mut bench = Bench::new();
    bench.put("a/1", "xx");
    bench.run(set("a/", 3, 20)).unwrap();
    let mut pack = bench.reader.snapshot().unwrap();
    let mut chunks = std::iter::from_fn(|| consensus::SnapshotSource::next(&mut pack).transpose());
    let records: Vec<Record> =
        transfer::Records::new(&mut chunks, false).collect::<Result<_, _>>().unwrap();
    let mut census = Census::default();
    let mut small = BTreeMap::new();
    let spaces = layout::Spaces::of(0);
    let mut batch = engine::Batch::new();
    for record in records {
        census.see(&record).unwrap();
        match record.space {
            Space::Small => {
                small.insert(record.key, record.value);
            }
            Space::Versions => batch.put(spaces.versions, record.key, record.value),
            Space::Events => batch.put(spaces.events, record.key, record.value),
        }
    }
    transfer::turn(&mut small, transfer::Turn { bump: 1000, compact: true }).unwrap();
    small.into_iter().for_each(|(key, value)| batch.put(spaces.small, key, value));
    let engine: Engine = Arc::new(engine::Memory::new(&Store::SPACES));
    engine.write(batch).unwrap();
    let quotas = state::load(&engine, spaces, 0).unwrap().state.quotas;
    assert_eq!((quotas.limits[&b"a/"[..]].keys, quotas.limits[&b"a/"[..]].bytes), (3, 20));
    assert_eq!((quotas.usage(b"a/").keys, quotas.usage(b"a/").bytes), (1, 5));

    // one that is not whole is seen when the backup is
    let (key, value) = (bytes("quota/b/"), bytes("\u{1}rubbish"));
    let broken = Record { space: Space::Small, key, value };
    assert!(Census::default().see(&broken).is_err());
}

/// Random work in entries of several commands: what is counted on the way is what is there, after a
/// restart and on a member that got a snapshot, too.
#[test]
fn counts_stay_true() {
    for seed in 0..20u64 {
        let mut state = seed * 7919 + 1;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let mut bench = Bench::new();
        for _ in 0..40 {
            let commands: Vec<Request> = (0..1 + next(6))
                .map(|_| {
                    let name = ["a", "a/b", "a/b/c", "b", "ab"][next(5) as usize];
                    let key = format!("{name}{}", next(3));
                    match next(10) {
                        0 => set(["", "a", "a/b", "b"][next(4) as usize], 1 + next(6), next(80)),
                        1 => unset(["", "a", "a/b", "b"][next(4) as usize]),
                        2 => delete(&key, ""),
                        3 => delete("a", "b"),
                        4 | 5 => Request::Txn(always(vec![
                            op_put(&key, &"t".repeat(next(20) as usize)),
                            op_put("b9", &"t".repeat(next(20) as usize)),
                        ])),
                        _ => put(&key, &"v".repeat(next(30) as usize)),
                    }
                })
                .collect();
            bench.batch(&commands);
            check(&bench);
        }
        let hash = bench.reader.hash().unwrap();
        let bench = bench.reopen();
        check(&bench);
        assert_eq!(bench.reader.hash().unwrap(), hash, "seed {seed}");
        let mut other = Bench::new();
        let mut pack = bench.reader.snapshot().unwrap();
        let mut chunks =
            std::iter::from_fn(|| consensus::SnapshotSource::next(&mut pack).transpose());
        other.store.replace(&mut chunks, |_| {}).unwrap();
        check(&other);
        assert_eq!(other.reader.hash().unwrap(), hash, "seed {seed}");
    }
}

fn check(bench: &Bench) {
    for quota in bench.reader.quotas() {
        let prefix = quota.quota.unwrap().prefix;
        let all = bench.reader.range(&range("\0", "\0")).unwrap();
        let inside = all.kvs.iter().filter(|kv| kv.key.starts_with(&prefix));
        let (keys, size) = inside
            .fold((0, 0), |(keys, size), kv| (keys + 1, size + kv.key.len() + kv.value.len()));
        assert_eq!((quota.keys, quota.bytes), (keys, size as u64), "{prefix:?}");
    }
}
