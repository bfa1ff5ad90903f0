//! Who is interested in which keys: finds them by key, at a cost that grows with the distinct
//! kinds of ranges, not with the number of the interested.
//!
//! Single keys are found by hash; prefixes by hash of each prefix length in use; the rest (ranges
//! that are no prefix) is asked one distinct range at a time.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use bytes::Bytes;

use crate::store::KeyRange;

/// A table from key ranges to the interested. The same one may register a range several times and
/// must take it back as often.
#[derive(Debug)]
pub(crate) struct Interest<T> {
    keys: HashMap<Bytes, Vec<T>>,
    prefixes: HashMap<Bytes, Vec<T>>,
    /// How many distinct prefixes have this length.
    lengths: BTreeMap<usize, usize>,
    ranges: HashMap<KeyRange, Vec<T>>,
}

impl<T> Default for Interest<T> {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            prefixes: HashMap::new(),
            lengths: BTreeMap::new(),
            ranges: HashMap::new(),
        }
    }
}

/// A range as a watch asks for it, sorted into its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One key.
    Key(Bytes),
    /// All keys that begin so; empty: all keys.
    Prefix(Bytes),
    /// Anything else.
    Range(KeyRange),
}

impl Wanted {
    /// From the fields of a request.
    pub(crate) fn new(key: &Bytes, range_end: &Bytes) -> Wanted {
        match range_end.as_ref() {
            [] => Wanted::Key(key.clone()),
            // no key sorts below the one zero byte but the empty key, and there is none
            [0] if key.is_empty() || key.as_ref() == [0] => Wanted::Prefix(Bytes::new()),
            end if prefix_end(key).is_some_and(|wanted| wanted == end) => {
                Wanted::Prefix(key.clone())
            }
            _ => Wanted::Range(KeyRange::new(key, range_end)),
        }
    }

    /// Whether a key is wanted.
    #[cfg(test)]
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Wanted::Key(wanted) => wanted == key,
            Wanted::Prefix(prefix) => key.starts_with(prefix),
            Wanted::Range(range) => range.contains(key),
        }
    }

    /// The same as a range of the store.
    pub(crate) fn range(&self) -> KeyRange {
        match self {
            Wanted::Key(key) => KeyRange::new(key, &Bytes::new()),
            // as it was asked for: a permission for all keys does not cover the empty one
            Wanted::Prefix(prefix) if prefix.is_empty() => {
                let first = Bytes::from_static(&[0]);
                KeyRange::new(&first, &first)
            }
            Wanted::Prefix(prefix) => match prefix_end(prefix) {
                Some(end) => KeyRange::new(prefix, &end.into()),
                None => KeyRange::new(prefix, &Bytes::from_static(&[0])),
            },
            Wanted::Range(range) => range.clone(),
        }
    }
}

/// The first key after all that begin with `prefix`; none if there is no such key.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

impl<T: Copy + Eq + Hash> Interest<T> {
    /// Adds one.
    pub(crate) fn add(&mut self, wanted: &Wanted, who: T) {
        match wanted {
            Wanted::Key(key) => self.keys.entry(key.clone()).or_default().push(who),
            Wanted::Prefix(prefix) => {
                let list = self.prefixes.entry(prefix.clone()).or_default();
                if list.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                list.push(who);
            }
            Wanted::Range(range) => self.ranges.entry(range.clone()).or_default().push(who),
        }
    }

