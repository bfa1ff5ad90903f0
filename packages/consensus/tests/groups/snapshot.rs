//! A follower behind the cut log gets a snapshot, whatever crashes on the way.

use std::fs;

use consensus::GroupOptions;

use crate::common::{self, Cluster, Node, kv, put, until};

fn options() -> GroupOptions {
    GroupOptions { keep_entries: 5, ..common::options() }
}

async fn filled(count: u64) -> Cluster {
    let cluster = Cluster::form(1, options()).await;
    let group = cluster.group(1);
    let puts = (0..count).map(|n| {
        let group = group.clone();
        async move { group.propose(put(&format!("{n:06}"))).await.unwrap() }
    });
    futures::future::join_all(puts).await;
    // Entries hold many requests: make some more of them, so that the log is cut.
    for n in 0..20 {
        group.propose(put(&format!("more-{n}"))).await.unwrap();
    }
    until("cut", || async { group.status().purged > 10 }).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_a_snapshot_and_then_the_log() {
    let mut cluster = filled(5000).await;
    let mut node = Node::new(2, &cluster.net, 2).await;
    node.options = options();
    node.start().await;
    let group = cluster.group(1);
    group.add_learner(2, node.info()).await.unwrap();
    cluster.nodes.push(node);
    cluster.promote(2).await;
    group.propose(put("after")).await.unwrap();
    cluster.group(2).read_index().await.unwrap();
    let (one, two) = (cluster.node(1).engine(), cluster.node(2).engine());
    assert_eq!(kv::keys(&*one), kv::keys(&*two));
    assert_eq!(kv::keys(&*two).len(), 5021);
    // What was installed is durable, and the spool is empty.
    assert_eq!(fs::read_dir(cluster.node(2).spool.path()).unwrap().count(), 0);
    cluster.node_mut(2).lose_power().await;
    cluster.node_mut(2).start().await;
    until("reads", || async { cluster.group(2).read_index().await.is_ok() }).await;
    assert_eq!(kv::keys(&*cluster.node(2).engine()).len(), 5021);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_away_for_long_gets_one_too() {
    let mut cluster = Cluster::form(3, options()).await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let away = leader % 3 + 1;
    cluster.node_mut(away).lose_power().await;
    let group = cluster.group(leader);
    for n in 0..60 {
        group.propose(put(&format!("{n}"))).await.unwrap();
    }
    until("cut", || async { group.status().purged > 30 }).await;
    cluster.node_mut(away).start().await;
    until("reads", || async { cluster.group(away).read_index().await.is_ok() }).await;
    assert_eq!(kv::keys(&*cluster.node(away).engine()).len(), 60);
    assert!(!cluster.group(away).status().removed);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_installation_is_finished_at_the_next_start() {
    let cluster = filled(300).await;
    for round in 0..6 {
        let id = 10 + round;
        let mut node = Node::new(id, &cluster.net, id).await;
        node.options = options();
        node.start().await;
        cluster.group(1).add_learner(id, node.info()).await.unwrap();
        // Cut it somewhere on the way.
        let spool = node.spool.path().to_owned();
        let mut spins = 0_u64;
        while spins < round * 40_000 && node.group().applied() == 0 {
            spins += 1;
            if fs::read_dir(&spool).unwrap().next().is_some() && round % 2 == 1 {
                break;
            }
            tokio::task::yield_now().await;
        }
        node.lose_power().await;
        node.start().await;
        until("caught up", || async { node.group().read_index().await.is_ok() }).await;
        assert_eq!(kv::keys(&*node.engine()).len(), 320, "round {round}");
        assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
        cluster.group(1).remove(id).await.unwrap();
        node.stop().await;
    }
    cluster.shutdown().await;
}
