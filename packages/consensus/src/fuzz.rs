//! The decoders, for fuzzing: none may panic, hang or take more memory than its input allows.

use std::sync::Arc;

use api::raft as pb;
use bytes::Bytes;
use openraft::EntryPayload;
use prost::Message;

use crate::machine::Applied;
use crate::raft::{Entry, LeaderId, LogId, Proposal, SnapshotMeta};
use crate::spool::{Spool, meta_of};
use crate::wire;

/// Name, decoder, and inputs that it understands.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("raft log entry", entry, entries),
    ("raft positions", positions, ids),
    ("raft append", append, appends),
    ("raft members", members, memberships),
    ("raft snapshot head", head, heads),
    ("raft snapshot file", spooled, files),
];

fn own(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn id(index: u64) -> LogId {
    LogId::new(LeaderId { term: 3, node_id: 1 }, index)
}

fn entry(bytes: &[u8]) {
    if let Ok(entry) = wire::decode_entry(own(bytes)) {
        assert_eq!(wire::encode_entry(&entry), bytes);
        let again = Entry { encoded: None, ..entry };
        let encoded = wire::encode_entry(&again);
        assert!(wire::decode_entry(encoded).is_ok());
    }
}

fn sample(index: u64) -> Entry {
    let requests = Arc::new(vec![Bytes::from("one"), Bytes::from("two")]);
    let proposal = Proposal { origin: 1, boot: 2, sequence: 3, requests };
    Entry { id: id(index), payload: EntryPayload::Normal(proposal), encoded: None }
}

fn entries() -> Vec<Vec<u8>> {
    let blank = Entry { id: id(4), payload: EntryPayload::Blank, encoded: None };
    let members = pb::Entry {
        id: Some(wire::log_id(&id(5))),
        body: Some(pb::entry::Body::Membership(membership())),
    };
    vec![
        wire::encode_entry(&blank).to_vec(),
        wire::encode_entry(&sample(5)).to_vec(),
        members.encode_to_vec(),
    ]
}

fn positions(bytes: &[u8]) {
    let _ = wire::decode_log_id(own(bytes));
    let _ = wire::decode_vote(own(bytes));
    let half = bytes.len() / 2;
    for (position, members) in [(bytes, &[][..]), (&[][..], bytes), bytes.split_at(half)] {
        let applied = Applied { position: Some(own(position)), members: Some(own(members)) };
        let _ = wire::Position::decode(&applied);
    }
}

fn ids() -> Vec<Vec<u8>> {
    vec![wire::encode_log_id(&id(9)).to_vec()]
}

fn append(bytes: &[u8]) {
    if let Ok(request) = pb::AppendRequest::decode(bytes) {
        let _ = wire::from_append_request(request);
    }
    if let Ok(response) = pb::AppendResponse::decode(bytes) {
        let _ = wire::from_append_response(response);
    }
    if let Ok(batch) = pb::Batch::decode(bytes) {
        let _ = wire::from_batch(batch).bytes();
    }
}

fn appends() -> Vec<Vec<u8>> {
    let request = pb::AppendRequest {
        address: Some(pb::Address { group: 1, from: 1, to: 2 }),
        vote: Some(pb::Vote { term: 3, node: 1, committed: true }),
        previous: Some(wire::log_id(&id(4))),
        committed: Some(wire::log_id(&id(4))),
        entries: vec![wire::encode_entry(&sample(5)), wire::encode_entry(&sample(6))],
    };
    let conflict = pb::append_response::Outcome::Conflict(wire::log_id(&id(4)));
    let response = pb::AppendResponse { outcome: Some(conflict) };
    vec![request.encode_to_vec(), response.encode_to_vec()]
}

fn members(bytes: &[u8]) {
    if let Ok(members) = pb::StoredMembership::decode(bytes)
        && let Ok(members) = wire::from_stored_membership(members)
    {
        let _ = wire::encode_members(&members);
        let _ = crate::thread::members_of(members.membership());
    }
}

fn membership() -> pb::Membership {
    let info = pb::NodeInfo { name: "node01".into(), ..Default::default() };
    let node = |id| pb::Node { id, info: Some(info.clone()) };
    pb::Membership {
        configs: vec![pb::Voters { ids: vec![1, 2] }, pb::Voters { ids: vec![2, 3] }],
        nodes: vec![node(1), node(2), node(3), node(4)],
    }
}

fn memberships() -> Vec<Vec<u8>> {
    let stored =
        pb::StoredMembership { id: Some(wire::log_id(&id(2))), membership: Some(membership()) };
    vec![stored.encode_to_vec()]
}

fn head(bytes: &[u8]) {
    if let Ok(head) = pb::SnapshotHead::decode(bytes) {
        let _ = meta_of(&head);
        let from = head.address.map_or(0, |address| address.from);
        let _ = wire::from_leader(head.vote.as_ref(), from);
    }
}

fn heads() -> Vec<Vec<u8>> {
    let head = pb::SnapshotHead {
        address: Some(pb::Address { group: 1, from: 1, to: 2 }),
        vote: Some(pb::Vote { term: 3, node: 1, committed: true }),
        last: Some(wire::log_id(&id(9))),
        members: pb::StoredMembership::decode(&memberships()[0][..]).ok(),
    };
    vec![head.encode_to_vec()]
}

/// Runs `look` in a spool's folder, which goes afterwards.
fn within(look: impl FnOnce(&std::path::Path)) {
    let name = format!("plasma-spool-{}-{:?}", std::process::id(), std::thread::current().id());
    let dir = std::env::temp_dir().join(name);
    let _ = std::fs::create_dir_all(&dir);
    look(&dir);
    let _ = std::fs::remove_dir_all(&dir);
}

const INSTALL: &str = "0000000000000001.install";

fn spooled(bytes: &[u8]) {
    within(|dir| {
        let _ = std::fs::write(dir.join(INSTALL), bytes);
        let Ok(spool) = Spool::open(dir) else { return };
        if let Some(file) = spool.interrupted(1)
            && let Ok((_, mut chunks)) = file.read()
        {
            let _ = chunks.try_for_each(|chunk| chunk.map(drop));
        }
    });
}

fn files() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    within(|dir| {
        let Ok(spool) = Spool::open(dir) else { return };
        let meta = SnapshotMeta { last_log_id: Some(id(3)), last_membership: Default::default() };
        let Ok(mut writer) = spool.begin(1, &meta) else { return };
        let written = writer.chunk(b"one").and_then(|()| writer.chunk(b"two"));
        if let Ok(part) = written.and_then(|()| writer.finish())
            && spool.commit(1, part).is_ok()
        {
            bytes = std::fs::read(dir.join(INSTALL)).unwrap_or_default();
        }
    });
    vec![bytes]
}
