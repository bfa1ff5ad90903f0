//! Keys and records in the engine.
//!
//! | space | key → record |
//! |---|---|
//! | `v` | escaped user key ‖ inverted revision ‖ inverted sub-revision → version of the key |
//! | `e` | revision ‖ sub-revision → what changed, and which version it replaced |
//! | `s` | small state: revision, compaction, leases, alarms, users, limits on namespaces |
//! | `meta` | format, which generation of the three is in use, consensus' marks |
//!
//! The newest version of a key comes first, so a read at a revision is one seek. The three spaces
//! exist twice: a snapshot is installed into the pair that is not in use, then the generation is
//! switched by one batch. Each record begins with its kind, which is also its format version.

use std::ops::Bound;

use bytes::{Buf, BufMut, Bytes};

use super::StoreError;

/// The space of format, generation and marks.
pub(super) const META: &str = consensus::MARK_SPACE;
pub(super) const FORMAT_KEY: &[u8] = b"store/format";
pub(super) const GENERATION_KEY: &[u8] = b"store/generation";
pub(super) const FORMAT: &[u8] = &[1];

pub(super) const REVISION_KEY: &[u8] = b"revision";
pub(super) const COMPACTED_KEY: &[u8] = b"compacted";
pub(super) const REMOVED_KEY: &[u8] = b"removed";
pub(super) const LESSOR_KEY: &[u8] = b"lessor";
const LEASE_PREFIX: &[u8] = b"lease/";
const ALARM_PREFIX: &[u8] = b"alarm/";

/// The spaces of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spaces {
    pub(super) generation: u8,
    pub(super) versions: &'static str,
    pub(super) events: &'static str,
    pub(super) small: &'static str,
}

impl Spaces {
    pub(super) fn of(generation: u8) -> Spaces {
        match generation {
            0 => Spaces { generation: 0, versions: "v0", events: "e0", small: "s0" },
            _ => Spaces { generation: 1, versions: "v1", events: "e1", small: "s1" },
        }
    }

    pub(super) fn other(self) -> Spaces {
        Spaces::of(1 - self.generation)
    }

    /// In the order in which a snapshot holds them.
    pub(super) fn all(self) -> [&'static str; 3] {
        [self.small, self.versions, self.events]
    }
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// One version of a key, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Version {
    Live { create: i64, version: i64, lease: i64, value: Bytes },
    Tombstone,
}

const LIVE_HEADER: usize = 1 + 8 + 8 + 8;

impl Version {
    pub(super) fn encode_live(create: i64, version: i64, lease: i64, value: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(LIVE_HEADER + value.len());
        out.put_u8(PUT);
        out.put_i64(create);
        out.put_i64(version);
        out.put_i64(lease);
        out.put_slice(value);
        out.into()
    }

    pub(super) fn encode_tombstone() -> Bytes {
        Bytes::from_static(&[DELETE])
    }

    pub(super) fn decode(record: &Bytes) -> Result<Version, StoreError> {
        match record.first() {
            Some(&PUT) if record.len() >= LIVE_HEADER => {
                let mut head = &record[1..];
                Ok(Version::Live {
                    create: head.get_i64(),
                    version: head.get_i64(),
                    lease: head.get_i64(),
                    value: record.slice(LIVE_HEADER..),
                })
            }
            Some(&DELETE) => Ok(Version::Tombstone),
            _ => Err(damaged("version")),
        }
    }

    /// Bytes of the value in an encoded version.
    pub(super) fn value_size(record: &Bytes) -> usize {
        record.len().saturating_sub(LIVE_HEADER)
    }

    /// The value inside an encoded live version.
    pub(super) fn value_of(record: &Bytes) -> Bytes {
        record.slice(LIVE_HEADER..)
    }
}

/// A change in the order of revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventRecord {
    pub(super) deleted: bool,
    /// The version it replaced.
    pub(super) before: Option<Replaced>,
    pub(super) key: Bytes,
}

/// A version that was replaced: revision, sub-revision, bytes of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) revision: i64,
    pub(super) sub: u32,
    pub(super) size: u32,
}