    /// Takes one back.
    pub(crate) fn remove(&mut self, wanted: &Wanted, who: T) {
        match wanted {
            Wanted::Key(key) => drop(take(&mut self.keys, key, who)),
            Wanted::Prefix(prefix) => {
                if take(&mut self.prefixes, prefix, who)
                    && let Some(count) = self.lengths.get_mut(&prefix.len())
                {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            Wanted::Range(range) => drop(take(&mut self.ranges, range, who)),
        }
    }

    /// Calls for everyone interested in a key; for the same one more than once if he registered
    /// more than one range that holds it.
    pub(crate) fn each(&self, key: &[u8], mut call: impl FnMut(T)) {
        if let Some(list) = self.keys.get(key) {
            list.iter().for_each(|who| call(*who));
        }
        for length in self.lengths.keys() {
            let Some(prefix) = key.get(..*length) else { break };
            if let Some(list) = self.prefixes.get(prefix) {
                list.iter().for_each(|who| call(*who));
            }
        }
        for (range, list) in &self.ranges {
            if range.contains(key) {
                list.iter().for_each(|who| call(*who));
            }
        }
    }
}

/// Removes one from the list under a key; whether the list is gone with him.
fn take<K, Q, T>(map: &mut HashMap<K, Vec<T>>, key: &Q, who: T) -> bool
where
    K: Hash + Eq + std::borrow::Borrow<Q>,
    Q: Hash + Eq + ?Sized,
    T: Eq,
{
    let Some(list) = map.get_mut(key) else { return false };
    if let Some(place) = list.iter().position(|other| *other == who) {
        list.swap_remove(place);
    }
    if list.is_empty() {
        map.remove(key);
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(key: &'static [u8], end: &'static [u8]) -> Wanted {
        Wanted::new(&Bytes::from_static(key), &Bytes::from_static(end))
    }

    fn found(interest: &Interest<u32>, key: &[u8]) -> Vec<u32> {
        let mut all = Vec::new();
        interest.each(key, |who| all.push(who));
        all.sort_unstable();
        all
    }

    #[test]
    fn ranges_are_sorted_into_their_kinds() {
        assert!(matches!(wanted(b"a", b""), Wanted::Key(_)));
        assert!(matches!(wanted(b"a", b"b"), Wanted::Prefix(_)));
        assert!(matches!(wanted(b"a\xff", b"b"), Wanted::Prefix(_)));
        assert!(matches!(wanted(b"\0", b"\0"), Wanted::Prefix(p) if p.is_empty()));
        assert!(matches!(wanted(b"a", b"c"), Wanted::Range(_)));
        assert!(matches!(wanted(b"a", b"\0"), Wanted::Range(_)));
        assert!(matches!(wanted(b"\xff", b"\0"), Wanted::Range(_)));
    }

    #[test]
    fn a_range_is_what_was_asked_for() {
        let asked: [(&[u8], &[u8]); 5] =
            [(b"a", b""), (b"a", b"b"), (b"a", b"c"), (b"\0", b"\0"), (b"\xff", b"\0")];
        for (key, end) in asked {
            let range = KeyRange::new(&Bytes::from_static(key), &Bytes::from_static(end));
            assert_eq!(wanted(key, end).range(), range, "{key:?}");
        }
    }

    #[test]
    fn finding_agrees_with_asking_each() {
        let all = [
            wanted(b"a", b""),
            wanted(b"ab", b""),
            wanted(b"a", b"b"),
            wanted(b"ab", b"ac"),
            wanted(b"\0", b"\0"),
            wanted(b"a", b"c"),
            wanted(b"b", b"\0"),
            wanted(b"a\xff", b"b"),
            wanted(b"a", b"b"),
        ];
        let mut interest = Interest::default();
        for (who, range) in all.iter().enumerate() {
            interest.add(range, who as u32);
        }
        let keys: [&[u8]; 7] = [b"a", b"ab", b"abc", b"a\xff\x01", b"b", b"\0", b"zz"];
        for gone in 0..=all.len() {
            for key in keys {
                let expected: Vec<u32> =
                    (gone..all.len()).filter(|i| all[*i].contains(key)).map(|i| i as u32).collect();
                assert_eq!(found(&interest, key), expected, "{key:?} after {gone}");
                for range in &all {
                    assert_eq!(range.contains(key), range.range().contains(key), "{range:?}");
                }
            }
            if let Some(range) = all.get(gone) {
                interest.remove(range, gone as u32);
            }
        }
        assert!(interest.lengths.is_empty() && interest.ranges.is_empty());
    }
}
