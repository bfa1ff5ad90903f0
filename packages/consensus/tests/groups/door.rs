//! The peer port: who is let in, what is refused, and that garbage harms nothing.

use std::fs;

use api::raft as pb;
use api::raft::raft_client::RaftClient;
use consensus::codes;
use fault::Fault;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::common::{self, Cluster, GROUP, Node, put};

fn client(node: &Node) -> RaftClient<Channel> {
    let endpoint = Endpoint::from_shared(node.info().peer_urls[0].clone()).unwrap();
    RaftClient::new(endpoint.connect_lazy())
}

fn code(status: &Status) -> fault::Code {
    Fault::from_status(status).expect("a fault with a code").code
}

fn to(node: u64) -> Option<pb::Address> {
    Some(pb::Address { group: GROUP, from: 2, to: node })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_admitted_is_refused_everywhere() {
    let net = common::Net::default();
    let mut node = Node::new(1, &net, 1).await;
    node.admit = false;
    node.start().await;
    let mut client = client(&node);
    let refused = [
        client.vote(pb::VoteRequest::default()).await.unwrap_err(),
        client.heartbeat(pb::AppendRequest::default()).await.unwrap_err(),
        client.propose(pb::ProposeRequest::default()).await.unwrap_err(),
        client.change(pb::ChangeRequest::default()).await.unwrap_err(),
        client.standing(pb::StandingRequest::default()).await.unwrap_err(),
        client.read_index(pb::ReadIndexRequest::default()).await.unwrap_err(),
        client.transfer_leader(pb::TransferRequest::default()).await.unwrap_err(),
        client.append(tokio_stream::empty()).await.unwrap_err(),
        client.snapshot(tokio_stream::empty()).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(code(&status), codes::NOT_A_PEER, "{status}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_wrong_addresses_are_refused_and_harm_nothing() {
    let cluster = Cluster::form(1, common::options()).await;
    let mut client = client(cluster.node(1));
    let group = cluster.group(1);
    group.propose(put("before")).await.unwrap();

    let wrong = client.vote(pb::VoteRequest { address: to(9), ..Default::default() }).await;
    assert_eq!(code(&wrong.unwrap_err()), codes::WRONG_ADDRESS);
    let address = Some(pb::Address { group: 99, from: 2, to: 1 });
    let wrong = client.read_index(pb::ReadIndexRequest { address }).await;
    assert_eq!(code(&wrong.unwrap_err()), codes::WRONG_ADDRESS);

    let no_vote = client.vote(pb::VoteRequest { address: to(1), ..Default::default() }).await;
    assert_eq!(code(&no_vote.unwrap_err()), codes::MALFORMED);
    let garbage = pb::AppendRequest {
        address: to(1),
        vote: Some(pb::Vote { term: 99, node: 2, committed: true }),
        entries: vec!["garbage".into()],
        ..Default::default()
    };
    let refused = client.heartbeat(garbage.clone()).await;
    assert_eq!(code(&refused.unwrap_err()), codes::MALFORMED);
    let mut refused = client.append(tokio_stream::iter([garbage])).await.unwrap().into_inner();
    assert_eq!(code(&refused.message().await.unwrap_err()), codes::MALFORMED);
    // Numbers that overflow, a leader without a quorum, and one that is somebody else.
    let vote = pb::Vote { term: 99, node: 2, committed: true };
    for (vote, index) in [
        (vote, u64::MAX),
        (pb::Vote { term: u64::MAX, ..vote }, 0),
        (pb::Vote { committed: false, ..vote }, 0),
        (pb::Vote { node: 1, ..vote }, 0),
    ] {
        let previous = Some(pb::LogId { term: 1, node: 1, index });
        let request =
            pb::AppendRequest { address: to(1), vote: Some(vote), previous, ..Default::default() };
        let refused = client.heartbeat(request).await;
        assert_eq!(code(&refused.unwrap_err()), codes::MALFORMED);
    }
    // Snapshots that no leader can have: of nothing, and newer than their leader.
    let newer = pb::LogId { term: 100, node: 2, index: 1000 };
    for last in [None, Some(newer), Some(pb::LogId { term: 99, node: 2, index: 0 })] {
        let head = pb::SnapshotHead {
            address: to(1),
            vote: Some(vote),
            last,
            members: Some(pb::StoredMembership::default()),
        };
        let part = Some(pb::snapshot_part::Part::Head(head));
        let refused = client.snapshot(tokio_stream::iter([pb::SnapshotPart { part }])).await;
        assert_eq!(code(&refused.unwrap_err()), codes::MALFORMED, "{last:?}");
    }
    // A batch of somebody else, and an empty one.
    for (origin, requests) in [(3, vec!["a".into()]), (2, vec![])] {
        let batch = Some(pb::Batch { origin, boot: 1, sequence: 1, requests });
        let refused = client.propose(pb::ProposeRequest { address: to(1), batch }).await;
        assert_eq!(code(&refused.unwrap_err()), codes::MALFORMED);
    }

    group.propose(put("after")).await.unwrap();
    assert!(group.status().leads());
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_cut_snapshot_is_thrown_away() {
    use pb::snapshot_part::Part as P;
    let net = common::Net::default();
    let mut node = Node::new(1, &net, 1).await;
    node.start().await;
    let mut client = client(&node);
    let head = P::Head(pb::SnapshotHead {
        address: to(1),
        vote: Some(pb::Vote { term: 5, node: 2, committed: true }),
        last: Some(pb::LogId { term: 5, node: 2, index: 100 }),
        members: Some(pb::StoredMembership::default()),
    });
    let chunk =
        |sequence, crc| P::Chunk(pb::SnapshotChunk { sequence, crc, data: "123456789".into() });
    let good = 0xe306_9283;
    let end = |chunks, bytes| P::End(pb::SnapshotEnd { chunks, bytes });
    for parts in [
        vec![head.clone(), chunk(0, good ^ 1), end(1, 9)],
        vec![head.clone(), chunk(1, good), end(1, 9)],
        vec![head.clone(), chunk(0, good)],
        vec![head.clone(), chunk(0, good), end(2, 9)],
        vec![head.clone(), chunk(0, good), end(1, 8)],
    ] {
        let parts: Vec<_> = parts.into_iter().map(|p| pb::SnapshotPart { part: Some(p) }).collect();
        let status = client.snapshot(tokio_stream::iter(parts)).await.unwrap_err();
        assert_eq!(code(&status), codes::SNAPSHOT, "{status}");
    }
    common::until("the spool is empty", || async {
        fs::read_dir(node.spool.path()).unwrap().count() == 0
    })
    .await;
    assert_eq!(node.group().applied(), 0);
    node.stop().await;
}
