//! What the running batch has written and nobody else sees yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::KeyRange;
use super::entry::Entry;
use super::index::{Index, Slice};

/// A key after a change of this batch; no entry means deleted.
struct Written {
    revision: i64,
    live: Option<Arc<Entry>>,
}

/// For each key that the batch has touched, all its versions of this batch, oldest first: a later
/// request of the batch may read at the revision of an earlier one.
#[derive(Default)]
pub(super) struct Overlay(BTreeMap<Bytes, Vec<Written>>);

impl Overlay {
    pub(super) fn push(&mut self, key: Bytes, revision: i64, live: Option<Arc<Entry>>) {
        self.0.entry(key).or_default().push(Written { revision, live });
    }

    /// Takes the newest version of a key back.
    pub(super) fn pop(&mut self, key: &Bytes) {
        if let Some(versions) = self.0.get_mut(key) {
            versions.pop();
            if versions.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The newest state of every key touched.
    pub(super) fn into_newest(self) -> Vec<(Bytes, Option<Arc<Entry>>)> {
        let newest = |mut versions: Vec<Written>| versions.pop().and_then(|written| written.live);
        self.0.into_iter().map(|(key, versions)| (key, newest(versions))).collect()
    }

    /// A key at `revision`, which is not below that of the index.
    pub(super) fn get(&self, index: &Index, key: &[u8], revision: i64) -> Option<Arc<Entry>> {
        match self.0.get(key).and_then(|versions| at(versions, revision)) {
            Some(written) => written.live.clone(),
            None => index.get(key).cloned(),
        }
    }

    /// A range at `revision`, which is not below that of the index; see [`Index::slice`].
    pub(super) fn slice(
        &self,
        index: &Index,
        range: &KeyRange,
        revision: i64,
        want: usize,
    ) -> Slice {
        if let Some(key) = range.point() {
            return Slice::of(self.get(index, key, revision));
        }
        let mut touched = Vec::new();
        for (key, versions) in self.0.range::<[u8], _>(range.bounds()) {
            if let Some(written) = at(versions, revision) {
                let there = index.get(key).is_some();
                touched.push(Touched { key: key.clone(), there, live: written.live.clone() });
            }
        }
        // Each touched key can take at most one of the base's away.
        let base = index.slice(range, want.saturating_add(touched.len()));
        merge(base, touched, want)
    }
}

/// A key whose state differs from the base's.
pub(super) struct Touched {
    pub(super) key: Bytes,
    /// Whether the base has it.
    pub(super) there: bool,
    pub(super) live: Option<Arc<Entry>>,
}

/// The base with the touched keys of the range, in key order, in place of its own. The base must
/// hold as many entries as are wanted and touched keys.
pub(super) fn merge(base: Slice, touched: Vec<Touched>, want: usize) -> Slice {
    if touched.is_empty() {
        return base;
    }
    let mut count = base.count;
    for key in &touched {
        count = count + usize::from(key.live.is_some()) - usize::from(key.there);
    }
    let mut list = Vec::with_capacity(count.min(want));
    let mut touched = touched.into_iter().peekable();
    let mut base = base.iter().peekable();
    while list.len() < want {
        let take_base = match (base.peek(), touched.peek()) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(entry), Some(touched)) => {
                if entry.key == touched.key {
                    base.next();
                    continue;
                }
                entry.key < touched.key
            }
        };
        if take_base {
            list.extend(base.next().cloned());
        } else if let Some(touched) = touched.next() {
            list.extend(touched.live);
        }
    }
    Slice::from_list(list, count)
}

fn at(versions: &[Written], revision: i64) -> Option<&Written> {
    versions.iter().rev().find(|written| written.revision <= revision)
}
