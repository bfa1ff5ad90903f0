//! What all services of one member share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::chainfire_internal::command::Request as Command;
use api::etcdserverpb::LeaseKeepAliveResponse;
use bytes::Bytes;
use consensus::{Group, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::auth::Passwords;
use super::header::Headers;
use super::lessor::Lessor;
use super::metrics::Metrics;
use super::peers::Peers;
use super::quota::Rates;
use super::refusal;
use super::together::Together;
use crate::settings::Limits;
use crate::store::{Reader, Reply, Store, encode};

/// Set on calls that a member passes on to the leader: they are not passed on again.
pub(crate) const FORWARDED: &str = "plasma-forwarded";
/// Set by clients that would rather fail than wait for a leader.
const HAS_LEADER: &str = "hasleader";

/// One member, as its services see it.
pub(crate) struct Node {
    pub(crate) group: Group<Store>,
    pub(crate) reader: Reader,
    pub(crate) headers: Headers,
    pub(crate) limits: Limits,
    pub(crate) quota_bytes: u64,
    pub(crate) cluster_id: uuid::Uuid,
    pub(crate) lessor: Arc<Lessor>,
    /// Renewals on their way to the leader.
    pub(crate) renewals: Arc<Together<LeaseKeepAliveResponse>>,
    pub(crate) peers: Arc<Peers>,
    /// Whether there is a leader; turns false only after a grace time.
    pub(crate) quorum: watch::Receiver<bool>,
    /// The store is over its quota.
    pub(crate) full: AtomicBool,
    pub(crate) metrics: Metrics,
    pub(crate) passwords: Passwords,
    pub(crate) rates: Rates,
    /// How long a token is good, in seconds.
    pub(crate) token_seconds: u64,
    /// The process stops: endless streams end.
    pub(crate) stop: CancellationToken,
}

/// Where a call that only the leader can answer must go.
pub(crate) enum Leader {
    /// It is this member.
    Here,
    /// It is there.
    There(Channel),
}

impl Node {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.limits.request_seconds)
    }

    /// Fails a call at once when its client asked for that and nobody leads.
    pub(crate) fn demand_leader(&self, metadata: &MetadataMap) -> Result<(), Status> {
        if wants_leader(metadata) && !*self.quorum.borrow() {
            return Err(Status::from(&refusal::NO_LEADER));
        }
        Ok(())
    }

    /// Refuses what would make a full store grow.
    pub(crate) fn demand_room(&self) -> Result<(), Status> {
        if self.full.load(Ordering::Relaxed) {
            return Err(Status::from(&refusal::NO_SPACE));
        }
        Ok(())
    }

    /// Puts a command through the log.
    pub(crate) async fn propose(&self, command: Command) -> Result<Reply, Status> {
        self.propose_bytes(encode(command)).await
    }

    pub(crate) async fn propose_bytes(&self, command: Bytes) -> Result<Reply, Status> {
        if command.len() > self.limits.request_bytes {
            return Err(Status::from(&refusal::TOO_LARGE));
        }
        self.group.propose(command).await.map_err(refusal::propose)?.map_err(refusal::store)
    }

    /// Everything acknowledged before this call is visible in the reader afterwards.
    pub(crate) async fn barrier(&self) -> Result<(), Status> {
        self.group.read_index().await.map(drop).map_err(refusal::read)
    }

    /// Who leads. Waits for a leader, but not longer than a request may.
    pub(crate) async fn leader(&self, metadata: &MetadataMap) -> Result<Leader, Status> {
        let mut status = self.group.watch_status();
        let wait = status.wait_for(|status| status.leader.is_some());
        let (leader, info) = match tokio::time::timeout(self.timeout(), wait).await {
            Ok(Ok(status)) => (status.leader, status.leader_info().cloned()),
            Ok(Err(_)) => return Err(Status::from(&refusal::STOPPED)),
            Err(_) => return Err(Status::from(&refusal::NO_LEADER)),
        };
        if leader == Some(self.headers.member_id) {
            return Ok(Leader::Here);
        }
        if metadata.contains_key(FORWARDED) {
            return Err(Status::from(&refusal::NOT_LEADER));
        }
        let (Some(id), Some(info)) = (leader, info) else {
            return Err(Status::from(&refusal::NO_LEADER));
        };
        self.peers.channel(id, &info).map(Leader::There).map_err(Status::from)
    }

    /// Whether this member leads at the moment, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.group.watch_status().borrow().leads()
    }

    pub(crate) fn me(&self) -> NodeId {
        self.headers.member_id
    }
}

/// Whether the client asked for failure without a leader.
pub(crate) fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata.get(HAS_LEADER).is_some_and(|value| value.as_bytes() == b"true")
}

/// A request to be passed on to the leader, with the time that a request may take.
pub(crate) fn forwarded<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    let mark = tonic::metadata::MetadataValue::from_static("1");
    request.metadata_mut().insert(FORWARDED, mark);
    request
}

/// The store answered a command with the answer to another one: a mistake of ours.
pub(crate) fn mismatch() -> Status {
    Status::from(&refusal::MISMATCH)
}
