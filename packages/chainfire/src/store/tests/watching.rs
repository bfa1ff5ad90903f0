//! Events: live, from memory, from the engine, around compaction.

use api::mvccpb::Event;

use super::*;

fn said(events: &[Event]) -> Vec<String> {
    let say = |event: &Event| {
        let kv = event.kv.as_ref().unwrap();
        let kind = if event.r#type == 0 { "put" } else { "del" };
        format!("{} {kind} {}{}", kv.mod_revision, text(&kv.key), text(&kv.value))
    };
    events.iter().map(say).collect()
}

/// One that keeps nothing in memory for watchers.
fn forgetful() -> Bench {
    let options = StoreOptions { cache_bytes: 0, ring_bytes: 0 };
    Bench::on(Arc::new(engine::Memory::new(&Store::SPACES)), options)
}

#[test]
fn events_come_in_the_order_of_operations_not_of_keys() {
    for mut bench in [Bench::new(), forgetful()] {
        bench.put("x", "0");
        bench.txn(always(vec![op_put("c", "1"), op_put("a", "2"), op_delete("x", "")])).unwrap();
        bench.put("b", "3");
        let all = [KeyRange::all()];
        let page = bench.reader.events(1, 100, &all, 1 << 20).unwrap();
        let expected = ["2 put x0", "3 put c1", "3 put a2", "3 del x", "4 put b3"];
        assert_eq!((said(&page.events), page.next), (expected.map(String::from).to_vec(), 5));
        let grave = page.events[3].kv.as_ref().unwrap();
        assert_eq!((grave.create_revision, grave.version, grave.lease), (0, 0, 0));
    }
}

#[test]
fn pages_end_with_a_revision_and_go_on_without_a_gap() {
    for mut bench in [Bench::new(), forgetful()] {
        for n in 0..20 {
            let pair = vec![op_put(&format!("a{n}"), "v"), op_put(&format!("b{n}"), "v")];
            bench.txn(always(pair)).unwrap();
        }
        let some =
            [KeyRange::new(&bytes("a"), &bytes("b")), KeyRange::new(&bytes("b7"), &bytes(""))];
        let mut next = 2;
        let mut got = Vec::new();
        while next <= bench.reader.revision() {
            let page = bench.reader.events(next, i64::MAX, &some, 150).unwrap();
            assert!(page.events.len() <= 6);
            got.extend(said(&page.events));
            next = page.next;
        }
        assert_eq!(got.len(), 21);
        assert_eq!(got[7..9], ["9 put a7v", "9 put b7v"]);
        let none = bench.reader.events(next, i64::MAX, &some, 150).unwrap();
        assert_eq!((none.events.len(), none.next), (0, next));
    }
}

#[test]
fn a_watch_at_the_compaction_revision_sees_its_deletes_and_below_it_is_refused() {
    for mut bench in [Bench::new(), forgetful()] {
        bench.put("a", "1");
        bench.put("b", "1");
        bench.delete("a", "z");
        bench.put("c", "1");
        bench.compact(4).unwrap();
        bench.settle();
        let all = [KeyRange::all()];
        assert_eq!(bench.reader.events(3, 9, &all, 1000), Err(StoreError::Compacted));
        for _ in 0..2 {
            let page = bench.reader.events(4, 9, &all, 1000).unwrap();
            assert_eq!(said(&page.events), ["4 del a", "4 del b", "5 put c1"]);
            assert_eq!(bench.reader.prev(&page.events[0]), Ok(None), "compacted");
            bench = bench.reopen();
        }
        bench.compact(5).unwrap();
        bench.settle();
        assert_eq!((bench.stored("v0"), bench.stored("e0")), (1, 1));
    }
}

#[test]
fn the_pair_before_is_found_until_it_is_compacted() {
    for mut bench in [Bench::new(), forgetful()] {
        let mut follow = bench.reader.subscribe();
        bench.put("a", "1");
        bench.put("a", "2");
        bench.delete("a", "");
        bench.put("a", "3");
        let mut live = Vec::new();
        while let Ok(Some(changes)) = follow.poll() {
            for at in 0..changes.events.len() {
                live.push(bench.reader.prev_of(&changes, at).unwrap());
            }
        }
        let events = bench.reader.events(2, 9, &[KeyRange::all()], 1000).unwrap().events;
        let prev = |event| bench.reader.prev(event).unwrap();
        let found: Vec<_> = events.iter().map(prev).collect();
        let values: Vec<_> = found.iter().map(|kv| kv.as_ref().map(|kv| text(&kv.value))).collect();
        assert_eq!(values, [None, Some("1".into()), Some("2".into()), None]);
        if live.len() == 4 {
            assert_eq!(live, found);
        }
    }
}

#[tokio::test]
async fn subscribers_are_woken_told_of_leases_and_told_when_they_lag() {
    let options = StoreOptions { cache_bytes: 1000, ring_bytes: 4000 };
    let mut bench = Bench::on(Arc::new(engine::Memory::new(&Store::SPACES)), options);
    let mut follow = bench.reader.subscribe();
    bench.grant(7, 5).unwrap();
    let changes = follow.next().await.unwrap();
    let info = LeaseInfo { id: 7, ttl: 5, remaining: 0 };
    assert_eq!(changes.leases[..], [LeaseChange::Granted(info)]);
    let waiting = tokio::spawn(async move {
        let changes = follow.next().await.unwrap();
        (follow, changes)
    });
    tokio::task::yield_now().await;
    bench.batch(&[put("a", "1"), delete("x", ""), put("b", "2")]);
    let (mut follow, changes) = waiting.await.unwrap();
    assert_eq!((changes.after, changes.revision), (1, 3));
    assert_eq!(said(&changes.events), ["2 put a1", "3 put b2"]);

    for n in 0..100 {
        bench.put("a", &n.to_string());
    }
    assert_eq!(follow.next().await.unwrap_err(), Lagged);
    assert!(follow.poll().unwrap().is_none());
    bench.compact(3).unwrap();
    assert_eq!(follow.next().await.unwrap().compacted, Some(3));
    bench.revoke(7).unwrap();
    assert_eq!(follow.next().await.unwrap().leases[..], [LeaseChange::Gone(7)]);
}