const EVENT_HEADER: usize = 1 + 8 + 4 + 4;

impl EventRecord {
    pub(super) fn encode(deleted: bool, before: Option<Replaced>, key: &[u8]) -> Bytes {
        let before = before.unwrap_or(Replaced { revision: 0, sub: 0, size: 0 });
        let mut out = Vec::with_capacity(EVENT_HEADER + key.len());
        out.put_u8(if deleted { DELETE } else { PUT });
        out.put_i64(before.revision);
        out.put_u32(before.sub);
        out.put_u32(before.size);
        out.put_slice(key);
        out.into()
    }

    pub(super) fn decode(record: &Bytes) -> Result<EventRecord, StoreError> {
        let kind = record.first().copied().unwrap_or(0);
        if record.len() < EVENT_HEADER || !(kind == PUT || kind == DELETE) {
            return Err(damaged("event"));
        }
        let mut head = &record[1..];
        let before =
            Replaced { revision: head.get_i64(), sub: head.get_u32(), size: head.get_u32() };
        Ok(EventRecord {
            deleted: kind == DELETE,
            before: (before.revision != 0).then_some(before),
            key: record.slice(EVENT_HEADER..),
        })
    }
}

/// Appends the key so that order is kept and no key is another's prefix.
fn escape(key: &[u8], out: &mut Vec<u8>) {
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 1]);
}

/// The first key in `v` that may belong to `key` or a larger one.
pub(super) fn versions_from(key: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(key.len() + 2);
    escape(key, &mut out);
    out.into()
}

/// The key in `v` of one version.
pub(super) fn version_key(key: &[u8], revision: i64, sub: u32) -> Bytes {
    let mut out = Vec::with_capacity(key.len() + 14);
    escape(key, &mut out);
    out.put_u64(!(revision as u64));
    out.put_u32(!sub);
    out.into()
}

/// The range in `v` of the versions of `key` at or below `revision`, newest first.
pub(super) fn versions_at(key: &[u8], revision: i64) -> engine::KeyRange {
    let low = version_key(key, revision, u32::MAX);
    let high = version_key(key, 0, 0);
    (Bound::Included(low), Bound::Included(high))
}

/// The escaped user key inside a key of `v`, terminator included: equal for versions of one key.
pub(super) fn escaped_part(stored: &[u8]) -> Result<&[u8], StoreError> {
    match stored.len().checked_sub(12) {
        Some(end) if end >= 2 => Ok(&stored[..end]),
        _ => Err(damaged("version key")),
    }
}

/// Revision and sub-revision inside a key of `v`.
pub(super) fn version_position(stored: &[u8]) -> Result<(i64, u32), StoreError> {
    let mut tail = &stored[escaped_part(stored)?.len()..];
    Ok((!tail.get_u64() as i64, !tail.get_u32()))
}

/// The user key of an escaped part.
pub(super) fn unescape(escaped: &[u8]) -> Bytes {
    let body = &escaped[..escaped.len().saturating_sub(2)];
    let mut out = Vec::with_capacity(body.len());
    let mut skip = false;
    for &byte in body {
        if skip {
            skip = false;
            continue;
        }
        out.push(byte);
        skip = byte == 0;
    }
    out.into_boxed_slice().into()
}

/// The key in `e`.
pub(super) fn event_key(revision: i64, sub: u32) -> Bytes {
    let mut out = Vec::with_capacity(12);
    out.put_i64(revision);
    out.put_u32(sub);
    out.into()
}

/// Revision and sub-revision of a key in `e`.
pub(super) fn event_position(stored: &[u8]) -> Result<(i64, u32), StoreError> {
    let mut rest = stored;
    if rest.len() != 12 {
        return Err(damaged("event key"));
    }
    Ok((rest.get_i64(), rest.get_u32()))
}

/// The range in `e` of whole revisions.
pub(super) fn events_between(from: i64, to: i64) -> engine::KeyRange {
    let low = event_key(from.max(0), 0);
    (Bound::Included(low), Bound::Included(event_key(to.max(0), u32::MAX)))
}

