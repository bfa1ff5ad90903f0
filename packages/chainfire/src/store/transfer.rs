//! Records on their way out of a store, into a file, and into another store.
//!
//! A store in transit is three spaces in order: the small state, the versions, the events, each in
//! the order of its keys. What a record means is known here and in [`super::layout`] only.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::Fatal;

use super::layout::{self, EventRecord, Replaced, Version};
use super::snapshot::Unpack;
use super::{StoreError, auth, quota};

/// Which of the three spaces a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Space {
    Small = 0,
    Versions = 1,
    Events = 2,
}

impl Space {
    pub(crate) const ALL: [Space; 3] = [Space::Small, Space::Versions, Space::Events];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Space::Small => "state",
            Space::Versions => "versions",
            Space::Events => "events",
        }
    }
}

/// One pair of one space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) space: Space,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
}

/// The records of a store's snapshot stream; an error is the last item.
pub(crate) struct Records<'a> {
    unpack: Unpack<'a>,
    at: usize,
    padded: bool,
    done: bool,
}

impl<'a> Records<'a> {
    /// `padded`: zeros may follow, as etcd's clients save them.
    pub(crate) fn new(
        chunks: &'a mut dyn Iterator<Item = Result<Bytes, Fatal>>,
        padded: bool,
    ) -> Records<'a> {
        Records { unpack: Unpack::new(chunks), at: 0, padded, done: false }
    }

    fn record(&mut self) -> Result<Option<Record>, Fatal> {
        while let Some(&space) = Space::ALL.get(self.at) {
            if let Some((key, value)) = self.unpack.pair(space as u8)? {
                return Ok(Some(Record { space, key, value }));
            }
            self.at += 1;
        }
        self.unpack.end(self.padded)?;
        Ok(None)
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.record().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// What a stream of records holds, counted and checked while it passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) revision: i64,
    /// -1 before the first compaction.
    pub(crate) compacted: i64,
    pub(crate) keys: u64,
    pub(crate) versions: u64,
    pub(crate) events: u64,
    pub(crate) leases: u64,
    pub(crate) alarms: u64,
    /// Bytes of keys and values of the live keys.
    pub(crate) live_bytes: u64,
    last: Option<(Space, Bytes)>,
}

impl Default for Census {
    fn default() -> Census {
        Census {
            revision: 1,
            compacted: -1,
            keys: 0,
            versions: 0,
            events: 0,
            leases: 0,
            alarms: 0,
            live_bytes: 0,
            last: None,
        }
    }
}

impl Census {
    /// Counts one; refuses one that is out of order, of an unknown kind or of a later revision
    /// than the whole.
    pub(crate) fn see(&mut self, record: &Record) -> Result<(), StoreError> {
        let before = self.last.as_ref().filter(|(space, _)| *space == record.space);
        let ordered = match (&self.last, before) {
            (_, Some((_, key))) => *key < record.key,
            (Some((space, _)), None) => *space < record.space,
            (None, None) => true,
        };
        if !ordered {
            return Err(layout::damaged("misplaced"));
        }
        match record.space {
            Space::Small => self.see_small(record)?,
            Space::Versions => {
                let part = layout::escaped_part(&record.key)?;
                let newest = before.is_none_or(|(_, key)| {
                    layout::escaped_part(key).is_ok_and(|other| other != part)
                });
                self.see_revision(layout::version_position(&record.key)?.0)?;
                self.versions += 1;
                if let (Version::Live { value, .. }, true) =
                    (Version::decode(&record.value)?, newest)
                {
                    self.keys += 1;
                    self.live_bytes += (layout::unescape(part).len() + value.len()) as u64;
                }
            }
            Space::Events => {
                self.see_revision(layout::event_position(&record.key)?.0)?;
                EventRecord::decode(&record.value)?;
                self.events += 1;
            }
        }
        self.last = Some((record.space, record.key.clone()));
        Ok(())
    }

    fn see_small(&mut self, record: &Record) -> Result<(), StoreError> {
        let key = record.key.as_ref();
        if key == layout::REVISION_KEY {
            self.revision = layout::read_number(&record.value)?;
        } else if key == layout::COMPACTED_KEY {
            self.compacted = layout::read_number(&record.value)?;
        } else if layout::is_lease(key) {
            layout::read_lease(key, &record.value)?;
            self.leases += 1;
        } else if layout::is_alarm(key) {
            layout::read_alarm(key)?;
            self.alarms += 1;
        } else if quota::is_quota(key) {
            quota::read(key, &record.value)?;
        }
        if self.compacted > self.revision && key == layout::REVISION_KEY {
            return Err(layout::damaged("compaction"));
        }
        Ok(())
    }

    fn see_revision(&self, revision: i64) -> Result<(), StoreError> {
        match (1..=self.revision).contains(&revision) {
            true => Ok(()),
            false => Err(layout::damaged("later")),
        }
    }
}

