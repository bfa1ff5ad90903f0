//! What a user may touch: the union of the ranges of all roles.

use api::authpb::Permission;
use api::authpb::permission::Type;
use bytes::Bytes;

use crate::store::KeyRange;

/// Whether something is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Writing.
    Write,
}

/// Ranges that neither overlap nor touch, in order. The end is the first key outside; none is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Union(Vec<(Bytes, Option<Bytes>)>);

impl Union {
    fn of(mut ranges: Vec<(Bytes, Option<Bytes>)>) -> Union {
        ranges.sort();
        let mut union: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match union.last_mut() {
                // it begins inside the last one, or right at its end
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    let further = match (&*last, &end) {
                        (None, _) => false,
                        (Some(_), None) => true,
                        (Some(last), Some(end)) => end > last,
                    };
                    if further {
                        *last = end;
                    }
                }
                _ => union.push((start, end)),
            }
        }
        Union(union)
    }

    /// The only member that can hold a key.
    fn at(&self, key: &[u8]) -> Option<&(Bytes, Option<Bytes>)> {
        let after = self.0.partition_point(|(start, _)| start.as_ref() <= key);
        let found = self.0.get(after.checked_sub(1)?)?;
        found.1.as_ref().is_none_or(|end| key < end.as_ref()).then_some(found)
    }

    fn covers(&self, range: &KeyRange) -> bool {
        let Some((_, end)) = self.at(range.start()) else { return false };
        match (end, range.end()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(wanted)) => wanted <= *end,
        }
    }
}

/// What a user may touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Grants {
    read: Union,
    write: Union,
}

impl Grants {
    pub(super) fn of<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Grants {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let range = KeyRange::new(&permission.key, &permission.range_end);
            let pair = (range.start().clone(), range.end());
            match permission.perm_type() {
                Type::Read => read.push(pair),
                Type::Write => write.push(pair),
                Type::Readwrite => {
                    read.push(pair.clone());
                    write.push(pair);
                }
            }
        }
        Grants { read: Union::of(read), write: Union::of(write) }
    }

    pub(super) fn covers(&self, access: Access, range: &KeyRange) -> bool {
        let union = match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        };
        match range.point() {
            Some(key) => union.at(key).is_some(),
            None => union.covers(range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(kind: Type, key: &'static str, end: &'static [u8]) -> Permission {
        let (key, range_end) = (key.into(), Bytes::from_static(end));
        Permission { perm_type: kind as i32, key, range_end }
    }

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::new(&Bytes::from_static(key), &Bytes::from_static(end))
    }

    #[test]
    fn ranges_of_several_roles_add_up() {
        let grants = Grants::of(
            [
                permission(Type::Read, "b", b"d"),
                permission(Type::Read, "a", b"b"),
                permission(Type::Readwrite, "k", b""),
                permission(Type::Read, "d", b""),
                permission(Type::Write, "x", b"\0"),
            ]
            .iter(),
        );
        let may = |access, key, end| grants.covers(access, &range(key, end));
        assert!(may(Access::Read, b"a", b"d"), "two that touch are one");
        assert!(may(Access::Read, b"a", b"d\0"), "and a point beside them");
        assert!(!may(Access::Read, b"a", b"d\0\0") && !may(Access::Read, b"a", b"e"));
        assert!(!may(Access::Read, b"a", b"\0"), "not to the end");
        assert!(may(Access::Read, b"d", b"") && !may(Access::Read, b"da", b""));
        assert!(may(Access::Read, b"k", b"") && may(Access::Write, b"k", b""));
        assert!(!may(Access::Write, b"a", b""));
        assert!(may(Access::Write, b"x", b"\0") && may(Access::Write, b"zz", b""));
        assert!(!may(Access::Write, b"w", b"\0"));
        assert!(!may(Access::Read, b"0", b"") && !may(Access::Read, b"0", b"b"));
    }

    #[test]
    fn an_open_range_swallows_what_comes_after_it() {
        let all = [permission(Type::Read, "c", b"\0"), permission(Type::Read, "d", b"e")];
        let grants = Grants::of(all.iter());
        assert_eq!(grants.read.0.len(), 1);
        assert!(grants.covers(Access::Read, &range(b"z", b"\0")));
        assert!(!Grants::default().covers(Access::Read, &range(b"z", b"")));
    }
}
