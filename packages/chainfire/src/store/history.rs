//! Events of past revisions.

use std::sync::Arc;

use api::mvccpb::{Event, KeyValue};
use engine::{Order, Snapshot};

use super::events::{event, grave};
use super::layout::{self, EventRecord, Spaces, Version};
use super::state::{Shared, State};
use super::{KeyRange, StoreError, past};

/// How many events one call looks at, matching or not.
const LOOKED_AT: usize = 10_000;

/// A stretch of history.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// Matching events in order.
    pub events: Vec<Event>,
    /// The first revision that was not looked at: go on from here. All matching events before it
    /// are in `events`.
    pub next: i64,
}

/// Events of `from..=to` (`to` at most the present revision) whose key lies in one of `ranges`. The
/// answer ends at the end of a revision: after `limit` bytes, or earlier to bound the work.
pub(super) fn events(
    shared: &Arc<Shared>,
    from: i64,
    to: i64,
    ranges: &[KeyRange],
    limit: usize,
) -> Result<History, StoreError> {
    let from = from.max(1);
    let check = |state: &State| {
        if from < state.compacted { Err(StoreError::Compacted) } else { Ok(state.revision) }
    };
    let revision = check(&shared.state.read())?;
    let to = to.min(revision);
    if from > to {
        return Ok(History { events: Vec::new(), next: from });
    }
    let wanted = |key: &[u8]| ranges.iter().any(|range| range.contains(key));
    if let Some(recent) = shared.ring.since(from - 1) {
        let recent = recent.iter().flat_map(|changes| changes.events.iter());
        return Ok(collect(recent, from, to, &wanted, limit));
    }
    let (snapshot, spaces) = shared.pin(|state| check(state).map(|_| state.spaces))?;
    replay(snapshot.as_ref(), spaces, from, to, &wanted, limit)
}

fn collect<'e>(
    events: impl Iterator<Item = &'e Event>,
    from: i64,
    to: i64,
    wanted: &dyn Fn(&[u8]) -> bool,
    limit: usize,
) -> History {
    let mut page = Page::new(from, limit);
    for event in events {
        let Some(kv) = &event.kv else { continue };
        if kv.mod_revision < from {
            continue;
        }
        if kv.mod_revision > to || page.is_full_before(kv.mod_revision) {
            break;
        }
        if wanted(&kv.key) {
            page.push(event.clone());
        }
    }
    page.end(to)
}

fn replay(
    snapshot: &dyn Snapshot,
    spaces: Spaces,
    from: i64,
    to: i64,
    wanted: &dyn Fn(&[u8]) -> bool,
    limit: usize,
) -> Result<History, StoreError> {
    let mut page = Page::new(from, limit);
    let range = layout::events_between(from, to);
    for pair in snapshot.iter(spaces.events, range, Order::Ascending) {
        let (stored, record) = pair?;
        let (revision, sub) = layout::event_position(&stored)?;
        if page.is_full_before(revision) {
            break;
        }
        let record = EventRecord::decode(&record)?;
        if !wanted(&record.key) {
            continue;
        }
        let kv = if record.deleted {
            grave(bytes::Bytes::copy_from_slice(&record.key), revision)
        } else {
            version(snapshot, spaces, &record.key, revision, sub)?
        };
        page.push(event(record.deleted, kv));
    }
    Ok(page.end(to))
}

fn version(
    snapshot: &dyn Snapshot,
    spaces: Spaces,
    key: &bytes::Bytes,
    revision: i64,
    sub: u32,
) -> Result<KeyValue, StoreError> {
    let stored = layout::version_key(key, revision, sub);
    let record = snapshot.get(spaces.versions, &stored)?;
    match Version::decode(&record.ok_or_else(|| layout::damaged("missing version"))?)? {
        Version::Live { create, version, lease, value } => Ok(KeyValue {
            key: bytes::Bytes::copy_from_slice(key),
            create_revision: create,
            mod_revision: revision,
            version,
            value: bytes::Bytes::copy_from_slice(&value),
            lease,
        }),
        Version::Tombstone => Err(layout::damaged("version")),
    }
}

/// Collects up to a limit, but never a part of a revision.
struct Page {
    history: History,
    revision: i64,
    room: usize,
    looked_at: usize,
    full: bool,
}

impl Page {
    fn new(from: i64, limit: usize) -> Page {
        let history = History { events: Vec::new(), next: from };
        Page { history, revision: 0, room: limit, looked_at: 0, full: false }
    }

    /// Whether to stop before this revision.
    fn is_full_before(&mut self, revision: i64) -> bool {
        self.looked_at += 1;
        if revision != self.revision {
            if self.room == 0 || self.looked_at > LOOKED_AT {
                self.full = true;
                self.history.next = revision;
                return true;
            }
            self.revision = revision;
        }
        false
    }

    fn push(&mut self, event: Event) {
        let size = event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len() + 64);
        self.room = self.room.saturating_sub(size);
        self.history.events.push(event);
    }

    fn end(mut self, to: i64) -> History {
        if !self.full {
            self.history.next = to + 1;
        }
        self.history
    }
}

/// The pair that an event replaced, as etcd shows it: the key as it was just before the event's
/// revision, and nothing once that is compacted.
pub(super) fn prev(shared: &Shared, event: &Event) -> Result<Option<KeyValue>, StoreError> {
    let Some(kv) = &event.kv else { return Ok(None) };
    let at = kv.mod_revision - 1;
    let (snapshot, spaces) =
        shared.pin(|state| Ok((at >= state.compacted).then_some(state.spaces)))?;
    let Some(spaces) = spaces else { return Ok(None) };
    let entry = past::point(snapshot.as_ref(), spaces, &kv.key, at)?;
    Ok(entry.map(|entry| entry.pair(entry.cached().unwrap_or_default())))
}
