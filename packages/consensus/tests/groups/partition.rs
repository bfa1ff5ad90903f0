//! A leader that is cut off serves nothing stale and acknowledges nothing that is lost.

use std::time::{Duration, Instant};

use consensus::{ProposeError, ReadError};

use crate::common::{self, Cluster, kv, put, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_serves_no_stale_read() {
    let cluster = Cluster::form(3, common::options()).await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.group(leader).propose(put("a")).await.unwrap();
    cluster.net.isolate(leader, &others);
    let cut = Instant::now();

    // Reads at the old leader either see what the others wrote meanwhile, or fail.
    let old = cluster.group(leader);
    let old_engine = cluster.node(leader).engine();
    let reading = tokio::spawn(async move {
        let mut served = Vec::new();
        while cut.elapsed() < Duration::from_secs(8) {
            let begin = Instant::now();
            match old.read_index().await {
                Ok(_) => served.push((begin, kv::count(&*old_engine, b"b"))),
                Err(e) => assert!(matches!(e, ReadError::NoLeader { .. }), "{e}"),
            }
        }
        served
    });
    let writing = cluster.group(leader);
    let lost = tokio::spawn(async move { writing.propose(put("lost")).await });

    let group = cluster.group(others[0]);
    until("the others go on", || async { group.propose(put("b")).await.is_ok() }).await;
    let written = Instant::now();
    assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
    for (begin, seen) in reading.await.unwrap() {
        assert!(begin < written || seen > 0, "a stale read was served");
    }
    let lost = lost.await.unwrap().expect_err("it cannot be acknowledged");
    assert!(!matches!(lost, ProposeError::TooBusy), "{lost}");

    cluster.net.heal();
    let back = cluster.group(leader);
    until("the old leader follows", || async { back.read_index().await.is_ok() }).await;
    assert!(kv::count(&*cluster.node(leader).engine(), b"b") > 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_disturbs_nobody_when_it_is_back() {
    let cluster = Cluster::form(3, common::options()).await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let away = leader % 3 + 1;
    let others: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
    let term = cluster.group(leader).status().term;
    cluster.net.isolate(away, &others);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        cluster.group(leader).propose(put("a")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.net.heal();
    let back = cluster.group(away);
    until("it is back", || async { back.read_index().await.is_ok() }).await;
    let status = cluster.group(leader).status();
    assert_eq!((status.term, status.leader), (term, Some(leader)));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_through_changing_partitions_are_applied_at_most_once() {
    let cluster = Cluster::form(3, common::options()).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writers: Vec<_> = (1..=3)
        .flat_map(|id| (0..4).map(move |w| (id, w)))
        .map(|(id, w)| {
            let (group, stop) = (cluster.group(id), stop.clone());
            tokio::spawn(async move {
                let (mut acknowledged, mut refused, mut n) = (Vec::new(), Vec::new(), 0);
                while !stop.is_cancelled() {
                    n += 1;
                    let key = format!("{id}-{w}-{n}");
                    match group.propose(put(&key)).await {
                        Ok((count, _)) => {
                            assert_eq!(count, 1, "{key}");
                            acknowledged.push(key);
                        }
                        Err(e) if e.surely_not_proposed() => refused.push(key),
                        Err(_) => {}
                    }
                }
                (acknowledged, refused)
            })
        })
        .collect();
    for round in 0..4_u64 {
        let away = round % 3 + 1;
        let others: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
        cluster.net.isolate(away, &others);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.net.heal();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stop.cancel();
    let mut total = 0;
    let mut results = Vec::new();
    for writer in writers {
        results.push(writer.await.unwrap());
    }
    for id in 1..=3 {
        let group = cluster.group(id);
        until("reads again", || async { group.read_index().await.is_ok() }).await;
        let engine = cluster.node(id).engine();
        for (acknowledged, refused) in &results {
            total += acknowledged.len();
            for key in acknowledged {
                assert_eq!(kv::count(&*engine, key.as_bytes()), 1, "{key} at {id}");
            }
            for key in refused {
                assert_eq!(kv::count(&*engine, key.as_bytes()), 0, "{key} at {id}");
            }
        }
        let twice = kv::keys(&*engine).into_iter().filter(|(_, v)| v[7] > 1).count();
        assert_eq!(twice, 0);
    }
    assert!(total > 0);
    cluster.shutdown().await;
}
