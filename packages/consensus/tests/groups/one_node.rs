//! A group of one voter.

use std::time::Duration;

use crate::common::{self, Cluster, Node, put, until};
use bytes::Bytes;
use consensus::{ConsensusError, GroupOptions, MembershipError, NodeInfo, ProposeError, Role};

#[tokio::test(flavor = "multi_thread")]
async fn it_forms_answers_and_forms_again() {
    let cluster = Cluster::form(1, common::options()).await;
    let group = cluster.group(1);
    assert_eq!(group.propose(put("a")).await.unwrap().0, 1);
    let (count, index) = group.propose(put("a")).await.unwrap();
    assert_eq!(count, 2);
    assert!(group.read_index().await.unwrap() >= index);
    group.form(cluster.nodes[0].info()).await.unwrap();

    let status = group.status();
    assert!(status.leads() && status.formed() && !status.removed && status.failure.is_none());
    assert_eq!((status.leader, status.applied), (Some(1), index));
    assert_eq!(status.members.len(), 1);
    assert!(status.members[0].voter);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let mut cluster = Cluster::form(1, common::options()).await;
    for round in 0..3 {
        let group = cluster.group(1);
        for n in 0..20 {
            assert_eq!(group.propose(put(&format!("{round}-{n}"))).await.unwrap().0, 1);
        }
        let node = cluster.node_mut(1);
        match round {
            0 => node.stop().await,
            1 => node.kill().await,
            _ => node.lose_power().await,
        }
        node.start().await;
        node.group().read_index().await.unwrap();
        for (r, n) in (0..=round).flat_map(|r| (0..20).map(move |n| (r, n))) {
            let key = format!("{r}-{n}");
            assert_eq!(common::kv::count(&*node.engine(), key.as_bytes()), 1, "{key}");
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_is_formed_everything_says_no_leader() {
    let net = common::Net::default();
    let mut node = Node::new(1, &net, 1).await;
    node.options.request_timeout = Duration::from_millis(300);
    node.start().await;
    let group = node.group();
    assert!(!group.status().formed());
    let error = group.propose(put("a")).await.unwrap_err();
    assert!(matches!(error, ProposeError::NoLeader { hint: None }), "{error}");
    assert!(error.surely_not_proposed());
    assert!(group.read_index().await.is_err());
    let error = group.add_learner(2, NodeInfo::default()).await.unwrap_err();
    assert!(matches!(error, MembershipError::NoLeader { .. }), "{error}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_much_is_refused() {
    let options = GroupOptions { max_request: 1000, max_in_flight: 2000, ..common::options() };
    let cluster = Cluster::form(1, options).await;
    let group = cluster.group(1);
    let error = group.propose(Bytes::from(vec![0; 1001])).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { size: 1001, limit: 1000 }), "{error}");
    let many = (0..200).map(|n| {
        let group = group.clone();
        async move { group.propose(put(&format!("{n:0500}"))).await }
    });
    let results = futures::future::join_all(many).await;
    let busy = results.iter().filter(|r| matches!(r, Err(ProposeError::TooBusy))).count();
    let done = results.iter().filter(|r| r.is_ok()).count();
    assert_eq!(busy + done, 200);
    assert!(busy > 0 && done > 0, "busy {busy} done {done}");
    // What was held is given back.
    until("room again", || async { group.propose(put("again")).await.is_ok() }).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_the_journal_cannot_hold_are_refused_at_the_start() {
    let mut node = Node::new(1, &common::Net::default(), 1).await;
    node.options.max_request = 600 << 10;
    let error = node.try_start().await.unwrap_err().to_string();
    assert!(error.contains("max_request (614400)") && error.contains("journal"), "{error}");
    node.options.max_request = 500 << 10;
    node.start().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_waiter_is_answered_when_the_group_stops() {
    let cluster = Cluster::form(1, common::options()).await;
    let group = cluster.group(1);
    let waiting: Vec<_> = (0..500)
        .map(|n| {
            let group = group.clone();
            tokio::spawn(async move { group.propose(put(&format!("{n}"))).await })
        })
        .collect();
    let reads: Vec<_> = (0..100)
        .map(|_| {
            let group = group.clone();
            tokio::spawn(async move { group.read_index().await })
        })
        .collect();
    group.shutdown().await;
    let all = async {
        for waiter in waiting {
            let _ = waiter.await.unwrap();
        }
        for read in reads {
            let _ = read.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all).await.expect("all are answered");
    assert!(matches!(group.propose(put("late")).await, Err(ProposeError::Stopped)));
    assert!(group.read_index().await.is_err());
    assert_eq!(group.status().role, Role::Stopped);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_group_and_answers_all() {
    let cluster = Cluster::form(1, common::options()).await;
    let group = cluster.group(1);
    group.propose(put("before")).await.unwrap();
    cluster.node(1).disk.fail_sync_after(3);
    let mut failed = None;
    for n in 0..100 {
        if let Err(e) = group.propose(put(&format!("{n}"))).await {
            failed = Some(e);
            break;
        }
    }
    let failed = failed.expect("a sync fails");
    assert!(matches!(failed, ProposeError::Failed(_)), "{failed}");
    assert!(!failed.surely_not_proposed());
    let status = group.status();
    assert_eq!(status.role, Role::Stopped);
    assert!(status.failure.is_some_and(|f| f.starts_with("CO-")));
    assert!(matches!(group.propose(put("after")).await, Err(ProposeError::Failed(_))));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_machine_ends_the_group_and_answers_all() {
    let net = common::Net::default();
    let mut node = Node::new(1, &net, 1).await;
    node.poison = Some(put("poison"));
    node.start().await;
    let group = node.group();
    group.form(node.info()).await.unwrap();
    group.propose(put("good")).await.unwrap();
    let (poisoned, other) =
        tokio::join!(group.propose(put("poison")), group.propose(put("beside")));
    assert!(matches!(poisoned, Err(ProposeError::Failed(_))), "{poisoned:?}");
    assert!(!matches!(other, Err(ProposeError::TimedOut(_))), "{other:?}");
    assert!(group.status().failure.is_some());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_another_member_and_a_lost_journal_are_refused() {
    let mut cluster = Cluster::form(1, common::options()).await;
    let node = cluster.node_mut(1);
    node.group().propose(put("a")).await.unwrap();
    node.stop().await;
    node.id = 9;
    let error = node.try_start().await.unwrap_err();
    assert!(matches!(error, ConsensusError::WrongNode { stored: 1, asked: 9, .. }), "{error}");
    node.id = 1;
    node.disk = journal::lossy::LossyDisk::new(5);
    let error = node.try_start().await.unwrap_err();
    assert!(matches!(error, ConsensusError::Storage(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_cut_to_size_too() {
    let options = GroupOptions { keep_bytes: 100_000, ..common::options() };
    let cluster = Cluster::form(1, options).await;
    let group = cluster.group(1);
    until("cut", || async {
        group.propose(put(&"x".repeat(10_000))).await.unwrap();
        group.status().purged > 5
    })
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_group_with_its_reason() {
    let mut cluster = Cluster::form(1, common::options()).await;
    let group = cluster.group(1);
    group.propose(put("before")).await.unwrap();
    cluster.node(1).disk.limit_room(Some(0));
    let mut failed = None;
    for n in 0..2000 {
        let key = format!("{n}-{}", "x".repeat(60_000));
        if let Err(e) = group.propose(put(&key)).await {
            failed = Some(e);
            break;
        }
    }
    let failed = failed.expect("no room for ever more");
    assert!(matches!(failed, ProposeError::Failed(_)), "{failed}");
    let failure = group.status().failure.expect("a reason");
    assert!(failure.starts_with("CO-4001"), "{failure}");
    // With room again nothing acknowledged is missing.
    let node = cluster.node_mut(1);
    node.kill().await;
    node.disk.limit_room(None);
    node.start().await;
    node.group().read_index().await.unwrap();
    assert_eq!(common::kv::count(&*node.engine(), b"before"), 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_cut_behind_what_is_durable() {
    let options = GroupOptions { keep_entries: 10, ..common::options() };
    let mut cluster = Cluster::form(1, options).await;
    let group = cluster.group(1);
    for n in 0..100 {
        group.propose(put(&format!("{n}"))).await.unwrap();
    }
    until("purged", || async {
        let status = group.status();
        status.purged + 10 == status.applied && status.persisted == status.applied
    })
    .await;
    let node = cluster.node_mut(1);
    node.lose_power().await;
    node.start().await;
    let group = node.group();
    assert_eq!(group.propose(put("0")).await.unwrap().0, 2);
    assert!(group.status().purged > 80);
    cluster.shutdown().await;
}
