//! Whole groups in one process: real gRPC on loopback, disks and engines that lose what was not
//! synced, and a network that can be cut between two nodes.

#![allow(dead_code)]

pub mod kv;
pub mod net;
pub mod node;

use std::future::Future;
use std::time::{Duration, Instant};

use consensus::{Group, GroupOptions, NodeId, Role};

pub use kv::{Kv, put};
pub use net::Net;
pub use node::{GROUP, Node};

/// Waits for a condition, with a deadline and words for the failure.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn options() -> GroupOptions {
    GroupOptions {
        persist_interval: Duration::from_millis(200),
        // The journals have small segments.
        batch_bytes: 256 << 10,
        max_request: 256 << 10,
        ..GroupOptions::default()
    }
}

/// Three voters, formed by the first.
pub struct Cluster {
    pub net: Net,
    pub nodes: Vec<Node>,
}

impl Cluster {
    pub async fn form(count: u64, options: GroupOptions) -> Self {
        let net = Net::default();
        let mut nodes = Vec::new();
        for id in 1..=count {
            let mut node = Node::new(id, &net, id * 7919).await;
            node.options = options.clone();
            node.start().await;
            nodes.push(node);
        }
        let cluster = Self { net, nodes };
        let first = cluster.group(1);
        first.form(cluster.nodes[0].info()).await.unwrap();
        for node in &cluster.nodes[1..] {
            first.add_learner(node.id, node.info()).await.unwrap();
            cluster.promote(node.id).await;
        }
        cluster
    }

    pub fn group(&self, id: NodeId) -> Group<Kv> {
        self.node(id).group()
    }

    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes.iter().find(|n| n.id == id).unwrap()
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.id == id).unwrap()
    }

    /// Promotes a learner as soon as it has caught up.
    pub async fn promote(&self, id: NodeId) {
        let first = self.running().next().unwrap().group();
        until("promote", || async {
            match first.promote(id).await {
                Ok(()) => true,
                Err(consensus::MembershipError::NotReady { .. }) => false,
                Err(consensus::MembershipError::Quorum(_)) => false,
                Err(e) => panic!("promote {id}: {e}"),
            }
        })
        .await;
    }

    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.is_running())
    }

    /// The node that leads and that all running nodes of `among` agree on.
    pub async fn leader(&self, among: &[NodeId]) -> NodeId {
        let mut leader = None;
        until("a leader", || {
            let statuses: Vec<_> = among.iter().map(|id| self.group(*id).status()).collect();
            let leading: Vec<_> = statuses.iter().filter(|s| s.role == Role::Leader).collect();
            leader = match leading[..] {
                [one] if statuses.iter().all(|s| s.leader == Some(one.me)) => Some(one.me),
                _ => None,
            };
            let found = leader.is_some();
            async move { found }
        })
        .await;
        leader.unwrap()
    }

    pub async fn shutdown(mut self) {
        for node in &mut self.nodes {
            node.stop().await;
        }
    }
}
