//! Revisions, puts, deletes, leases, compaction, alarms: where clients notice a difference.

use api::chainfire_internal::{LeaseExpire, LeaseRemaining, LessorClaim};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{AlarmRequest, AlarmType, DeleteRangeRequest, LeaseCheckpoint, PutRequest};
use tonic::Code;

use super::*;

#[test]
fn an_empty_store_is_at_revision_1_and_the_first_put_makes_2() {
    let mut bench = Bench::new();
    assert_eq!(bench.reader.revision(), 1);
    assert_eq!(bench.put("a", "1"), 2);
    assert_eq!(bench.put("a", "2"), 3);
    assert_eq!(bench.get("a"), Some(("2".into(), 2, 3, 2)));
}

#[test]
fn what_changes_nothing_does_not_move_the_revision() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    assert_eq!(bench.delete("x", ""), (0, 2));
    assert_eq!(bench.delete("x", "z"), (0, 2));
    bench.txn(always(vec![op_range("a", ""), op_delete("x", "")])).unwrap();
    assert!(bench.run(Request::Put(PutRequest { lease: 9, ..put_request("a", "") })).is_err());
    assert_eq!(bench.reader.revision(), 2);
    assert_eq!(bench.delete("a", ""), (1, 3));
}

#[test]
fn a_key_that_was_deleted_starts_over() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("a", "2");
    bench.delete("a", "");
    assert_eq!(bench.get("a"), None);
    bench.put("a", "3");
    assert_eq!(bench.get("a"), Some(("3".into(), 5, 5, 1)));
}

#[test]
fn puts_that_keep_value_or_lease_need_the_key() {
    let mut bench = Bench::new();
    let keep_value = PutRequest { ignore_value: true, ..put_request("a", "") };
    let keep_lease = PutRequest { ignore_lease: true, ..put_request("a", "new") };
    let refused = Err(StoreError::KeyNotFound);
    assert_eq!(bench.run(Request::Put(keep_value.clone())), refused);
    assert_eq!(bench.run(Request::Put(keep_lease.clone())), refused);
    bench.grant(7, 60).unwrap();
    bench.run(put_with("a", "old", 7)).unwrap();
    bench.run(Request::Put(keep_lease)).unwrap();
    let kv = &bench.reader.range(&range("a", "")).unwrap().kvs[0];
    assert_eq!((text(&kv.value), kv.lease), ("new".into(), 7));
    bench.run(Request::Put(keep_value)).unwrap();
    let kv = &bench.reader.range(&range("a", "")).unwrap().kvs[0];
    assert_eq!((text(&kv.value), kv.lease, kv.version), ("new".into(), 0, 3));
    assert_eq!(bench.reader.lease_keys(7), Some(vec![]));
}

