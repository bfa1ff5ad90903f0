//! Commands as they stand in the log, and the answers to them.
//!
//! The messages of etcd's API are embedded as they are, so the bytes of a request are the bytes
//! in the log. Whatever must be chosen (a lease's id, its least time to live) is chosen by the
//! proposer before the log; applying chooses nothing.

use api::chainfire_internal::{
    Command, LeaseExpire, LeaseRemaining, LessorClaim, Principal, command::Request,
};
use api::etcdserverpb::{
    AlarmResponse, CompactionResponse, DeleteRangeResponse, LeaseCheckpoint, LeaseGrantResponse,
    LeaseRevokeResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse,
};
use bytes::Bytes;
use prost::Message;

use super::StoreError;

/// What a command was answered with. Headers carry the revision only; cluster, member and term
/// are the server's to fill in.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Answer to a put.
    Put(PutResponse),
    /// Answer to a range in the log.
    Range(RangeResponse),
    /// Answer to a delete.
    DeleteRange(DeleteRangeResponse),
    /// Answer to a transaction.
    Txn(TxnResponse),
    /// Answer to a compaction: it is decided; see [`super::Reader::removed`] for the space.
    Compact(CompactionResponse),
    /// Answer to a grant.
    LeaseGrant(LeaseGrantResponse),
    /// Answer to a revocation.
    LeaseRevoke(LeaseRevokeResponse),
    /// What is left of leases is noted.
    LeaseRemaining,
    /// Answer to an expiry: the leases that were there and are gone now.
    LeaseExpire(Vec<i64>),
    /// The claim is taken, and this is its number; what others propose is refused from here on.
    LessorClaim(u64),
    /// Answer to a change of alarms.
    Alarm(AlarmResponse),
    /// Users and roles are changed.
    Auth,
    /// Limits on namespaces are changed.
    Quota,
}

/// The answer to one command.
pub type Outcome = Result<Reply, StoreError>;

/// The bytes to propose, for a member itself or while nobody is asked who they are.
pub fn encode(request: Request) -> Bytes {
    encode_as(None, request)
}

/// The bytes to propose for somebody.
pub fn encode_as(principal: Option<Principal>, request: Request) -> Bytes {
    Command { principal, request: Some(request) }.encode_to_vec().into()
}

/// The bytes that expire `ids`, valid while `claim` is the last claim of the lessor's part.
pub fn encode_expire(ids: Vec<i64>, claim: u64) -> Bytes {
    encode(Request::LeaseExpire(LeaseExpire { ids, claim }))
}

/// The bytes that note what is left of leases, valid while `claim` is the last claim.
pub fn encode_remaining(checkpoints: Vec<LeaseCheckpoint>, claim: u64) -> Bytes {
    encode(Request::LeaseRemaining(LeaseRemaining { checkpoints, claim }))
}

/// The bytes by which a new leader takes over the leases. It must be applied before the leader
/// serves keep-alives: from then on nothing that an earlier leader proposed can take effect.
pub fn encode_claim() -> Bytes {
    encode(Request::LessorClaim(LessorClaim {}))
}

pub(super) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}
