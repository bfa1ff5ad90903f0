//! The channels to the other members, one a peer, shared by all groups of the process.

use std::collections::HashMap;
use std::sync::Arc;

use api::raft as pb;
use api::raft::raft_client::RaftClient;
use parking_lot::RwLock;
use tonic::transport::Channel;

use crate::codes;
use crate::figures::Figures;
use crate::options::Dialer;
use crate::types::{GroupId, NodeId, NodeInfo};

pub(crate) struct Peers {
    dialer: Arc<dyn Dialer>,
    max_message: usize,
    table: RwLock<HashMap<NodeId, Peer>>,
    pub(crate) figures: Arc<Figures>,
}

struct Peer {
    info: NodeInfo,
    channel: Option<Channel>,
    reachable: bool,
}

impl Peer {
    fn reaches(&self, info: &NodeInfo) -> bool {
        self.info.peer_urls == info.peer_urls && self.channel.is_some()
    }
}

impl Peers {
    pub(crate) fn new(dialer: Arc<dyn Dialer>, max_message: usize) -> Self {
        let figures = Arc::new(Figures::new());
        Self { dialer, max_message, table: RwLock::default(), figures }
    }

    /// Notes where a member is; dials it anew when that changed.
    pub(crate) fn learn(&self, id: NodeId, info: &NodeInfo) {
        if self.table.read().get(&id).is_some_and(|p| p.reaches(info)) {
            return;
        }
        let channel = match self.dialer.dial(id, info) {
            Ok(channel) => Some(channel),
            Err(error) => {
                tracing::warn!(peer = id, name = info.name, %error, "cannot dial a member");
                None
            }
        };
        let peer = Peer { info: info.clone(), channel, reachable: true };
        self.table.write().insert(id, peer);
    }

    /// Notes whether a member answers, and says so when that changes.
    pub(crate) fn answers(&self, id: NodeId, reachable: bool) {
        if self.table.read().get(&id).is_none_or(|p| p.reachable == reachable) {
            return;
        }
        let mut table = self.table.write();
        let Some(peer) = table.get_mut(&id).filter(|p| p.reachable != reachable) else { return };
        peer.reachable = reachable;
        let name = &peer.info.name;
        if reachable {
            tracing::info!(peer = id, name, "a member answers again");
        } else {
            tracing::warn!(peer = id, name, "a member does not answer");
        }
    }

    /// A client of the member, if it is known and could be dialed.
    pub(crate) fn client(&self, id: NodeId) -> Option<RaftClient<Channel>> {
        let known = {
            let table = self.table.read();
            let peer = table.get(&id)?;
            peer.channel.clone().ok_or_else(|| peer.info.clone())
        };
        let channel = match known {
            Ok(channel) => channel,
            Err(info) => {
                self.learn(id, &info);
                self.table.read().get(&id)?.channel.clone()?
            }
        };
        Some(
            RaftClient::new(channel)
                .max_decoding_message_size(self.max_message)
                .max_encoding_message_size(self.max_message),
        )
    }
}

pub(crate) fn address(group: GroupId, from: NodeId, to: NodeId) -> pb::Address {
    pb::Address { group, from, to }
}

/// Whether the message surely had no effect at the peer: it was never sent, or refused at the door.
pub(crate) fn surely_not_received(status: &tonic::Status) -> bool {
    let refused = fault::Fault::from_status(status).is_some_and(|f| {
        [codes::WRONG_ADDRESS, codes::NOT_A_PEER, codes::MALFORMED].contains(&f.code)
    });
    refused || never_connected(status)
}

fn never_connected(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(e) = source {
        if e.is::<tonic::ConnectError>() {
            return true;
        }
        source = e.source();
    }
    false
}
