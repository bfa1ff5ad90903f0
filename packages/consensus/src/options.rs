//! What can be set, with defaults that suit a small cloud.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic::Extensions;
use tonic::transport::Channel;

use crate::error::ConsensusError;
use crate::log::READ_BYTES;
use crate::types::{NodeId, NodeInfo};

/// What an entry takes beside its requests …
const ENTRY_OVERHEAD: usize = 256;
/// … for each of them …
const REQUEST_OVERHEAD: usize = 8;
/// … and a message beside its entries.
const MESSAGE_OVERHEAD: usize = 4096;

/// Makes the channel to a peer. The only place where consensus touches TLS is through it.
pub trait Dialer: Send + Sync + 'static {
    /// A channel to the member; it must connect lazily and again after a failure. Called again
    /// only when the member's [`NodeInfo`] changes.
    fn dial(&self, id: NodeId, info: &NodeInfo) -> Result<Channel, fault::Fault>;
}

/// Decides who may speak Raft to this process, from the extensions of the request, where `rpc`
/// puts its `Peer`. The text of the refusal goes to this node's log, not to the caller.
pub type Admit = Arc<dyn Fn(&Extensions) -> Result<(), String> + Send + Sync>;

/// What all groups of a process share.
#[derive(Clone)]
pub struct HostOptions {
    /// Where snapshots from a leader are gathered before they are installed. Made if missing;
    /// leftovers in it are removed at start.
    pub spool: PathBuf,
    /// Who may speak Raft to this process.
    pub admit: Admit,
    /// The largest message between peers.
    pub max_message: usize,
}

impl HostOptions {
    /// Everybody is admitted: fit for tests and plaintext only.
    pub fn new(spool: impl Into<PathBuf>) -> Self {
        Self { spool: spool.into(), admit: Arc::new(|_| Ok(())), max_message: 64 << 20 }
    }

    /// With this decision who may speak Raft.
    pub fn admit(
        mut self,
        admit: impl Fn(&Extensions) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.admit = Arc::new(admit);
        self
    }
}

/// How one group behaves.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// How often a leader says that it lives.
    pub heartbeat: Duration,
    /// A follower asks to be elected after a silence of between this …
    pub election_min: Duration,
    /// … and this. Also the time after which a leader without a quorum refuses proposals.
    pub election_max: Duration,
    /// The most requests in one Raft entry.
    pub batch_requests: usize,
    /// The most bytes in one Raft entry (one request may be larger).
    pub batch_bytes: usize,
    /// The most Raft entries of this node under way at once; beside the first only full ones.
    pub batches_in_flight: usize,
    /// The largest request.
    pub max_request: usize,
    /// The most bytes of requests that may wait or be under way; beyond it is `TooBusy`.
    pub max_in_flight: usize,
    /// The most linearizable reads that may wait.
    pub max_reads: usize,
    /// How long a proposal, a read or a membership change may take.
    pub request_timeout: Duration,
    /// How often the machine is made durable …
    pub persist_interval: Duration,
    /// … and after how many bytes of requests at the latest.
    pub persist_bytes: u64,
    /// Entries that stay in the log behind the persisted position, for followers that lag.
    pub keep_entries: u64,
    /// About so many bytes of entries stay at most, however few entries that are.
    pub keep_bytes: u64,
    /// A learner may be promoted when it lags by no more entries than this.
    pub promote_lag: u64,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(2000),
            batch_requests: 512,
            batch_bytes: 1 << 20,
            batches_in_flight: 4,
            max_request: 2 << 20,
            max_in_flight: 64 << 20,
            max_reads: 65_536,
            request_timeout: Duration::from_secs(5),
            persist_interval: Duration::from_secs(1),
            persist_bytes: 16 << 20,
            keep_entries: 10_000,
            keep_bytes: 64 << 20,
            promote_lag: 1_000,
        }
    }
}

impl GroupOptions {
    /// The most bytes that an entry of requests takes, encoded.
    pub(crate) fn largest_entry(&self) -> usize {
        self.max_request
            .max(self.batch_bytes)
            .saturating_add(self.batch_requests.saturating_mul(REQUEST_OVERHEAD))
            .saturating_add(ENTRY_OVERHEAD)
    }

    /// Whether what may be proposed can be stored and sent: if not, the group would end on it.
    pub(crate) fn check_room(&self, record: usize, message: usize) -> Result<(), ConsensusError> {
        let entry = self.largest_entry();
        let sent = entry.max(READ_BYTES).saturating_add(MESSAGE_OVERHEAD);
        for (what, needed, room) in
            [("a journal record", entry, record), ("a message", sent, message)]
        {
            if needed > room {
                return Err(ConsensusError::Options(format!(
                    "max_request ({}) and batch_bytes ({}) need {needed} bytes in {what}, which \
                     has {room} at most",
                    self.max_request, self.batch_bytes
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<(), ConsensusError> {
        let wrong = |what: &str| Err(ConsensusError::Options(what.into()));
        if self.heartbeat < Duration::from_millis(10) {
            return wrong("heartbeat must be at least 10 ms");
        }
        if self.election_min < self.heartbeat * 3 {
            return wrong("election_min must be at least three heartbeats");
        }
        if self.election_max <= self.election_min {
            return wrong("election_max must be above election_min");
        }
        if self.batch_requests == 0 || self.batch_bytes == 0 || self.batches_in_flight == 0 {
            return wrong("batch_requests, batch_bytes and batches_in_flight must be at least 1");
        }
        if self.max_request == 0 || self.max_in_flight < self.max_request {
            return wrong("max_in_flight must be at least max_request");
        }
        if self.request_timeout.is_zero() || self.persist_interval.is_zero() {
            return wrong("request_timeout and persist_interval must be above zero");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::raft as pb;
    use bytes::Bytes;
    use openraft::EntryPayload;
    use prost::Message;

    use super::*;
    use crate::raft::{Entry, LeaderId, LogId, Proposal};
    use crate::wire;

    #[test]
    fn the_largest_batches_fit_where_they_are_said_to_fit() {
        let options = GroupOptions::default();
        let each = options.batch_bytes / options.batch_requests;
        for requests in [
            vec![Bytes::from(vec![0; options.max_request])],
            vec![Bytes::from(vec![0; each]); options.batch_requests],
        ] {
            let id = LeaderId { term: u64::MAX, node_id: u64::MAX };
            let proposal = Proposal {
                origin: u64::MAX,
                boot: u64::MAX,
                sequence: u64::MAX,
                requests: Arc::new(requests),
            };
            let entry = Entry {
                id: LogId::new(id, u64::MAX),
                payload: EntryPayload::Normal(proposal),
                encoded: None,
            };
            let encoded = wire::encode_entry(&entry);
            assert!(encoded.len() <= options.largest_entry(), "{}", encoded.len());
            let id = Some(wire::log_id(&entry.id));
            let request = pb::AppendRequest {
                address: Some(pb::Address { group: u64::MAX, from: u64::MAX, to: u64::MAX }),
                vote: Some(pb::Vote { term: u64::MAX, node: u64::MAX, committed: true }),
                previous: id,
                committed: id,
                entries: vec![encoded],
            };
            assert!(request.encoded_len() <= options.largest_entry() + MESSAGE_OVERHEAD);
        }
    }
}
