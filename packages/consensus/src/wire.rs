//! Our own encodings, on the wire and on disk, and back. What comes from outside is checked here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::raft as pb;
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use prost::Message;

use crate::raft::{
    Entry, LeaderId, LogId, Membership, Payload, Proposal, StoredMembership, Types, Vote,
};
use crate::types::{NodeId, NodeInfo};

/// Terms and indexes stay below this, so that counting on from them cannot overflow.
const LIMIT: u64 = 1 << 62;

/// A message that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn log_id(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn from_log_id(id: &pb::LogId) -> Result<LogId, Malformed> {
    if id.index >= LIMIT || id.term >= LIMIT {
        return Err(Malformed("log id"));
    }
    Ok(LogId::new(LeaderId { term: id.term, node_id: id.node }, id.index))
}

/// The same for one that may be absent.
pub(crate) fn from_log_id_of(id: Option<&pb::LogId>) -> Result<Option<LogId>, Malformed> {
    id.map(from_log_id).transpose()
}

pub(crate) fn vote(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn from_vote(vote: &pb::Vote) -> Result<Vote, Malformed> {
    if vote.term >= LIMIT {
        return Err(Malformed("vote"));
    }
    let leader_id = LeaderId { term: vote.term, node_id: vote.node };
    Ok(Vote { leader_id, committed: vote.committed })
}

/// The vote of a leader: it has its quorum, and nobody speaks for another.
pub(crate) fn from_leader(vote: Option<&pb::Vote>, from: NodeId) -> Result<Vote, Malformed> {
    let vote = from_vote(vote.ok_or(Malformed("leader"))?)?;
    match vote.committed && vote.leader_id.node_id == from {
        true => Ok(vote),
        false => Err(Malformed("leader")),
    }
}

pub(crate) fn info(info: &NodeInfo) -> pb::NodeInfo {
    pb::NodeInfo {
        name: info.name.clone(),
        peer_urls: info.peer_urls.clone(),
        client_urls: info.client_urls.clone(),
        nonce: info.nonce.clone(),
        auto_promote: info.auto_promote,
    }
}

pub(crate) fn from_info(info: pb::NodeInfo) -> NodeInfo {
    NodeInfo {
        name: info.name,
        peer_urls: info.peer_urls,
        client_urls: info.client_urls,
        nonce: info.nonce,
        auto_promote: info.auto_promote,
    }
}

pub(crate) fn membership(members: &Membership) -> pb::Membership {
    pb::Membership {
        configs: members
            .get_joint_config()
            .iter()
            .map(|ids| pb::Voters { ids: ids.iter().copied().collect() })
            .collect(),
        nodes: members
            .nodes()
            .map(|(id, node)| pb::Node { id: *id, info: Some(info(node)) })
            .collect(),
    }
}

pub(crate) fn from_membership(members: pb::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        members.configs.into_iter().map(|voters| voters.ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, NodeInfo> = members
        .nodes
        .into_iter()
        .map(|node| (node.id, from_info(node.info.unwrap_or_default())))
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| Malformed("membership"))
}

pub(crate) fn stored_membership(members: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        id: members.log_id().as_ref().map(log_id),
        membership: Some(membership(members.membership())),
    }
}

pub(crate) fn from_stored_membership(
    members: pb::StoredMembership,
) -> Result<StoredMembership, Malformed> {
    let id = from_log_id_of(members.id.as_ref())?;
    let membership = from_membership(members.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(id, membership))
}

pub(crate) fn batch(proposal: &Proposal) -> pb::Batch {
    pb::Batch {
        origin: proposal.origin,
        boot: proposal.boot,
        sequence: proposal.sequence,
        requests: proposal.requests.to_vec(),
    }
}

pub(crate) fn from_batch(batch: pb::Batch) -> Proposal {
    Proposal {
        origin: batch.origin,
        boot: batch.boot,
        sequence: batch.sequence,
        requests: Arc::new(batch.requests),
    }
}

