//! Transactions: compares, order inside, nesting, duplicate keys.

use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{Compare, PutRequest};

use super::*;

fn compare(key: &str, result: CompareResult, union: TargetUnion) -> Compare {
    let target = match union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        key: bytes(key),
        result: result as i32,
        target: target as i32,
        target_union: Some(union),
        range_end: Bytes::new(),
    }
}

fn succeeds(bench: &mut Bench, compare: Compare) -> bool {
    let txn = TxnRequest { compare: vec![compare], ..Default::default() };
    let succeeded = bench.txn(txn.clone()).unwrap().succeeded;
    assert_eq!(bench.reader.txn(&txn).unwrap().succeeded, succeeded);
    succeeded
}

#[test]
fn every_target_and_every_result() {
    use CompareResult::*;
    let mut bench = Bench::new();
    bench.grant(7, 60).unwrap();
    bench.put("a", "1");
    bench.run(put_with("a", "x", 7)).unwrap();
    let number = |of: fn(i64) -> TargetUnion, actual: i64| {
        [
            (of(actual), [true, false, false, false]),
            (of(actual - 1), [false, true, false, true]),
            (of(actual + 1), [false, false, true, true]),
        ]
    };
    let value = |text: &str| TargetUnion::Value(bytes(text));
    let mut table = Vec::new();
    table.extend(number(TargetUnion::Version, 2));
    table.extend(number(TargetUnion::CreateRevision, 2));
    table.extend(number(TargetUnion::ModRevision, 3));
    table.extend(number(TargetUnion::Lease, 7));
    table.push((value("x"), [true, false, false, false]));
    table.push((value("w"), [false, true, false, true]));
    table.push((value("xx"), [false, false, true, true]));
    for (union, expected) in table {
        for (result, expected) in [Equal, Greater, Less, NotEqual].into_iter().zip(expected) {
            let compare = compare("a", result, union.clone());
            assert_eq!(succeeds(&mut bench, compare), expected, "{result:?} {union:?}");
        }
    }
}

#[test]
fn a_missing_key_has_zeros_and_no_value() {
    let mut bench = Bench::new();
    for union in [
        TargetUnion::Version(0),
        TargetUnion::CreateRevision(0),
        TargetUnion::ModRevision(0),
        TargetUnion::Lease(0),
    ] {
        assert!(succeeds(&mut bench, compare("x", CompareResult::Equal, union.clone())));
        assert!(!succeeds(&mut bench, compare("x", CompareResult::NotEqual, union)));
    }
    for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less] {
        assert!(!succeeds(&mut bench, compare("x", result, TargetUnion::Value(Bytes::new()))));
    }
}

#[test]
fn a_compare_over_a_range_holds_if_it_holds_for_every_key() {
    let mut bench = Bench::new();
    for key in ["a/1", "a/2", "a/3"] {
        bench.put(key, "v");
    }
    let over = |version| Compare {
        range_end: bytes("a0"),
        ..compare("a/", CompareResult::Equal, TargetUnion::Version(version))
    };
    assert!(succeeds(&mut bench, over(1)));
    bench.put("a/2", "v");
    assert!(!succeeds(&mut bench, over(1)));
    bench.delete("a/2", "");
    assert!(succeeds(&mut bench, over(1)));
    bench.delete("a/", "a0");
    assert!(!succeeds(&mut bench, over(1)), "nothing there: version 0");
}

#[test]
fn unknown_targets_and_results_count_as_etcd_counts_them() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let odd = Compare { target: 77, ..compare("a", CompareResult::Equal, TargetUnion::Version(5)) };
    assert!(succeeds(&mut bench, odd));
    let odd = Compare { result: 77, ..compare("a", CompareResult::Equal, TargetUnion::Version(5)) };
    assert!(succeeds(&mut bench, odd));
    // A number of another kind than the target is zero.
    let odd = Compare {
        target: CompareTarget::Mod as i32,
        ..compare("a", CompareResult::Equal, TargetUnion::Version(2))
    };
    assert!(!succeeds(&mut bench, odd));
}