pub(super) fn number(value: i64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

pub(super) fn read_number(value: &[u8]) -> Result<i64, StoreError> {
    value.try_into().map(i64::from_be_bytes).map_err(|_| damaged("number"))
}

pub(super) fn lease_key(id: i64) -> Bytes {
    [LEASE_PREFIX, &id.to_be_bytes()].concat().into()
}

pub(super) fn is_lease(key: &[u8]) -> bool {
    key.starts_with(LEASE_PREFIX)
}

pub(super) fn is_alarm(key: &[u8]) -> bool {
    key.starts_with(ALARM_PREFIX)
}

pub(super) fn leases() -> engine::KeyRange {
    engine::prefix(LEASE_PREFIX)
}

/// Id, granted and remaining seconds of a lease's pair in `s`.
pub(super) fn read_lease(key: &[u8], value: &[u8]) -> Result<(i64, i64, i64), StoreError> {
    if value.len() != 17 || value[0] != 1 || key.len() != LEASE_PREFIX.len() + 8 {
        return Err(damaged("lease"));
    }
    let id = read_number(&key[LEASE_PREFIX.len()..])?;
    Ok((id, read_number(&value[1..9])?, read_number(&value[9..])?))
}

pub(super) fn lease_value(ttl: i64, remaining: i64) -> Bytes {
    [&[1][..], &ttl.to_be_bytes(), &remaining.to_be_bytes()].concat().into()
}

pub(super) fn alarm_key(kind: i32, member: u64) -> Bytes {
    [ALARM_PREFIX, &kind.to_be_bytes(), &member.to_be_bytes()].concat().into()
}

pub(super) fn alarms() -> engine::KeyRange {
    engine::prefix(ALARM_PREFIX)
}

pub(super) fn read_alarm(key: &[u8]) -> Result<(i32, u64), StoreError> {
    let mut rest = key.get(ALARM_PREFIX.len()..).unwrap_or_default();
    if rest.len() != 12 {
        return Err(damaged("alarm"));
    }
    Ok((rest.get_i32(), rest.get_u64()))
}

pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Engine(format!("damaged {what} record"))
}

/// What a version takes in the engine, about; `value` is 0 for a tombstone too.
pub(super) fn version_size(key: usize, value: usize) -> i64 {
    (key + 14 + LIVE_HEADER + value) as i64
}

/// What an event takes in the engine.
pub(super) fn event_size(key: usize) -> i64 {
    (12 + EVENT_HEADER + key) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_keys_keep_the_order_of_keys_then_newest_first() {
        let keys: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"\0\x01", b"a", b"a\0", b"b"];
        let mut stored = Vec::new();
        for key in keys {
            for revision in [9, 3, 1] {
                for sub in [2, 0] {
                    stored.push(version_key(key, revision, sub));
                }
            }
        }
        assert!(stored.is_sorted());
        let key: &[u8] = b"a\0\xff\0";
        assert_eq!(unescape(escaped_part(&version_key(key, 7, 1)).unwrap()), key);
        assert_eq!(version_position(&version_key(b"a", 7, 1)).unwrap(), (7, 1));
    }

    #[test]
    fn records_survive_the_way_there_and_back() {
        let record = Version::encode_live(2, 3, 4, b"value");
        assert_eq!(Version::value_of(&record), "value");
        let read = Version::decode(&record).unwrap();
        let value = Bytes::from("value");
        assert_eq!(read, Version::Live { create: 2, version: 3, lease: 4, value });
        let before = Some(Replaced { revision: 5, sub: 6, size: 7 });
        let record = EventRecord::encode(true, before, b"key");
        let read = EventRecord::decode(&record).unwrap();
        assert_eq!(read, EventRecord { deleted: true, before, key: "key".into() });
        assert!(Version::decode(&Bytes::from_static(&[9])).is_err());
        assert!(EventRecord::decode(&Bytes::from_static(&[1, 2])).is_err());
        assert!(escaped_part(b"short").is_err() && event_position(b"short").is_err());
    }
}