/// The stored form of an entry, which is also its form on the wire.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    if let Some(encoded) = &entry.encoded {
        return encoded.clone();
    }
    let body = match &entry.payload {
        EntryPayload::Blank => pb::entry::Body::Blank(pb::Blank {}),
        EntryPayload::Normal(proposal) => pb::entry::Body::Batch(batch(proposal)),
        EntryPayload::Membership(members) => pb::entry::Body::Membership(membership(members)),
    };
    pb::Entry { id: Some(log_id(&entry.id)), body: Some(body) }.encode_to_vec().into()
}

/// Decodes an entry; the requests share the bytes they came in.
pub(crate) fn decode_entry(encoded: Bytes) -> Result<Entry, Malformed> {
    let entry = pb::Entry::decode(encoded.clone()).map_err(|_| Malformed("entry"))?;
    let id = from_log_id(&entry.id.ok_or(Malformed("entry id"))?)?;
    let payload: Payload = match entry.body.ok_or(Malformed("entry body"))? {
        pb::entry::Body::Blank(_) => EntryPayload::Blank,
        pb::entry::Body::Batch(batch) => EntryPayload::Normal(from_batch(batch)),
        pb::entry::Body::Membership(members) => EntryPayload::Membership(from_membership(members)?),
    };
    Ok(Entry { id, payload, encoded: Some(encoded) })
}

pub(crate) fn append_request(
    address: pb::Address,
    request: &AppendEntriesRequest<Types>,
) -> pb::AppendRequest {
    pb::AppendRequest {
        address: Some(address),
        vote: Some(vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id),
        committed: request.leader_commit.as_ref().map(log_id),
        entries: request.entries.iter().map(encode_entry).collect(),
    }
}

pub(crate) fn from_append_request(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let from = request.address.map_or(0, |address| address.from);
    let vote = from_leader(request.vote.as_ref(), from)?;
    let previous = from_log_id_of(request.previous.as_ref())?;
    let mut entries = Vec::with_capacity(request.entries.len());
    let first = crate::raft::count_of(previous.as_ref());
    for (expected, encoded) in (first..).zip(request.entries) {
        let entry = decode_entry(encoded)?;
        if entry.id.index != expected {
            return Err(Malformed("append: entries with a hole"));
        }
        entries.push(entry);
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: previous,
        entries,
        leader_commit: from_log_id_of(request.committed.as_ref())?,
    })
}

pub(crate) fn append_response(result: &StreamAppendResult<Types>) -> pb::AppendResponse {
    use pb::append_response::Outcome;
    let outcome = match result {
        Ok(last) => Outcome::Matched(pb::Matched { last: last.as_ref().map(log_id) }),
        Err(StreamAppendError::Conflict(id)) => Outcome::Conflict(log_id(id)),
        Err(StreamAppendError::HigherVote(higher)) => Outcome::Higher(vote(higher)),
    };
    pb::AppendResponse { outcome: Some(outcome) }
}

pub(crate) fn from_append_response(
    response: pb::AppendResponse,
) -> Result<StreamAppendResult<Types>, Malformed> {
    use pb::append_response::Outcome;
    Ok(match response.outcome.ok_or(Malformed("append response"))? {
        Outcome::Matched(matched) => Ok(from_log_id_of(matched.last.as_ref())?),
        Outcome::Conflict(id) => Err(StreamAppendError::Conflict(from_log_id(&id)?)),
        Outcome::Higher(vote) => Err(StreamAppendError::HigherVote(from_vote(&vote)?)),
    })
}

/// What a machine has applied, decoded from its marks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    pub(crate) last: Option<LogId>,
    pub(crate) members: StoredMembership,
}

impl Position {
    pub(crate) fn decode(applied: &crate::machine::Applied) -> Result<Self, Malformed> {
        let last = match &applied.position {
            Some(bytes) => Some(from_log_id(
                &pb::LogId::decode(bytes.clone()).map_err(|_| Malformed("mark: position"))?,
            )?),
            None => None,
        };
        let members = match &applied.members {
            Some(bytes) => from_stored_membership(
                pb::StoredMembership::decode(bytes.clone())
                    .map_err(|_| Malformed("mark: members"))?,
            )?,
            None => StoredMembership::default(),
        };
        Ok(Self { last, members })
    }
}

pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    log_id(id).encode_to_vec().into()
}