#[test]
fn all_operations_share_one_revision_and_see_those_before() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let answer = bench
        .txn(always(vec![
            op_range("a", "z"),
            op_put("b", "2"),
            op_range("a", "z"),
            op_delete("a", ""),
            op_range("a", "z"),
            op_put("c", "3"),
        ]))
        .unwrap();
    assert_eq!(answer.header.unwrap().revision, 3);
    let mut seen = Vec::new();
    let mut revisions = Vec::new();
    for response in &answer.responses {
        match response.response.as_ref().unwrap() {
            Response::ResponseRange(range) => {
                seen.push(keys(range));
                revisions.push(range.header.unwrap().revision);
            }
            Response::ResponsePut(put) => revisions.push(put.header.unwrap().revision),
            Response::ResponseDeleteRange(delete) => {
                assert_eq!(delete.deleted, 1);
                revisions.push(delete.header.unwrap().revision);
            }
            Response::ResponseTxn(_) => unreachable!(),
        }
    }
    assert_eq!(seen, [vec!["a"], vec!["a", "b"], vec!["b"]]);
    assert_eq!(revisions, [2, 3, 3, 3, 3, 3]);
    assert_eq!(bench.get("b"), Some(("2".into(), 3, 3, 1)));
    assert_eq!(bench.get("c"), Some(("3".into(), 3, 3, 1)));
}

#[test]
fn nested_compares_see_the_state_before_the_whole_and_ranges_the_outer_puts() {
    let mut bench = Bench::new();
    let inner = TxnRequest {
        compare: vec![compare("a", CompareResult::Greater, TargetUnion::Version(0))],
        success: vec![op_put("seen", "yes")],
        failure: vec![op_range("a", "")],
    };
    let answer = bench.txn(always(vec![op_put("a", "1"), op_txn(inner)])).unwrap();
    let Some(Response::ResponseTxn(nested)) = &answer.responses[1].response else { panic!() };
    assert!(!nested.succeeded);
    assert_eq!(nested.header, Some(Default::default()), "as etcd: there, and empty");
    let Some(Response::ResponseRange(range)) = &nested.responses[0].response else { panic!() };
    assert_eq!(keys(range), ["a"]);
    assert_eq!(bench.get("seen"), None);
}

#[test]
fn a_key_written_twice_is_refused_as_etcd_refuses_it() {
    let dup = Err(StoreError::DuplicateKey);
    let nested = |success, failure| op_txn(TxnRequest { success, failure, ..Default::default() });
    let table = [
        (vec![op_put("a", ""), op_put("a", "")], dup.clone()),
        (vec![op_put("a", ""), op_delete("a", "")], dup.clone()),
        (vec![op_delete("a", "c"), op_put("b", "")], dup.clone()),
        (vec![op_delete("a", "b"), op_put("b", "")], Ok(())),
        (vec![op_delete("a", "c"), op_delete("b", "d")], Ok(())),
        (vec![op_put("a", ""), nested(vec![op_put("a", "")], vec![])], dup.clone()),
        (vec![op_put("a", ""), nested(vec![], vec![op_put("a", "")])], dup.clone()),
        (vec![op_put("a", ""), nested(vec![], vec![op_delete("a", "")])], dup.clone()),
        (vec![op_delete("a", ""), nested(vec![op_put("a", "")], vec![])], dup.clone()),
        (vec![nested(vec![op_put("a", "")], vec![op_put("a", "")])], Ok(())),
        (
            vec![nested(vec![op_put("a", "")], vec![]), nested(vec![op_put("a", "")], vec![])],
            dup.clone(),
        ),
        (
            vec![nested(vec![op_delete("a", "")], vec![]), nested(vec![op_put("a", "")], vec![])],
            dup.clone(),
        ),
        (vec![op_delete("a", "\0"), op_put("b", "")], Ok(())),
        // etcd holds nested puts against the deletes before them only.
        (
            vec![nested(vec![op_put("a", "")], vec![]), nested(vec![op_delete("a", "")], vec![])],
            Ok(()),
        ),
    ];
    for (ops, expected) in table {
        assert_eq!(check::txn(&always(ops.clone()), 128), expected, "{ops:?}");
        let failure = TxnRequest { failure: ops.clone(), ..Default::default() };
        assert_eq!(check::txn(&failure, 128), expected, "{ops:?}");
    }
}

