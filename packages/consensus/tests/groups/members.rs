//! Adding, promoting, removing, updating, handing over; from any node, with typed refusals.

use std::time::Duration;

use api::raft as pb;
use api::raft::raft_client::RaftClient;
use consensus::{MembershipError, NodeInfo, Role};
use prost::Message;

use crate::common::{self, Cluster, GROUP, Net, Node, put, until};

async fn learner(cluster: &mut Cluster, id: u64) {
    let mut node = Node::new(id, &cluster.net, id).await;
    node.start().await;
    let (info, group) = (node.info(), cluster.group(1));
    cluster.nodes.push(node);
    group.add_learner(id, info).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changed_is_refused_with_its_reason() {
    let mut cluster = Cluster::form(3, common::options()).await;
    let group = cluster.group(2);
    type E = MembershipError;
    let info = NodeInfo { name: "x".into(), ..cluster.node(1).info() };
    assert!(matches!(group.promote(9).await, Err(E::NotFound(9))));
    assert!(matches!(group.remove(9).await, Err(E::NotFound(9))));
    assert!(matches!(group.update(9, info.clone()).await, Err(E::NotFound(9))));
    assert!(matches!(group.transfer_leader(9).await, Err(E::NotFound(9))));
    assert!(matches!(group.add_learner(1, info.clone()).await, Err(E::Exists(1))));
    assert!(matches!(group.promote(1).await, Err(E::NotLearner(1))));
    group.add_learner(3, cluster.node(3).info()).await.unwrap();

    // A member that was never there: it is no candidate for anything.
    let dead = NodeInfo { peer_urls: vec!["http://127.0.0.1:1".into()], ..NodeInfo::default() };
    group.add_learner(4, dead).await.unwrap();
    assert!(matches!(group.promote(4).await, Err(E::NotReady { id: 4, matched: 0, .. })));
    assert!(matches!(group.transfer_leader(4).await, Err(E::NotVoter(4))));
    group.remove(4).await.unwrap();
    // The leader answered; a follower's status follows.
    until("its removal is known", || async { group.status().member(4).is_none() }).await;

    // Only two answer: removing one of them would leave no majority.
    let leader = cluster.leader(&[1, 2, 3]).await;
    let (away, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.node_mut(away).stop().await;
    let group = cluster.group(leader);
    until("refused", || async { matches!(group.remove(other).await, Err(E::Quorum(_))) }).await;
    assert!(matches!(group.transfer_leader(away).await, Err(E::Quorum(_))));
    group.remove(away).await.unwrap();
    group.propose(put("two are enough")).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_from_everywhere_at_once_are_made_one_by_one() {
    let mut cluster = Cluster::form(3, common::options()).await;
    for id in 4..=6 {
        let mut node = Node::new(id, &cluster.net, id).await;
        node.start().await;
        cluster.nodes.push(node);
    }
    let adds = (4..=6).map(|id| {
        let (group, info) = (cluster.group(id - 3), cluster.node(id).info());
        async move { group.add_learner(id, info).await }
    });
    for added in futures::future::join_all(adds).await {
        added.unwrap();
    }
    // A learner takes proposals too.
    for id in 4..=6 {
        let group = cluster.group(id);
        until("learner", || async { group.status().role == Role::Learner && group.applied() > 0 })
            .await;
        group.propose(put(&format!("{id}"))).await.unwrap();
        assert!(!group.status().removed);
    }
    let removes = (4..=6).map(|id| {
        let group = cluster.group(id - 3);
        async move { group.remove(id).await }
    });
    for removed in futures::future::join_all(removes).await {
        removed.unwrap();
    }
    for id in 4..=6 {
        let group = cluster.group(id);
        until("it learns that it was removed", || async { group.status().removed }).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over_without_losing_a_proposal() {
    let cluster = Cluster::form(3, common::options()).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writers: Vec<_> = (1..=3)
        .map(|id| {
            let (group, stop) = (cluster.group(id), stop.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.is_cancelled() {
                    match group.propose(put(&format!("{id}-{n}"))).await {
                        Ok((count, _)) => assert_eq!(count, 1),
                        Err(e) => assert!(!e.surely_not_proposed(), "{id}-{n}: {e}"),
                    }
                    n += 1;
                }
                n
            })
        })
        .collect();
    for round in 0..4 {
        let leader = cluster.leader(&[1, 2, 3]).await;
        let to = leader % 3 + 1;
        let asked = cluster.group(round % 3 + 1);
        asked.transfer_leader(to).await.unwrap();
        assert_eq!(cluster.leader(&[1, 2, 3]).await, to);
    }
    stop.cancel();
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_leader_steps_down_and_knows_it() {
    let cluster = Cluster::form(3, common::options()).await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.group(others[0]).remove(leader).await.unwrap();
    let group = cluster.group(leader);
    until("removed", || async { group.status().removed }).await;
    let next = cluster.leader(&others).await;
    assert_ne!(next, leader);
    let status = cluster.group(next).status();
    assert_eq!(status.members.len(), 2);
    cluster.group(others[0]).propose(put("two go on")).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_follower_that_was_away_learns_it_when_it_is_back() {
    let mut cluster = Cluster::form(3, common::options()).await;
    let leader = cluster.leader(&[1, 2, 3]).await;
    let away = leader % 3 + 1;
    cluster.node_mut(away).stop().await;
    let group = cluster.group(leader);
    until("removed", || async { group.remove(away).await.is_ok() }).await;
    let term = group.status().term;
    cluster.node_mut(away).start().await;
    let gone = cluster.group(away);
    until("it learns that it was removed", || async { gone.status().removed }).await;
    // It has disturbed nobody.
    let status = group.status();
    assert_eq!((status.term, status.leader), (term, Some(leader)));
    cluster.shutdown().await;
}

/// Plays a leader that begins a promotion of the third node and is lost before its second step:
/// the voters are then those before and those after.
async fn half_promote(cluster: &Cluster) -> u64 {
    let leader = cluster.leader(&[1, 2, 3]).await;
    let status = cluster.group(leader).status();
    until("all have all", || async {
        (1..=3).all(|id| cluster.group(id).applied() == status.last_index)
    })
    .await;
    let id = |term, node, index| Some(pb::LogId { term, node, index });
    let term = status.term + 10;
    let entry_id = id(term, 2, status.last_index);
    let nodes = cluster.nodes.iter();
    let members = pb::Membership {
        configs: vec![pb::Voters { ids: vec![1, 2] }, pb::Voters { ids: vec![1, 2, 3] }],
        nodes: nodes
            .map(|node| pb::Node {
                id: node.id,
                info: Some(pb::NodeInfo {
                    name: node.info().name,
                    peer_urls: node.info().peer_urls,
                    ..Default::default()
                }),
            })
            .collect(),
    };
    let entry = pb::Entry { id: entry_id, body: Some(pb::entry::Body::Membership(members)) };
    for to in [1, 3] {
        let url = cluster.node(to).info().peer_urls[0].clone();
        let endpoint = tonic::transport::Endpoint::from_shared(url).unwrap();
        let request = pb::AppendRequest {
            address: Some(pb::Address { group: GROUP, from: 2, to }),
            vote: Some(pb::Vote { term, node: 2, committed: true }),
            previous: id(status.term, leader, status.last_index - 1),
            entries: vec![entry.encode_to_vec().into()],
            ..Default::default()
        };
        let answer = RaftClient::new(endpoint.connect_lazy()).heartbeat(request).await.unwrap();
        let outcome = answer.into_inner().outcome;
        assert!(matches!(outcome, Some(pb::append_response::Outcome::Matched(_))), "{outcome:?}");
    }
    until("its entry counts", || async {
        cluster.group(1).status().member(3).is_some_and(|m| m.voter)
    })
    .await;
    status.last_index + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_leader_was_lost_half_way_is_finished() {
    for asked in [false, true] {
        let mut cluster = Cluster::form(2, common::options()).await;
        learner(&mut cluster, 3).await;
        let half = half_promote(&cluster).await;
        if asked {
            // Whoever began it tries again, and is not told that nothing is to be done.
            until("promoted", || async {
                match cluster.group(1).promote(3).await {
                    Ok(()) | Err(MembershipError::NotLearner(3)) => true,
                    Err(error) => panic!("{error}"),
                }
            })
            .await;
        }
        let leader = cluster.leader(&[1, 2, 3]).await;
        let group = cluster.group(leader);
        // The entry, the new leader's first, and the one that finishes the change.
        until("finished", || async { group.status().committed >= half + 2 }).await;
        let away = if leader == 2 { 1 } else { 2 };
        cluster.node_mut(away).stop().await;
        until("a majority of the new voters is enough", || async {
            group.propose(put("two of three")).await.is_ok()
        })
        .await;
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_member_is_reached_at_its_new_address() {
    let mut cluster = Cluster::form(1, common::options()).await;
    learner(&mut cluster, 2).await;
    cluster.promote(2).await;
    let net = Net::default();
    cluster.group(1).propose(put("before")).await.unwrap();
    cluster.node_mut(2).stop().await;
    let fresh = Node::new(2, &net, 2).await;
    let node = cluster.node_mut(2);
    node.address = fresh.address;
    drop(fresh);
    node.start().await;
    // The member tells its own new address when it is back; the other needs it to have a quorum.
    let info = node.info();
    let (first, second) = (cluster.group(1), cluster.group(2));
    let updated = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let (one, two) =
                tokio::join!(first.update(2, info.clone()), second.update(2, info.clone()));
            if one.is_ok() || two.is_ok() {
                return;
            }
        }
    });
    updated.await.expect("updated");
    until("applied", || async { second.read_index().await.is_ok() }).await;
    cluster.shutdown().await;
}
