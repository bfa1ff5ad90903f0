use std::ops::Bound;

use bytes::Bytes;

/// The lower and the upper bound of a range of keys.
pub type KeyRange = (Bound<Bytes>, Bound<Bytes>);

/// The range of all keys.
pub fn all() -> KeyRange {
    (Bound::Unbounded, Bound::Unbounded)
}

/// The range of all keys that begin with these bytes.
pub fn prefix(prefix: &[u8]) -> KeyRange {
    let upper = match prefix_end(prefix) {
        Some(end) => Bound::Excluded(end),
        None => Bound::Unbounded,
    };
    (Bound::Included(Bytes::copy_from_slice(prefix)), upper)
}

/// The smallest key that is larger than all keys with this prefix; `None` if there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// Whether no key can be in the range. `BTreeMap::range` panics on some of these.
pub(crate) fn is_empty(range: &KeyRange) -> bool {
    match range {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low), Bound::Excluded(high))
        | (Bound::Excluded(low), Bound::Included(high))
        | (Bound::Excluded(low), Bound::Excluded(high)) => low >= high,
        (Bound::Unbounded, Bound::Excluded(high)) => high.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(prefix_end(b"a\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
        assert_eq!(prefix(b""), (Bound::Included(Bytes::new()), Bound::Unbounded));
    }

    #[test]
    fn ranges_without_keys() {
        let key = |key: &'static str| Bytes::from(key);
        assert!(is_empty(&(Bound::Included(key("b")), Bound::Included(key("a")))));
        assert!(is_empty(&(Bound::Excluded(key("a")), Bound::Excluded(key("a")))));
        assert!(!is_empty(&(Bound::Included(key("a")), Bound::Included(key("a")))));
        assert!(!is_empty(&all()));
    }
}