pub(crate) fn decode_log_id(bytes: Bytes) -> Result<LogId, Malformed> {
    from_log_id(&pb::LogId::decode(bytes).map_err(|_| Malformed("log id"))?)
}

pub(crate) fn encode_vote(value: &Vote) -> Bytes {
    vote(value).encode_to_vec().into()
}

pub(crate) fn decode_vote(bytes: Bytes) -> Result<Vote, Malformed> {
    from_vote(&pb::Vote::decode(bytes).map_err(|_| Malformed("vote"))?)
}

pub(crate) fn encode_members(members: &StoredMembership) -> Bytes {
    stored_membership(members).encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId { term: 3, node_id: 9 }, index)
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let proposal = Proposal {
            origin: 7,
            boot: u64::MAX,
            sequence: 12,
            requests: Arc::new(vec![Bytes::from_static(b"a"), Bytes::new()]),
        };
        let entry = Entry { id: id(5), payload: EntryPayload::Normal(proposal), encoded: None };
        let back = decode_entry(encode_entry(&entry)).unwrap();
        assert_eq!(back.id, entry.id);
        let EntryPayload::Normal(proposal) = &back.payload else { panic!("not a batch") };
        assert_eq!((proposal.origin, proposal.boot, proposal.sequence), (7, u64::MAX, 12));
        assert_eq!(proposal.requests[0], "a");
        assert_eq!(encode_entry(&back), encode_entry(&entry));
    }

    #[test]
    fn a_joint_membership_comes_back_as_it_was() {
        let node = |name: &str| NodeInfo {
            name: name.into(),
            nonce: Bytes::from_static(b"n"),
            auto_promote: true,
            ..NodeInfo::default()
        };
        let members = Membership::new(
            vec![[1, 2].into(), [2, 3].into()],
            BTreeMap::from([(1, node("a")), (2, node("b")), (3, node("c")), (4, node("d"))]),
        )
        .unwrap();
        let stored = StoredMembership::new(Some(id(2)), members);
        assert_eq!(from_stored_membership(stored_membership(&stored)).unwrap(), stored);
    }

    #[test]
    fn a_membership_with_an_unknown_voter_is_refused() {
        let members = pb::Membership { configs: vec![pb::Voters { ids: vec![1] }], nodes: vec![] };
        assert!(from_membership(members).is_err());
    }

    #[test]
    fn entries_with_a_hole_are_refused() {
        let entry =
            |index| encode_entry(&Entry { id: id(index), payload: Payload::Blank, encoded: None });
        let request = |entries| pb::AppendRequest {
            vote: Some(pb::Vote { committed: true, ..Default::default() }),
            previous: Some(log_id(&id(4))),
            entries,
            ..Default::default()
        };
        assert!(from_append_request(request(vec![entry(5), entry(6)])).is_ok());
        assert!(from_append_request(request(vec![entry(6)])).is_err());
        assert!(from_append_request(request(vec![entry(5), entry(7)])).is_err());
    }

    #[test]
    fn a_vote_that_is_not_the_senders_or_has_no_quorum_does_not_lead() {
        let vote = pb::Vote { term: 1, node: 2, committed: true };
        assert!(from_leader(Some(&vote), 2).is_ok());
        assert!(from_leader(Some(&vote), 3).is_err());
        assert!(from_leader(Some(&pb::Vote { committed: false, ..vote }), 2).is_err());
        assert!(from_leader(None, 0).is_err());
    }

    #[test]
    fn numbers_that_could_overflow_are_refused() {
        for large in [1 << 62, u64::MAX] {
            assert!(from_log_id(&pb::LogId { term: 1, node: 1, index: large }).is_err());
            assert!(from_log_id(&pb::LogId { term: large, node: 1, index: 1 }).is_err());
            assert!(from_vote(&pb::Vote { term: large, node: 1, committed: true }).is_err());
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_entry(bytes.clone());
            let _ = decode_vote(bytes.clone());
            let _ = decode_log_id(bytes.clone());
            if let Ok(request) = pb::AppendRequest::decode(bytes.clone()) {
                let _ = from_append_request(request);
            }
            if let Ok(members) = pb::StoredMembership::decode(bytes) {
                let _ = from_stored_membership(members);
            }
        }
    }
}