#[test]
fn operations_are_counted_along_the_deepest_path() {
    let puts = |count: usize| (0..count).map(|n| op_put(&n.to_string(), "")).collect::<Vec<_>>();
    assert_eq!(check::txn(&always(puts(128)), 128), Ok(()));
    assert_eq!(check::txn(&always(puts(129)), 128), Err(StoreError::TooManyOps));
    let mut outer = vec![op_txn(always(puts(100)))];
    assert_eq!(check::txn(&always(outer.clone()), 128), Ok(()));
    outer.extend((0..40).map(|n| op_range(&n.to_string(), "")));
    assert_eq!(check::txn(&always(outer), 128), Err(StoreError::TooManyOps));
    let empty = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
    assert_eq!(check::txn(&empty, 128), Err(StoreError::EmptyKey));
    let nothing = always(vec![RequestOp { request: None }]);
    assert_eq!(check::txn(&nothing, 128), Err(StoreError::KeyNotFound));
}

#[test]
fn a_put_and_a_delete_of_one_key_in_one_transaction_leave_two_events() {
    let mut bench = Bench::new();
    bench.put("a", "0");
    let put_then_delete =
        vec![op_txn(always(vec![op_put("a", "1")])), op_txn(always(vec![op_delete("a", "")]))];
    bench.txn(always(put_then_delete)).unwrap();
    assert_eq!(bench.get("a"), None);
    let mut bench = bench.reopen();
    for _ in 0..2 {
        let page = bench.reader.events(3, 3, &[KeyRange::all()], 1000).unwrap();
        let kinds: Vec<_> = page.events.iter().map(|event| event.r#type).collect();
        assert_eq!((kinds, page.next), (vec![0, 1], 4));
        assert_eq!(page.events[0].kv.as_ref().unwrap().value, "1");
        if bench.reader.compacted() < 0 {
            for event in &page.events {
                assert_eq!(bench.reader.prev(event).unwrap().unwrap().value, "0");
            }
        }
        let _ = bench.compact(3);
        bench.settle();
    }
    bench.put("b", "1");
    bench.compact(4).unwrap();
    bench.settle();
    assert_eq!((bench.stored("v0"), bench.stored("e0")), (1, 1));
}

#[test]
fn what_fails_in_the_middle_is_taken_back_whole() {
    let mut bench = Bench::new();
    bench.grant(7, 60).unwrap();
    bench.run(put_with("a", "1", 7)).unwrap();
    // The check before sees the key, the put after the delete does not.
    let keep = PutRequest { ignore_value: true, ..put_request("a", "") };
    let txn = TxnRequest {
        success: vec![op_put("b", "1"), op_delete("a", ""), op(Op::RequestPut(keep))],
        ..Default::default()
    };
    let commands = [put("z", "1"), Request::Txn(txn), put("y", "1")];
    let outcomes = bench.batch(&commands);
    assert_eq!(outcomes[1], Err(StoreError::KeyNotFound));
    assert_eq!((bench.get("b"), bench.reader.revision()), (None, 4));
    assert_eq!(bench.get("a"), Some(("1".into(), 2, 2, 1)));
    assert_eq!(bench.reader.lease_keys(7), Some(vec![bytes("a")]));
    assert_eq!(bench.get("y").unwrap().1, 4);
}

#[test]
fn checks_come_before_the_first_write_and_only_on_the_taken_path() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let future = op(Op::RequestRange(RangeRequest { revision: 9, ..range("a", "") }));
    let txn = always(vec![op_put("b", "1"), future.clone()]);
    assert_eq!(bench.txn(txn), Err(StoreError::FutureRevision));
    let not_taken = TxnRequest { failure: vec![future], ..Default::default() };
    bench.txn(not_taken).unwrap();
    let put = PutRequest { lease: 5, ..put_request("b", "1") };
    assert_eq!(bench.txn(always(vec![op(Op::RequestPut(put))])), Err(StoreError::LeaseNotFound));
    bench.put("a", "2");
    bench.compact(3).unwrap();
    let old = op(Op::RequestRange(RangeRequest { revision: 2, ..range("a", "") }));
    let txn = always(vec![op_put("b", "1"), old]);
    assert_eq!(bench.txn(txn.clone()), Err(StoreError::Compacted));
    assert_eq!(bench.get("b"), None);
    let reads = always(txn.success[1..].to_vec());
    assert_eq!(bench.reader.txn(&reads), Err(StoreError::Compacted));
}

#[test]
fn read_only_transactions_are_told_apart() {
    assert!(check::is_read_only(&always(vec![op_range("a", "")])));
    assert!(check::is_read_only(&always(vec![op_txn(always(vec![op_range("a", "")]))])));
    assert!(!check::is_read_only(&always(vec![op_txn(always(vec![op_delete("a", "")]))])));
    assert!(!check::is_serializable(&always(vec![op_range("a", "")])));
}
