//! The Raft library's types, filled in. Nothing outside this crate sees them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::raft::responder::Responder;
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::oneshot;

use crate::types::{NodeId, NodeInfo};

/// The library's parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Proposal;
    type R = ();
    type NodeId = u64;
    type Node = NodeInfo;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Fate<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::batch::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Membership = openraft::Membership<u64, NodeInfo>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, NodeInfo>;
pub(crate) type SnapshotMeta = openraft::storage::SnapshotMeta<LeaderId, u64, NodeInfo>;
pub(crate) type Snapshot = openraft::storage::Snapshot<LeaderId, u64, NodeInfo, crate::spool::Body>;
pub(crate) type Payload = EntryPayload<Proposal, u64, NodeInfo>;
pub(crate) type Raft<M> = openraft::Raft<Types, crate::apply::Apply<M>>;

/// Outside of the library an index counts entries: the first has 1, and 0 means none.
pub(crate) fn count(id: &LogId) -> u64 {
    id.index + 1
}

/// The same for an id that may be absent.
pub(crate) fn count_of(id: Option<&LogId>) -> u64 {
    id.map_or(0, count)
}

/// Requests that were proposed together. `(origin, boot, sequence)` is unique for ever, since the
/// boot is drawn at random when a group starts.
#[derive(Clone)]
pub(crate) struct Proposal {
    pub(crate) origin: NodeId,
    pub(crate) boot: u64,
    pub(crate) sequence: u64,
    pub(crate) requests: Arc<Vec<Bytes>>,
}

impl Proposal {
    pub(crate) fn bytes(&self) -> usize {
        self.requests.iter().map(Bytes::len).sum()
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {} of {:#x}: {} requests", self.sequence, self.origin, self.requests.len())
    }
}

/// A log entry. It keeps its encoded form, so that it is encoded once in its life.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) id: LogId,
    pub(crate) payload: Payload,
    pub(crate) encoded: Option<Bytes>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.payload)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = LeaderId;
    type Payload = Payload;

    fn new(id: LogId, payload: Payload) -> Self {
        Self { id, payload, encoded: None }
    }

    fn log_id_parts(&self) -> (&LeaderId, u64) {
        (&self.id.leader_id, self.id.index)
    }

    fn set_log_id(&mut self, id: LogId) {
        self.id = id;
        self.encoded = None;
    }

    fn get_membership(&self) -> Option<Membership> {
        self.payload.get_membership()
    }
}

/// Where the library says what became of a proposal. When it is dropped unused, the other end
/// learns that too.
pub(crate) struct Fate<T>(oneshot::Sender<T>);

impl<T> Fate<T> {
    pub(crate) fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Fate<T> {
    fn on_complete(self, result: T) {
        let _ = self.0.send(result);
    }
}
