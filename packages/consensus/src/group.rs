//! The handle to one group on this node.

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{MembershipError, ProposeError, ReadError};
use crate::machine::Machine;
use crate::types::{NodeId, NodeInfo, Status};

/// The handle to one group on this node. Cloning it is cheap.
pub struct Group<M: Machine> {
    status: watch::Receiver<Status>,
    machine: std::marker::PhantomData<fn() -> M>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self { status: self.status.clone(), machine: self.machine }
    }
}

impl<M: Machine> Group<M> {
    /// Proposes a request on any member. The answer comes from this node's own machine, so a read
    /// here afterwards sees the effect.
    pub async fn propose(&self, request: Bytes) -> Result<M::Response, ProposeError> {
        let _ = request;
        Err(ProposeError::Stopped)
    }

    /// A linearizable barrier: when it returns, this node's machine has applied everything that
    /// was acknowledged anywhere before the call. Answers the index it waited for.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        Err(ReadError::Stopped)
    }

    /// The picture of now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Follows the status.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Makes this node the only voter of a new group. The same again is success.
    pub async fn form(&self, me: NodeInfo) -> Result<(), MembershipError> {
        let _ = me;
        Err(MembershipError::Stopped)
    }

    /// Adds a member without a vote.
    pub async fn add_learner(&self, id: NodeId, info: NodeInfo) -> Result<(), MembershipError> {
        let _ = (id, info);
        Err(MembershipError::Stopped)
    }

    /// Gives a learner that has caught up a vote.
    pub async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        let _ = id;
        Err(MembershipError::Stopped)
    }

    /// Removes a member, a voter or a learner, the leader too.
    pub async fn remove(&self, id: NodeId) -> Result<(), MembershipError> {
        let _ = id;
        Err(MembershipError::Stopped)
    }

    /// Replaces what is known about a member.
    pub async fn update(&self, id: NodeId, info: NodeInfo) -> Result<(), MembershipError> {
        let _ = (id, info);
        Err(MembershipError::Stopped)
    }

    /// Hands the leadership to a voter and waits until it leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MembershipError> {
        let _ = to;
        Err(MembershipError::Stopped)
    }

    /// Stops the group on this node. Every waiter is answered.
    pub async fn shutdown(&self) {}
}
