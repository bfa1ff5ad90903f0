use bytes::Bytes;

/// The log of one Raft group (or partition) within the journal.
pub type GroupId = u64;

/// One change of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Sets the entry at `index`: the one after the last, or any beyond what is purged when the
    /// group is empty. At an index that exists it drops that entry and all after it.
    Entry {
        /// The group.
        group: GroupId,
        /// The entry's place.
        index: u64,
        /// The entry's bytes.
        payload: Bytes,
    },
    /// Drops all entries after `index`.
    TruncateAfter {
        /// The group.
        group: GroupId,
        /// The last entry to keep.
        index: u64,
    },
    /// Drops all entries up to and including `index`, for ever. May lie beyond the last entry:
    /// the group is then empty and goes on behind it.
    PurgeTo {
        /// The group.
        group: GroupId,
        /// The last entry to drop.
        index: u64,
    },
    /// Sets a small value beside the entries. The last one wins; purging does not touch it.
    Meta {
        /// The group.
        group: GroupId,
        /// Which value.
        key: u8,
        /// Its bytes, at most [`Record::MAX_META`].
        value: Bytes,
    },
    /// Drops everything of a group: entries, values, the memory of what was purged.
    Forget {
        /// The group.
        group: GroupId,
    },
}

impl Record {
    /// The largest `Meta` value.
    pub const MAX_META: usize = 64 << 10;

    /// The group it belongs to.
    pub fn group(&self) -> GroupId {
        match self {
            Record::Entry { group, .. }
            | Record::TruncateAfter { group, .. }
            | Record::PurgeTo { group, .. }
            | Record::Meta { group, .. }
            | Record::Forget { group } => *group,
        }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        match self {
            Record::Entry { payload, .. } => payload,
            Record::Meta { value, .. } => value,
            _ => &[],
        }
    }
}