#[test]
fn errors_have_etcds_codes_and_words() {
    let table = [
        (StoreError::EmptyKey, Code::InvalidArgument, "etcdserver: key is not provided"),
        (StoreError::KeyNotFound, Code::InvalidArgument, "etcdserver: key not found"),
        (StoreError::ValueProvided, Code::InvalidArgument, "etcdserver: value is provided"),
        (StoreError::LeaseProvided, Code::InvalidArgument, "etcdserver: lease is provided"),
        (
            StoreError::TooManyOps,
            Code::InvalidArgument,
            "etcdserver: too many operations in txn request",
        ),
        (
            StoreError::DuplicateKey,
            Code::InvalidArgument,
            "etcdserver: duplicate key given in txn request",
        ),
        (StoreError::InvalidSortOption, Code::InvalidArgument, "etcdserver: invalid sort option"),
        (
            StoreError::Compacted,
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (
            StoreError::FutureRevision,
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (StoreError::TooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
        (StoreError::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        (StoreError::Corrupt, Code::DataLoss, "etcdserver: corrupt cluster"),
        (StoreError::LeaseNotFound, Code::NotFound, "etcdserver: requested lease not found"),
        (StoreError::LeaseExists, Code::FailedPrecondition, "etcdserver: lease already exists"),
        (StoreError::LeaseTtlTooLarge, Code::OutOfRange, "etcdserver: too large lease TTL"),
    ];
    for (error, code, text) in table {
        let status = tonic::Status::from(error);
        assert_eq!((status.code(), status.message()), (code, text));
    }
}

#[test]
fn requests_are_checked_as_etcd_checks_them() {
    assert_eq!(check::range(&range("", "a")), Err(StoreError::EmptyKey));
    let odd = RangeRequest { sort_target: 9, ..range("a", "") };
    assert_eq!(check::range(&odd), Err(StoreError::InvalidSortOption));
    let odd = RangeRequest { sort_order: -1, ..range("a", "") };
    assert_eq!(check::range(&odd), Err(StoreError::InvalidSortOption));
    assert_eq!(check::put(&put_request("", "v")), Err(StoreError::EmptyKey));
    let both = PutRequest { ignore_value: true, ..put_request("a", "v") };
    assert_eq!(check::put(&both), Err(StoreError::ValueProvided));
    let both = PutRequest { ignore_lease: true, lease: 1, ..put_request("a", "v") };
    assert_eq!(check::put(&both), Err(StoreError::LeaseProvided));
    assert_eq!(check::delete_range(&delete_request("", "")), Err(StoreError::EmptyKey));
}

#[test]
fn the_longest_key_fits_whatever_its_bytes() {
    let mut bench = Bench::new();
    let longest = "\0".repeat(MAX_KEY);
    bench.put(&longest, "v");
    assert_eq!(bench.get(&longest).unwrap().0, "v");
    assert!(layout_key(&longest) <= u16::MAX as usize);
    let longer = "\0".repeat(MAX_KEY + 1);
    assert_eq!(bench.run(put(&longer, "v")), Err(StoreError::TooLarge));
    assert_eq!(bench.get(&longer), None);
    assert_eq!(bench.delete(&longer, "").0, 0);
}

fn layout_key(key: &str) -> usize {
    super::super::layout::version_key(key.as_bytes(), 1, 0).len()
}

#[test]
fn answers_carry_the_pairs_before() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("b", "2");
    let put = PutRequest { prev_kv: true, ..put_request("a", "3") };
    match bench.run(Request::Put(put)).unwrap() {
        Reply::Put(answer) => assert_eq!(answer.prev_kv.unwrap().value, "1"),
        other => panic!("{other:?}"),
    }
    let all = DeleteRangeRequest { prev_kv: true, ..delete_request("a", "\0") };
    match bench.run(Request::DeleteRange(all)).unwrap() {
        Reply::DeleteRange(answer) => {
            let before: Vec<_> = answer.prev_kvs.iter().map(|kv| text(&kv.value)).collect();
            assert_eq!((before, answer.deleted), (vec!["3".into(), "2".into()], 2));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn revoking_a_lease_deletes_its_keys_in_one_revision() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(put_with("a", "1", 7)), Err(StoreError::LeaseNotFound));
    assert_eq!(bench.grant(0, 5), Err(StoreError::LeaseNotFound));
    assert_eq!(bench.grant(7, MAX_LEASE_TTL + 1), Err(StoreError::LeaseTtlTooLarge));
    bench.grant(7, 5).unwrap();
    assert_eq!(bench.grant(7, 5), Err(StoreError::LeaseExists));
    bench.run(put_with("b", "1", 7)).unwrap();
    bench.run(put_with("a", "1", 7)).unwrap();
    bench.run(put_with("c", "1", 7)).unwrap();
    bench.put("c", "2"); // detached again
    assert_eq!(bench.reader.lease_keys(7), Some(vec![bytes("a"), bytes("b")]));
    bench.revoke(7).unwrap();
    assert_eq!(bench.reader.revision(), 6);
    assert_eq!((bench.get("a"), bench.get("b")), (None, None));
    assert!(bench.get("c").is_some());
    assert_eq!(bench.revoke(7), Err(StoreError::LeaseNotFound));
    assert_eq!((bench.reader.lease(7), bench.reader.lease_keys(7)), (None, None));
    bench.grant(8, 5).unwrap();
    bench.revoke(8).unwrap();
    assert_eq!(bench.reader.revision(), 6, "a lease without keys moves nothing");
}

#[test]
fn a_lease_of_the_same_batch_can_be_used_and_revoked() {
    let mut bench = Bench::new();
    let grant = Request::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 5 });
    let revoke = Request::LeaseRevoke(LeaseRevokeRequest { id: 7 });
    let commands = [grant.clone(), put_with("a", "1", 7), revoke, grant, put_with("b", "1", 7)];
    assert!(bench.batch(&commands).iter().all(Result::is_ok));
    assert_eq!((bench.get("a"), bench.reader.revision()), (None, 4));
    assert_eq!(bench.reader.lease_keys(7), Some(vec![bytes("b")]));
}

#[test]
fn a_former_lessor_expires_and_notes_nothing() {
    let mut bench = Bench::new();
    for id in [7, 8] {
        bench.grant(id, 5).unwrap();
        bench.run(put_with(&format!("key{id}"), "1", id)).unwrap();
    }
    let claim = || Request::LessorClaim(LessorClaim {});
    let expire = |claim| Request::LeaseExpire(LeaseExpire { ids: vec![7, 99, 8], claim });
    assert_eq!(bench.run(claim()), Ok(Reply::LessorClaim(5)));
    // Of two members whose claims meet in one entry, one has the part.
    let refused = Err(StoreError::NotLessor);
    let both = bench.batch(&[claim(), expire(5), claim()]);
    assert_eq!(both, [Ok(Reply::LessorClaim(6)), refused.clone(), refused.clone()]);
    for other in [0, 5, 7] {
        assert_eq!(bench.run(expire(other)), refused);
        assert_eq!(bench.run(remaining(&[(7, 1)], other)), refused);
    }
    assert!(bench.get("key7").is_some());
    assert!(bench.reader.leases().iter().all(|info| info.remaining == 0));
    assert_eq!(bench.run(expire(6)), Ok(Reply::LeaseExpire(vec![7, 8])));
    assert_eq!((bench.reader.revision(), bench.reader.lessor_claim()), (5, 6));
    let bench = bench.reopen();
    assert_eq!(bench.reader.lessor_claim(), 6);
}

fn remaining(left: &[(i64, i64)], claim: u64) -> Request {
    let checkpoint = |&(id, remaining_ttl): &(i64, i64)| LeaseCheckpoint { id, remaining_ttl };
    let checkpoints = left.iter().map(checkpoint).collect();
    Request::LeaseRemaining(LeaseRemaining { checkpoints, claim })
}

#[test]
fn a_checkpoint_keeps_the_remaining_time() {
    let mut bench = Bench::new();
    bench.grant(-7, 50).unwrap();
    bench.run(Request::LessorClaim(LessorClaim {})).unwrap();
    bench.run(remaining(&[(-7, 20), (99, 1)], 2)).unwrap();
    let bench = bench.reopen();
    assert_eq!(bench.reader.leases(), [LeaseInfo { id: -7, ttl: 50, remaining: 20 }]);
}

#[test]
fn compaction_refuses_what_etcd_refuses() {
    let mut bench = Bench::new();
    for value in ["1", "2", "3"] {
        bench.put("a", value);
    }
    assert_eq!(bench.compact(5), Err(StoreError::FutureRevision));
    bench.compact(3).unwrap();
    assert_eq!(bench.compact(3), Err(StoreError::Compacted));
    assert_eq!(bench.compact(-1), Err(StoreError::Compacted));
    let at = |revision| RangeRequest { revision, ..range("a", "") };
    assert_eq!(bench.reader.range(&at(2)), Err(StoreError::Compacted));
    assert_eq!(bench.reader.range(&at(5)), Err(StoreError::FutureRevision));
    assert_eq!(bench.reader.range(&at(3)).unwrap().kvs[0].value, "2");
    assert_eq!(bench.reader.range(&at(-3)).unwrap().kvs[0].value, "3");
    assert_eq!(bench.reader.revision(), 4);
}

#[test]
fn compaction_leaves_what_can_still_be_seen_and_no_more() {
    let mut bench = Bench::new();
    for round in 0..50 {
        for key in ["a", "b", "c"] {
            bench.put(key, &round.to_string());
        }
    }
    bench.delete("b", "");
    bench.put("d", "1");
    let (size, revision) = (bench.reader.db_size_in_use(), bench.reader.revision());
    bench.compact(revision).unwrap();
    bench.settle();
    assert_eq!(bench.stored("v0"), 3, "one version of each live key");
    assert_eq!(bench.stored("e0"), 1, "the events of the compaction revision");
    assert!(bench.reader.db_size_in_use() < size / 10);
    assert_eq!(keys(&bench.reader.range(&range("a", "\0")).unwrap()), ["a", "c", "d"]);
    let size = bench.reader.db_size_in_use();
    let bench = bench.reopen();
    assert_eq!(bench.reader.db_size_in_use(), size);
    assert_eq!((bench.reader.compacted(), bench.reader.revision()), (revision, revision));
    assert_eq!(keys(&bench.reader.range(&range("a", "\0")).unwrap()), ["a", "c", "d"]);
}

#[test]
fn removal_goes_in_steps_and_can_be_cut_anywhere() {
    let mut bench = Bench::new();
    for round in 0..20 {
        bench.put("a", &round.to_string());
        bench.delete("a", "");
    }
    let removal = bench.store.removal();
    let held = removal.lock();
    bench.compact(41).unwrap();
    let hash = bench.reader.hash().unwrap();
    drop(held);
    let mut cursor = Default::default();
    bench.store.remove_step(&mut cursor, 7);
    assert_eq!(bench.reader.hash().unwrap(), hash, "removal is not to be seen");
    let bench = bench.reopen();
    bench.settle();
    assert_eq!(bench.reader.hash().unwrap(), hash);
    assert_eq!((bench.stored("v0"), bench.stored("e0")), (1, 1), "the tombstone of the last");
}

#[test]
fn alarms_forbid_growth_but_not_cleaning_up() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("b", "1");
    let alarm = |action: AlarmAction, kind: AlarmType, member_id| {
        Request::Alarm(AlarmRequest { action: action as i32, member_id, alarm: kind as i32 })
    };
    let listed = |outcome: Outcome| match outcome.unwrap() {
        Reply::Alarm(answer) => answer.alarms.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(listed(bench.run(alarm(AlarmAction::Activate, AlarmType::Nospace, 5))), 1);
    assert_eq!(listed(bench.run(alarm(AlarmAction::Activate, AlarmType::Nospace, 5))), 1);
    let mut bench = bench.reopen();
    assert_eq!(listed(bench.run(alarm(AlarmAction::Get, AlarmType::None, 0))), 1);
    assert_eq!(listed(bench.run(alarm(AlarmAction::Get, AlarmType::Corrupt, 0))), 0);
    assert_eq!(bench.run(put("c", "1")), Err(StoreError::NoSpace));
    assert_eq!(bench.grant(1, 5), Err(StoreError::NoSpace));
    let nested = always(vec![op_txn(always(vec![op_put("c", "1")]))]);
    assert_eq!(bench.txn(nested), Err(StoreError::NoSpace));
    bench.txn(always(vec![op_delete("a", "")])).unwrap();
    assert_eq!(bench.delete("b", "").0, 1);
    bench.compact(4).unwrap();
    assert_eq!(listed(bench.run(alarm(AlarmAction::Deactivate, AlarmType::Nospace, 6))), 0);
    assert_eq!(listed(bench.run(alarm(AlarmAction::Deactivate, AlarmType::Nospace, 5))), 1);
    bench.put("c", "1");
    bench.run(alarm(AlarmAction::Activate, AlarmType::Corrupt, 5)).unwrap();
    assert_eq!(bench.run(delete("c", "")), Err(StoreError::Corrupt));
}

#[test]
fn bytes_that_are_no_command_are_refused_and_unknown_commands_stop_the_member() {
    let mut bench = Bench::new();
    let garbage = [Bytes::from_static(b"\xff\xff"), Bytes::new()];
    let outcomes = bench.entry(&garbage);
    assert_eq!(outcomes, [Err(StoreError::Malformed), Err(StoreError::Malformed)]);
    // Field 1000 with an empty message: what a newer version may write.
    let newer = [Bytes::from_static(&[0xc2, 0x3e, 0x00])];
    assert!(bench.store.run(1000, &newer, |_| {}).is_err());
}

/// The numbers are what etcd 3.4.23 answered to the same commands.
#[test]
fn hash_kv_is_etcds() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("b", "2");
    bench.put("a", "3");
    bench.delete("b", "");
    bench.put("c", "4");
    let last = vec![op_put("d", "5"), op_put("e", "6"), op_delete("c", "")];
    bench.txn(always(last)).unwrap();
    assert_eq!(bench.reader.hash_kv(0).unwrap().hash, 2_204_719_922);
    bench.compact(5).unwrap();
    assert_eq!(bench.reader.hash_kv(0).unwrap().hash, 1_632_267_934);
    bench.settle();
    let hash = bench.reader.hash_kv(7).unwrap();
    assert_eq!((hash.hash, hash.compact_revision), (1_632_267_934, 5));
    assert_eq!(bench.reader.hash_kv(4), Err(StoreError::Compacted));
    assert_eq!(bench.reader.hash_kv(8), Err(StoreError::FutureRevision));
}

#[test]
fn a_hash_ends_however_much_is_written_meanwhile() {
    let mut bench = Bench::new();
    for at in 0..3000 {
        bench.put(&format!("key{at}"), "v");
    }
    let reader = bench.reader.clone();
    let hashing = std::thread::spawn(move || reader.hash().unwrap());
    let mut writes = 0;
    while !hashing.is_finished() {
        bench.put("a", "b");
        writes += 1;
        assert!(writes < 100_000, "it does not end");
    }
    hashing.join().unwrap();
}
