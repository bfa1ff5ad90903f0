//! The words that consensus shares with its users. No type of the Raft library is among them.

use bytes::Bytes;
use tokio::time::Instant;

/// A member's id. It is chosen once and never used again, not even after the member was removed.
pub type NodeId = u64;

/// A Raft group: one replicated log and one state machine. A process may hold many.
pub type GroupId = u64;

/// What the cluster knows about a member besides its id. Replicated with the membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The name an operator knows the member by.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Distinguishes this life of the data folder from an earlier one of the same name.
    pub nonce: Bytes,
    /// A learner that is to become a voter as soon as it has caught up.
    pub auto_promote: bool,
}

/// One member of a group as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// What the cluster knows about it.
    pub info: NodeInfo,
    /// Whether it votes; else it is a learner.
    pub voter: bool,
    /// The last log index it is known to hold. Only the leader knows.
    pub matched: Option<u64>,
    /// When the leader last had an answer from it. Only the leader knows.
    pub last_ack: Option<Instant>,
}

/// What a node is in its group at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It orders the proposals.
    Leader,
    /// It votes and follows.
    Follower,
    /// It asks to be elected.
    Candidate,
    /// It follows and has no vote (yet, or any more).
    Learner,
    /// The group has stopped here: shut down, or failed (see [`Status::failure`]).
    Stopped,
}

/// A picture of the group from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The group.
    pub group: GroupId,
    /// This node.
    pub me: NodeId,
    /// The current term.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<NodeId>,
    /// What this node is.
    pub role: Role,
    /// The last index in this node's log.
    pub last_index: u64,
    /// The last index known to be held by a quorum.
    pub committed: u64,
    /// The last index the machine has applied.
    pub applied: u64,
    /// The last index that the machine has made durable.
    pub persisted: u64,
    /// Indexes at or below this one are no longer in the log.
    pub purged: u64,
    /// All members, voters and learners, in order of id.
    pub members: Vec<Member>,
    /// This node was a member and is one no longer. Its data can go; its id never returns.
    pub removed: bool,
    /// Why the group failed on this node, if it has: `CO-… …`. It serves nothing any more.
    pub failure: Option<String>,
}

impl Status {
    /// Whether the group has members, that is, whether it was formed or joined.
    pub fn formed(&self) -> bool {
        !self.members.is_empty()
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.role == Role::Leader
    }

    /// The member with this id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == id)
    }

    /// What is known about the leader.
    pub fn leader_info(&self) -> Option<&NodeInfo> {
        self.leader.and_then(|id| self.member(id)).map(|m| &m.info)
    }
}

/// What a process has counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Proposals that wait now.
    pub pending: u64,
    /// Proposals that were refused or whose fate is not known.
    pub failed: u64,
    /// How often another leader was seen than before.
    pub leader_changes: u64,
}
