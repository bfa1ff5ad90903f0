//! The decoders, for fuzzing: none may panic, hang or take more memory than its input allows.

use std::sync::Arc;

use api::chainfire::Quota;
use api::chainfire_internal::quota_change::Change;
use api::chainfire_internal::{Command, QuotaChange};
use api::etcdserverpb::{PutRequest, RangeRequest, TxnRequest, WatchCreateRequest};
use bytes::Bytes;
use consensus::SnapshotSource;
use prost::Message;

use super::layout::{self, EventRecord, Version};
use super::{KeyRange, Request, Store, StoreOptions, check, encode};

/// Name, decoder, and inputs that it understands.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of the store.
pub const TARGETS: &[Target] = &[
    ("store records", record, records),
    ("store commands", command, commands),
    ("store requests", request, requests),
    ("store snapshot", snapshot, snapshots),
    ("store snapshot, sealed", sealed_snapshot, bodies),
];

fn own(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn record(bytes: &[u8]) {
    let _ = Version::decode(&own(bytes));
    let _ = EventRecord::decode(&own(bytes));
    if let Ok(part) = layout::escaped_part(bytes) {
        let _ = layout::unescape(part);
    }
    let _ = layout::version_position(bytes);
    let _ = layout::event_position(bytes);
    let _ = layout::read_number(bytes);
    let _ = layout::read_alarm(bytes);
    let (key, value) = bytes.split_at(bytes.len().min(14));
    let _ = layout::read_lease(key, value);
}

fn records() -> Vec<Vec<u8>> {
    let lease = [&layout::lease_key(7)[..], &layout::lease_value(60, 5)[..]].concat();
    vec![
        Version::encode_live(2, 3, 4, b"value").to_vec(),
        Version::encode_tombstone().to_vec(),
        EventRecord::encode(true, None, b"key").to_vec(),
        layout::version_key(b"a\0b", 7, 1).to_vec(),
        layout::event_key(9, 2).to_vec(),
        lease,
        layout::alarm_key(1, 2).to_vec(),
    ]
}

/// A store that has something.
fn store() -> Option<Store> {
    let engine = Arc::new(engine::Memory::new(&Store::SPACES));
    let small = StoreOptions { cache_bytes: 1 << 10, ring_bytes: 1 << 10 };
    let (mut store, _) = Store::open(engine, 1, small).ok()?;
    let put = |key: &'static str| {
        encode(Request::Put(PutRequest {
            key: key.into(),
            value: "value".into(),
            ..Default::default()
        }))
    };
    let begin = [encode(limited("b")), put("a"), put("b/1"), put("b/2"), put("a")];
    store.run(1, &begin, |_| {}).ok()?;
    Some(store)
}

fn limited(prefix: &'static str) -> Request {
    let prefix = prefix.into();
    let quota = Quota { prefix, keys: 5, bytes: 1000, requests_per_second: 10 };
    Request::Quota(QuotaChange { change: Some(Change::Set(quota)) })
}

/// Applies anything, twice: the second time it meets its own work.
fn command(bytes: &[u8]) {
    let Some(mut store) = store() else { return };
    for index in 2..4 {
        if store.run(index, &[own(bytes)], |_| {}).is_err() {
            return;
        }
    }
    // What was written can be read and opened again.
    let reader = store.reader();
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let answer = reader.range(&all).map(|answer| answer.kvs.len());
    assert!(answer.is_ok(), "{answer:?}");
    let hash = reader.hash();
    assert!(hash.is_ok(), "{hash:?}");
}

