//! Reads at an earlier revision, from the engine.
//!
//! The work grows with the keys that lie in the range, not with their versions: a key with a long
//! history is skipped by seeking.

use std::ops::Bound;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use engine::{Order, Snapshot};

use super::entry::{Entry, Stamp, weight};
use super::index::Slice;
use super::layout::{self, Spaces, Version};
use super::{KeyRange, StoreError};

/// Versions of one key to step over before seeking.
pub(super) const STEPS: usize = 16;

/// The range as it was at `revision`, which must not be compacted: at least the first `want`
/// entries, with values, and how many there were.
pub(super) fn slice(
    snapshot: &dyn Snapshot,
    spaces: Spaces,
    range: &KeyRange,
    revision: i64,
    want: usize,
) -> Result<Slice, StoreError> {
    if let Some(key) = range.point() {
        let entry = point(snapshot, spaces, key, revision)?;
        return Ok(Slice::of(entry));
    }
    if range.is_empty() {
        return Ok(Slice::default());
    }
    let mut walk = Walk { revision, want, list: Vec::new(), count: 0, settled: None };
    let (low, high) = stored_bounds(range);
    let mut from = Some(low);
    while let Some(low) = from {
        let bounds = (low, high.clone());
        from = walk.go(&mut snapshot.iter(spaces.versions, bounds, Order::Ascending))?;
    }
    Ok(Slice::from_list(walk.list, walk.count))
}

/// One key as it was at `revision`.
pub(super) fn point(
    snapshot: &dyn Snapshot,
    spaces: Spaces,
    key: &Bytes,
    revision: i64,
) -> Result<Option<Arc<Entry>>, StoreError> {
    let bounds = layout::versions_at(key, revision);
    match snapshot.iter(spaces.versions, bounds, Order::Ascending).next() {
        Some(pair) => {
            let (stored, record) = pair?;
            entry(&stored, &record, Some(key))
        }
        None => Ok(None),
    }
}

/// The live entry of a stored pair.
pub(super) fn entry(
    stored: &Bytes,
    record: &Bytes,
    key: Option<&Bytes>,
) -> Result<Option<Arc<Entry>>, StoreError> {
    within(stored, record, key, usize::MAX)
}

/// The same, with its value only if that costs a cache no more than there is room.
pub(super) fn within(
    stored: &Bytes,
    record: &Bytes,
    key: Option<&Bytes>,
    room: usize,
) -> Result<Option<Arc<Entry>>, StoreError> {
    let Version::Live { create, version, lease, value } = Version::decode(record)? else {
        return Ok(None);
    };
    let (modified, sub) = layout::version_position(stored)?;
    let key = match key {
        Some(key) => key.clone(),
        None => layout::unescape(layout::escaped_part(stored)?),
    };
    let stamp = Stamp { create, modified, sub, version, lease };
    let size = value.len() as u32;
    let entry = if weight(size) <= room {
        // A copy: the engine's bytes may be part of a larger block.
        Entry::new(key, stamp, Bytes::copy_from_slice(&value))
    } else {
        Entry::bare(key, stamp, size)
    };
    Ok(Some(Arc::new(entry)))
}

pub(super) fn stored_bounds(range: &KeyRange) -> (Bound<Bytes>, Bound<Bytes>) {
    let (low, high) = range.bounds();
    let low = match low {
        Bound::Included(key) | Bound::Excluded(key) => Bound::Included(layout::versions_from(key)),
        Bound::Unbounded => Bound::Unbounded,
    };
    let high = match high {
        Bound::Included(key) | Bound::Excluded(key) => Bound::Excluded(layout::versions_from(key)),
        Bound::Unbounded => Bound::Unbounded,
    };
    (low, high)
}

struct Walk {
    revision: i64,
    want: usize,
    list: Vec<Arc<Entry>>,
    count: usize,
    /// The key whose version at the revision was seen; the older ones are to be passed over.
    settled: Option<Bytes>,
}

impl Walk {
    /// Goes on until the end (none), or until it is worth seeking to where it returns.
    fn go(&mut self, pairs: &mut engine::Pairs<'_>) -> Result<Option<Bound<Bytes>>, StoreError> {
        let mut passed = 0;
        for pair in pairs {
            let (stored, record) = pair?;
            let part = layout::escaped_part(&stored)?;
            if self.settled.as_deref() == Some(part) {
                passed += 1;
                if passed > STEPS {
                    return Ok(Some(Bound::Excluded(position(part, 0, 0))));
                }
                continue;
            }
            if layout::version_position(&stored)?.0 > self.revision {
                passed += 1;
                if passed > STEPS {
                    return Ok(Some(Bound::Included(position(part, self.revision, u32::MAX))));
                }
                continue;
            }
            passed = 0;
            self.settled = Some(stored.slice(..part.len()));
            if self.list.len() < self.want {
                if let Some(entry) = entry(&stored, &record, None)? {
                    self.list.push(entry);
                    self.count += 1;
                }
            } else if Version::decode(&record)? != Version::Tombstone {
                self.count += 1;
            }
        }
        Ok(None)
    }
}

pub(super) fn position(part: &[u8], revision: i64, sub: u32) -> Bytes {
    let mut out = Vec::with_capacity(part.len() + 12);
    out.put_slice(part);
    out.put_u64(!(revision as u64));
    out.put_u32(!sub);
    out.into()
}
