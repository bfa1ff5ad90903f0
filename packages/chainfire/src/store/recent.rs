//! Ranges at a revision that is not long ago: the present keys, but for those changed since.
//!
//! A client that pages through a large range stays at the revision of its first page. Reading the
//! whole rest of the range from the engine for the count of every page would make that quadratic.

use std::collections::BTreeSet;

use bytes::Bytes;
use engine::Snapshot;

use super::events::Ring;
use super::index::Slice;
use super::layout::Spaces;
use super::overlay::{Touched, merge};
use super::state::State;
use super::{KeyRange, StoreError, past};

/// The most events since the revision: more than that is no longer recent.
const EVENTS: usize = 2000;

/// The present keys of a range and which of them have changed.
pub(super) struct Recent {
    base: Slice,
    /// The key, and whether it is there at present.
    changed: Vec<(Bytes, bool)>,
}

impl Recent {
    /// None if too much has happened, or the range is a single key.
    pub(super) fn find(
        state: &State,
        ring: &Ring,
        keys: &KeyRange,
        at: i64,
        want: usize,
    ) -> Option<Recent> {
        if keys.point().is_some() {
            return None;
        }
        let since = ring.since(at)?;
        // The ring is filled just after the state: it must reach up to it.
        if since.last().map_or(at, |changes| changes.revision) != state.revision {
            return None;
        }
        if since.iter().map(|changes| changes.events.len()).sum::<usize>() > EVENTS {
            return None;
        }
        let events = since.iter().flat_map(|changes| changes.events.iter());
        let pairs = events.filter_map(|event| event.kv.as_ref());
        let changed = pairs.filter(|kv| kv.mod_revision > at && keys.contains(&kv.key));
        let changed: BTreeSet<&Bytes> = changed.map(|kv| &kv.key).collect();
        let base = state.index.slice(keys, want.saturating_add(changed.len()));
        let there = |key: &Bytes| (key.clone(), state.index.get(key).is_some());
        let changed = changed.into_iter().map(there).collect();
        Some(Recent { base, changed })
    }

    /// The range as it was.
    pub(super) fn slice(
        self,
        snapshot: &dyn Snapshot,
        spaces: Spaces,
        at: i64,
        want: usize,
    ) -> Result<Slice, StoreError> {
        let mut touched = Vec::with_capacity(self.changed.len());
        for (key, there) in self.changed {
            let live = past::point(snapshot, spaces, &key, at)?;
            touched.push(Touched { key, there, live });
        }
        Ok(merge(self.base, touched, want))
    }
}