fn commands() -> Vec<Vec<u8>> {
    use api::chainfire_internal as log;
    use api::etcdserverpb::*;
    let txn = TxnRequest::decode(&requests()[1][..]).unwrap_or_default();
    [
        Request::Put(PutRequest {
            key: "a".into(),
            value: "new".into(),
            prev_kv: true,
            ..Default::default()
        }),
        Request::DeleteRange(DeleteRangeRequest {
            key: "b".into(),
            range_end: "c".into(),
            prev_kv: true,
        }),
        Request::Txn(txn),
        Request::Compact(CompactionRequest { revision: 3, physical: true }),
        Request::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 60 }),
        Request::LeaseRevoke(LeaseRevokeRequest { id: 7 }),
        Request::LeaseExpire(log::LeaseExpire { ids: vec![7, 8], claim: 0 }),
        Request::LessorClaim(log::LessorClaim {}),
        Request::Alarm(AlarmRequest { action: 1, member_id: 1, alarm: 1 }),
        limited("b/"),
        Request::Quota(QuotaChange { change: Some(Change::Delete("b".into())) }),
    ]
    .map(|request| encode(request).to_vec())
    .into()
}

/// What a client can send, checked at the edge and read here.
fn request(bytes: &[u8]) {
    let Some(store) = store() else { return };
    let reader = store.reader();
    if let Ok(range) = RangeRequest::decode(bytes)
        && check::range(&range).is_ok()
    {
        let _ = reader.range(&range);
    }
    if let Ok(txn) = TxnRequest::decode(bytes)
        && check::txn(&txn, 128).is_ok()
    {
        let command = encode(Request::Txn(txn.clone()));
        let _ = reader.txn(&txn);
        let mut store = store;
        let ran = store.run(2, &[command], |_| {}).map(|_| ());
        assert!(ran.is_ok(), "{ran:?}: the edge lets pass what ends the store: {txn:?}");
    }
    if let Ok(watch) = WatchCreateRequest::decode(bytes) {
        let range = KeyRange::new(&watch.key, &watch.range_end);
        let _ = reader.events(watch.start_revision, i64::MAX, &[range], 100);
    }
    let _ = Command::decode(bytes);
}

fn requests() -> Vec<Vec<u8>> {
    use api::etcdserverpb::*;
    let range = RangeRequest {
        key: "a".into(),
        range_end: "c".into(),
        limit: 2,
        revision: 3,
        sort_order: 1,
        sort_target: 2,
        ..Default::default()
    };
    let op = |request| RequestOp { request: Some(request) };
    let put = PutRequest { key: "b/3".into(), value: "three".into(), ..Default::default() };
    let inner = TxnRequest {
        success: vec![op(request_op::Request::RequestRange(range.clone()))],
        ..Default::default()
    };
    let compare = Compare {
        result: 1,
        target: 2,
        key: "a".into(),
        target_union: Some(compare::TargetUnion::ModRevision(2)),
        ..Default::default()
    };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![
            op(request_op::Request::RequestPut(put)),
            op(request_op::Request::RequestTxn(inner)),
        ],
        failure: vec![op(request_op::Request::RequestDeleteRange(DeleteRangeRequest {
            key: "b".into(),
            range_end: "c".into(),
            prev_kv: false,
        }))],
    };
    vec![range.encode_to_vec(), txn.encode_to_vec()]
}

fn snapshot(bytes: &[u8]) {
    let Some(mut store) = store() else { return };
    let mut chunks = bytes.chunks(1000).map(|chunk| Ok(own(chunk)));
    let _ = store.replace(&mut chunks, |_| {});
    // Either way it goes on: with what it had, or with what came.
    let put = PutRequest { key: "after".into(), ..Default::default() };
    let _ = store.run(9, &[encode(Request::Put(put))], |_| {});
}

fn snapshots() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(store) = store()
        && let Ok(mut pack) = store.reader().snapshot()
    {
        while let Ok(Some(chunk)) = pack.next() {
            bytes.extend_from_slice(&chunk);
        }
    }
    vec![bytes]
}

/// The same with the right checksum and length, so that the records themselves are looked at.
fn sealed_snapshot(body: &[u8]) {
    let mut bytes = snapshots()[0][..8].to_vec();
    bytes.extend(crc32c::crc32c(body).to_be_bytes());
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    snapshot(&bytes);
}

fn bodies() -> Vec<Vec<u8>> {
    snapshots().into_iter().filter_map(|bytes| Some(bytes.get(16..)?.to_vec())).collect()
}
