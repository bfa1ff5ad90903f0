//! The handle to one group on this node.

use std::sync::Arc;

use api::raft as pb;
use api::raft::change_request::Change;
use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{MembershipError, ProposeError, ReadError};
use crate::host::Host;
use crate::machine::Machine;
use crate::shared::Shared;
use crate::types::{Counts, NodeId, NodeInfo, Status};
use crate::wire;

/// The handle to one group on this node. Cloning it is cheap; dropping it stops nothing.
pub struct Group<M: Machine> {
    shared: Arc<Shared<M>>,
    host: Host,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), host: self.host.clone() }
    }
}

impl<M: Machine> Group<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>, host: Host) -> Self {
        Self { shared, host }
    }

    /// Proposes a request on any member. The answer comes from this node's own machine, so a read
    /// here afterwards sees the effect. When this future is dropped the request may still be
    /// proposed.
    pub async fn propose(&self, request: Bytes) -> Result<M::Response, ProposeError> {
        let figures = &self.shared.peers.figures;
        let _waits = figures.waits();
        let answer = self.shared.propose(request).await;
        if let Err(error) = &answer {
            figures.refused(error);
        }
        answer
    }

    /// A linearizable barrier: when it returns, this node's machine has applied everything that
    /// was acknowledged anywhere before the call. Answers the index it waited for.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        self.shared.read_index().await
    }

    /// What was counted of all groups of this process.
    pub fn counts(&self) -> Counts {
        self.shared.peers.figures.counts()
    }

    /// The picture of now.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Follows the status. Who leads and who is a member is told at once, progress a little later;
    /// who answered when is some tenths of a second old ([`Group::status`] has it as it is).
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// The last index this node's machine has applied: cheaper than the whole status.
    pub fn applied(&self) -> u64 {
        self.shared.progress.applied()
    }

    /// Makes this node the only voter of a new group, and waits until it leads. The same again on
    /// a member is success.
    pub async fn form(&self, me: NodeInfo) -> Result<(), MembershipError> {
        self.shared.form(me).await
    }

    /// Adds a member without a vote. The same again is success.
    pub async fn add_learner(&self, id: NodeId, info: NodeInfo) -> Result<(), MembershipError> {
        let node = pb::Node { id, info: Some(wire::info(&info)) };
        self.shared.change(Change::AddLearner(node)).await
    }

    /// Gives a learner that has caught up a vote.
    pub async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        self.shared.change(Change::Promote(id)).await
    }

    /// Removes a member, a voter or a learner, the leader too.
    pub async fn remove(&self, id: NodeId) -> Result<(), MembershipError> {
        self.shared.change(Change::Remove(id)).await
    }

    /// Replaces what is known about a member.
    pub async fn update(&self, id: NodeId, info: NodeInfo) -> Result<(), MembershipError> {
        let node = pb::Node { id, info: Some(wire::info(&info)) };
        self.shared.change(Change::Update(node)).await
    }

    /// Hands the leadership to a voter and waits until it leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MembershipError> {
        self.shared.change(Change::Transfer(to)).await
    }

    /// Stops the group on this node. Every waiter is answered.
    pub async fn shutdown(&self) {
        self.host.stop(&self.shared).await;
    }
}
