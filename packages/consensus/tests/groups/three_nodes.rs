//! Three voters: forwarding, failover, restarts, two groups on one transport.

use std::time::{Duration, Instant};

use consensus::{GroupOptions, MembershipError, ProposeError};

use crate::common::{self, Cluster, GROUP, kv, put, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_proposals_and_reads() {
    let cluster = Cluster::form(3, common::options()).await;
    let mut tasks = Vec::new();
    for id in 1..=3 {
        for n in 0..100 {
            let group = cluster.group(id);
            tasks.push(tokio::spawn(async move {
                let (count, index) = group.propose(put(&format!("{id}-{n}"))).await.unwrap();
                // The answer came from this node's own machine.
                assert!(group.applied() >= index);
                count
            }));
        }
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 1);
    }
    for id in 1..=3 {
        cluster.group(id).read_index().await.unwrap();
        assert_eq!(kv::keys(&*cluster.node(id).engine()).len(), 300, "node {id}");
    }
    let leader = cluster.leader(&[1, 2, 3]).await;
    let status = cluster.group(leader).status();
    assert!(status.members.iter().all(|m| m.voter && m.matched.is_some() && m.last_ack.is_some()));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_here_is_seen_by_a_read_there() {
    let cluster = Cluster::form(3, common::options()).await;
    for n in 0..30 {
        let (writer, reader) = (n % 3 + 1, (n + 1) % 3 + 1);
        let key = format!("{n}");
        let (_, index) = cluster.group(writer).propose(put(&key)).await.unwrap();
        assert!(cluster.group(reader).read_index().await.unwrap() >= index);
        assert_eq!(kv::count(&*cluster.node(reader).engine(), key.as_bytes()), 1);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_leaders_death_another_serves_within_three_seconds() {
    let mut cluster = Cluster::form(3, common::options()).await;
    for round in 0..2 {
        let leader = cluster.leader(&[1, 2, 3]).await;
        let other = leader % 3 + 1;
        let key = format!("before-{round}");
        cluster.group(other).propose(put(&key)).await.unwrap();
        let killed = Instant::now();
        cluster.node_mut(leader).kill().await;
        let group = cluster.group(other);
        let mut n = 0;
        while let Err(e) = group.propose(put(&format!("during-{round}-{n}"))).await {
            assert!(matches!(e, ProposeError::LeaderChanged), "{e}");
            n += 1;
        }
        let away = killed.elapsed();
        group.read_index().await.unwrap();
        assert!(away < Duration::from_secs(3), "served again after {away:?}");
        assert_eq!(kv::count(&*cluster.node(other).engine(), key.as_bytes()), 1);

        cluster.node_mut(leader).start().await;
        let back = cluster.group(leader);
        back.read_index().await.unwrap();
        assert_eq!(kv::count(&*cluster.node(leader).engine(), key.as_bytes()), 1);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_there_is_no_leader_and_a_hint_at_most() {
    let mut cluster = Cluster::form(3, common::options()).await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let (one, two) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.node_mut(leader).stop().await;
    cluster.node_mut(one).stop().await;
    let group = cluster.group(two);
    let begin = Instant::now();
    let error = group.propose(put("a")).await.unwrap_err();
    // Taken by a leader that died, or could no longer commit, its fate is unknown; else there
    // was none to take it.
    use ProposeError as E;
    let known = matches!(error, E::NoLeader { .. } | E::LeaderChanged | E::TimedOut(_));
    assert!(known, "{error}");
    assert!(group.read_index().await.is_err());
    assert!(begin.elapsed() < Duration::from_secs(12));
    cluster.node_mut(one).start().await;
    until("served again", || async { group.propose(put("b")).await.is_ok() }).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_three_at_once_lose_power_and_lose_nothing_else() {
    let mut cluster = Cluster::form(3, common::options()).await;
    for round in 0..3 {
        let writers: Vec<_> = (1..=3)
            .map(|id| {
                let group = cluster.group(id);
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for n in 0.. {
                        let key = format!("{round}-{id}-{n}");
                        match group.propose(put(&key)).await {
                            Ok((count, _)) => done.push((key, count)),
                            Err(_) => return done,
                        }
                    }
                    done
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        for node in &mut cluster.nodes {
            node.lose_power().await;
        }
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        for node in &mut cluster.nodes {
            node.start().await;
        }
        for id in 1..=3 {
            let group = cluster.group(id);
            until("reads again", || async { group.read_index().await.is_ok() }).await;
            for (key, count) in &acknowledged {
                assert_eq!(*count, 1, "{key}");
                let stored = kv::count(&*cluster.node(id).engine(), key.as_bytes());
                assert_eq!(stored, 1, "{key} at {id} in round {round}");
            }
        }
        assert!(!acknowledged.is_empty());
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_groups_share_a_journal_and_a_transport() {
    const OTHER: u64 = 77;
    let net = common::Net::default();
    let mut cluster = Cluster { net: net.clone(), nodes: Vec::new() };
    for id in 1..=3 {
        let mut node = common::Node::new(id, &net, id).await;
        node.add_group(OTHER);
        node.start().await;
        cluster.nodes.push(node);
    }
    // One group begins on the first node, the other on the second.
    for (group, former) in [(GROUP, 1), (OTHER, 2)] {
        let handle = cluster.node(former).group_of(group);
        handle.form(cluster.node(former).info()).await.unwrap();
        for id in (1..=3).filter(|id| *id != former) {
            handle.add_learner(id, cluster.node(id).info()).await.unwrap();
            until("promoted", || async {
                match handle.promote(id).await {
                    Ok(()) => true,
                    Err(MembershipError::NotReady { .. } | MembershipError::Quorum(_)) => false,
                    Err(e) => panic!("{e}"),
                }
            })
            .await;
        }
    }
    for n in 0..50 {
        let node = cluster.node(n % 3 + 1);
        let (first, second) = (node.group_of(GROUP), node.group_of(OTHER));
        let (one, other) = tokio::join!(
            first.propose(put(&format!("one-{n}"))),
            second.propose(put(&format!("other-{n}"))),
        );
        assert_eq!((one.unwrap().0, other.unwrap().0), (1, 1));
    }
    cluster.node_mut(2).lose_power().await;
    cluster.node_mut(2).start().await;
    for (group, prefix) in [(GROUP, "one"), (OTHER, "other")] {
        let node = cluster.node(2);
        let handle = node.group_of(group);
        until("reads again", || async { handle.read_index().await.is_ok() }).await;
        let keys = kv::keys(&*node.engines[&group]);
        assert_eq!(keys.len(), 50);
        assert!(keys.iter().all(|(key, _)| key.starts_with(prefix.as_bytes())));
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_failed_makes_room_for_another() {
    let options = GroupOptions { persist_interval: Duration::from_secs(1), ..common::options() };
    let mut cluster = Cluster::form(3, options).await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let group = cluster.group(leader);
    // Only its machine fails, while nothing is applied: the Raft core does not notice by itself.
    group.propose(put("not durable yet")).await.unwrap();
    cluster.node(leader).engine().fail();
    until("failed", || async { group.status().failure.is_some() }).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let next = cluster.leader(&others).await;
    assert_ne!(next, leader);
    cluster.group(next).propose(put("two go on")).await.unwrap();
    cluster.node_mut(leader).kill().await;
    cluster.shutdown().await;
}
