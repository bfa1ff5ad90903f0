//! Ranges of keys as etcd's requests name them.

use std::ops::Bound;

use bytes::Bytes;

/// One key, or the keys from one on up to another or to the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Bytes,
    end: End,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum End {
    Point,
    Before(Bytes),
    Open,
}

impl KeyRange {
    /// As a request says it: an empty `range_end` names the key alone, one zero byte all keys from
    /// `key` on, else `range_end` is the first key outside.
    pub fn new(key: &Bytes, range_end: &Bytes) -> KeyRange {
        let end = match range_end.as_ref() {
            [] => End::Point,
            [0] => End::Open,
            _ => End::Before(range_end.clone()),
        };
        KeyRange { start: key.clone(), end }
    }

    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange { start: Bytes::new(), end: End::Open }
    }

    /// All keys that begin with a prefix.
    pub fn prefix(prefix: &Bytes) -> KeyRange {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return KeyRange { start: prefix.clone(), end: End::Before(end.into()) };
            }
        }
        KeyRange { start: prefix.clone(), end: End::Open }
    }

    /// The key, when it is only one.
    pub fn point(&self) -> Option<&Bytes> {
        matches!(self.end, End::Point).then_some(&self.start)
    }

    /// The first key of the range.
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// The first key beyond it; none when it is open.
    pub(super) fn end(&self) -> Option<Bytes> {
        match &self.end {
            End::Point => {
                let mut next = Vec::with_capacity(self.start.len() + 1);
                next.extend_from_slice(&self.start);
                next.push(0);
                Some(next.into())
            }
            End::Before(end) => Some(end.clone()),
            End::Open => None,
        }
    }

    /// Whether a key lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Point => self.start == key,
            End::Before(end) => self.start.as_ref() <= key && key < end.as_ref(),
            End::Open => self.start.as_ref() <= key,
        }
    }

    /// Whether a key lies beyond it.
    pub(super) fn is_past(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Point => key > self.start.as_ref(),
            End::Before(end) => key >= end.as_ref(),
            End::Open => false,
        }
    }

    /// Whether no key can lie in it.
    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if end <= &self.start)
    }

    /// Bounds for an ordered map; never upside down.
    pub(super) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let start = Bound::Included(self.start.as_ref());
        match &self.end {
            End::Point => (start, start),
            End::Before(end) if end <= &self.start => (start, Bound::Excluded(&self.start)),
            End::Before(end) => (start, Bound::Excluded(end.as_ref())),
            End::Open => (start, Bound::Unbounded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_etcd_says() {
        let range = |key: &'static [u8], end: &'static [u8]| {
            KeyRange::new(&Bytes::from_static(key), &Bytes::from_static(end))
        };
        assert!(range(b"a", b"").contains(b"a") && !range(b"a", b"").contains(b"aa"));
        assert!(range(b"a", b"b").contains(b"aa") && !range(b"a", b"b").contains(b"b"));
        assert!(range(b"a", b"\0").contains(b"zz") && !range(b"b", b"\0").contains(b"a"));
        assert!(range(b"\0", b"\0").contains(b"\0"));
        assert!(range(b"b", b"a").is_empty() && !range(b"b", b"a").contains(b"b"));
        assert!(range(b"a", b"b").is_past(b"b") && !range(b"a", b"\0").is_past(b"z"));
        let map = std::collections::BTreeMap::<Bytes, ()>::new();
        assert_eq!(map.range::<[u8], _>(range(b"b", b"a").bounds()).count(), 0);
    }
}