/// How the small state differs in the store that is made of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Added to the revision.
    pub(crate) bump: i64,
    /// Everything up to the revision is compacted.
    pub(crate) compact: bool,
}

/// The small state for a new cluster: nobody holds the lessor's part, alarms, which name members
/// that are not there any more, are off, and tokens of the old cluster are none of the new one's. Users and limits on namespaces go
/// along.
pub(crate) fn turn(small: &mut BTreeMap<Bytes, Bytes>, turn: Turn) -> Result<i64, StoreError> {
    small.retain(|key, _| key != layout::LESSOR_KEY && !layout::is_alarm(key));
    auth::rekey(small, rand::random())?;
    let revision = match small.get(layout::REVISION_KEY) {
        Some(value) => layout::read_number(value)?,
        None => 1,
    };
    let revision = revision.checked_add(turn.bump).ok_or_else(|| layout::damaged("revision"))?;
    small.insert(Bytes::from_static(layout::REVISION_KEY), layout::number(revision));
    if turn.compact {
        small.insert(Bytes::from_static(layout::COMPACTED_KEY), layout::number(revision));
    }
    Ok(revision)
}

/// A live version that comes from elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) create: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
    pub(crate) value: Bytes,
}

/// The small state of a store that is made from elsewhere: everything at or below `compacted` has
/// been removed but for what readers of that revision need.
pub(crate) fn small(
    revision: i64,
    compacted: i64,
    leases: impl IntoIterator<Item = (i64, i64, i64)>,
) -> BTreeMap<Bytes, Bytes> {
    let mut out = BTreeMap::new();
    let mut put = |key: &'static [u8], value| {
        out.insert(Bytes::from_static(key), layout::number(value));
    };
    put(layout::REVISION_KEY, revision);
    if compacted >= 0 {
        put(layout::COMPACTED_KEY, compacted);
        put(layout::REMOVED_KEY, compacted);
    }
    for (id, ttl, remaining) in leases {
        out.insert(layout::lease_key(id), layout::lease_value(ttl, remaining));
    }
    out
}

/// A version; none is a deletion.
pub(crate) fn version(key: &[u8], revision: i64, sub: u32, live: Option<&Live>) -> Record {
    let value = match live {
        Some(live) => Version::encode_live(live.create, live.version, live.lease, &live.value),
        None => Version::encode_tombstone(),
    };
    Record { space: Space::Versions, key: layout::version_key(key, revision, sub), value }
}

/// An event, and which version it replaced: its revision, sub-revision and bytes of its value.
pub(crate) fn event(
    key: &[u8],
    (revision, sub): (i64, u32),
    deleted: bool,
    before: Option<(i64, u32, u32)>,
) -> Record {
    let before = before.map(|(revision, sub, size)| Replaced { revision, sub, size });
    Record {
        space: Space::Events,
        key: layout::event_key(revision, sub),
        value: EventRecord::encode(deleted, before, key),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::chainfire_internal::AuthEnable;
    use api::chainfire_internal::auth_change::Change;
    use api::etcdserverpb::{AuthUserAddRequest, AuthUserGrantRoleRequest};

    use super::*;
    use crate::store::{Auth, Store};

    #[test]
    fn a_new_cluster_signs_its_tokens_with_a_key_of_its_own() {
        let (name, hashed_password) = ("root".to_owned(), "aGFzaA==".into());
        let old = Auth::default().after([
            Change::UserAdd(AuthUserAddRequest { name, hashed_password, ..Default::default() }),
            Change::UserGrantRole(AuthUserGrantRoleRequest {
                user: "root".into(),
                role: "root".into(),
            }),
            Change::Enable(AuthEnable { token_key: "key".into() }),
        ]);
        let made = |auth: &Auth| {
            let records = auth::whole(auth).into_iter();
            let mut small = records.filter_map(|(key, value)| Some((key, value?))).collect();
            turn(&mut small, Turn::default()).unwrap();
            let engine: engine::Engine = Arc::new(engine::Memory::new(&Store::SPACES));
            let spaces = layout::Spaces::of(0);
            let mut batch = engine::Batch::new();
            small.into_iter().for_each(|(key, value)| batch.put(spaces.small, key, value));
            engine.write(batch).unwrap();
            auth::load(&engine, spaces).unwrap()
        };
        let (one, other) = (made(&old), made(&old));
        assert!(one.enabled() && one.revision() == old.revision());
        assert!(one.user("root").is_some());
        assert_eq!(one.token_key().len(), auth::TOKEN_KEY);
        assert_ne!(one.token_key(), old.token_key());
        assert_ne!(one.token_key(), other.token_key(), "nobody can compute it");
        // without a key nothing is signed, and none is needed
        assert!(made(&Auth::default()).token_key().is_empty());
    }
}
