//! What the journal holds, in memory: per group the place of each entry, and per segment how much
//! of it is still wanted. No I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::DiskFile;
use crate::format::{ALIGN, FRAME_HEADER, RECORD_HEADER};
use crate::{GroupId, JournalError, Record};

/// Where an entry's payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The segment's sequence number.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    /// Of group, index and payload.
    pub(crate) crc: u32,
}

impl Place {
    /// How much of a segment it takes at most, when it is alone in its frame.
    pub(crate) fn weight(&self) -> u64 {
        u64::from(self.len) + (RECORD_HEADER + FRAME_HEADER) as u64 + ALIGN
    }
}

pub(crate) struct Slot {
    /// Tells this entry from another that had the same index before.
    pub(crate) ticket: u64,
    /// `None` until it is written.
    pub(crate) place: Option<Place>,
    /// There until it is written, and then as long as the cache has room.
    pub(crate) payload: Option<Bytes>,
}

#[derive(Default)]
pub(crate) struct Group {
    /// The index of the first slot.
    pub(crate) first: u64,
    pub(crate) slots: VecDeque<Slot>,
    pub(crate) purged: Option<u64>,
    pub(crate) meta: BTreeMap<u8, Bytes>,
    /// The oldest segment whose records are needed for `purged` and `meta`.
    pub(crate) home: Option<u64>,
}

impl Group {
    pub(crate) fn span(&self) -> Option<(u64, u64)> {
        let last = (self.slots.len() as u64).checked_sub(1)?;
        Some((self.first, self.first + last))
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Whether nothing would be lost by forgetting it.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.purged.is_none() && self.meta.is_empty()
    }

    fn shape(&self) -> Shape {
        Shape { span: self.span(), purged: self.purged }
    }
}

/// A segment that holds something that is wanted.
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) capacity: u64,
    pub(crate) live_bytes: u64,
    pub(crate) live_entries: u64,
    /// How many groups have their home here.
    pub(crate) homes: u64,
}

impl Segment {
    pub(crate) fn new(name: String, file: Arc<dyn DiskFile>, capacity: u64) -> Segment {
        Segment { name, file, capacity, live_bytes: 0, live_entries: 0, homes: 0 }
    }
}

/// All groups, all segments, and the payloads kept in memory.
pub(crate) struct State {
    pub(crate) groups: HashMap<GroupId, Group>,
    /// By sequence number; the last is being written.
    pub(crate) segments: BTreeMap<u64, Segment>,
    next_ticket: u64,
    /// Entries up to here are durable.
    synced_ticket: u64,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    cache_bytes: usize,
}

/// What an entry in the cache costs beside its payload.
const CACHE_OVERHEAD: usize = 64;

struct Recent {
    group: GroupId,
    index: u64,
    ticket: u64,
    len: usize,
}

/// As much of a group as decides whether a record fits.
#[derive(Clone, Copy, Default)]
struct Shape {
    span: Option<(u64, u64)>,
    purged: Option<u64>,
}

/// Why a record does not fit behind those before it.
#[derive(Debug, thiserror::Error)]
enum Misfit {
    #[error("entry {index} is purged already, up to {purged}")]
    Purged { index: u64, purged: u64 },
    #[error("entry {index} leaves a gap after {last}")]
    Gap { index: u64, last: u64 },
}

impl Shape {
    fn take(&mut self, record: &Record) -> Result<(), Misfit> {
        match *record {
            Record::Entry { index, .. } => {
                if let Some(purged) = self.purged.filter(|purged| *purged >= index) {
                    return Err(Misfit::Purged { index, purged });
                }
                self.span = match self.span {
                    None => Some((index, index)),
                    Some((first, last)) if index > last => {
                        if index - last > 1 {
                            return Err(Misfit::Gap { index, last });
                        }
                        Some((first, index))
                    }
                    Some((first, _)) => Some((first.min(index), index)),
                };
            }
            Record::TruncateAfter { index, .. } => {
                self.span = self
                    .span
                    .filter(|(first, _)| *first <= index)
                    .map(|(first, last)| (first, last.min(index)));
            }
            Record::PurgeTo { index, .. } => {
                self.purged = self.purged.max(Some(index));
                self.span = self
                    .span
                    .filter(|(_, last)| *last > index)
                    .map(|(first, last)| (first.max(index + 1), last));
            }
            Record::Meta { .. } => {}
            Record::Forget { .. } => *self = Shape::default(),
        }
        Ok(())
    }
}

impl State {
    pub(crate) fn new(cache_bytes: usize) -> State {
        State {
            groups: HashMap::new(),
            segments: BTreeMap::new(),
            next_ticket: 1,
            synced_ticket: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            cache_bytes,
        }
    }

    /// Whether all these records can be taken, one after the other.
    pub(crate) fn check(&self, records: &[Record]) -> Result<(), JournalError> {
        let mut shapes: Vec<(GroupId, Shape)> = Vec::with_capacity(1);
        for record in records {
            let group = record.group();
            let at = match shapes.iter().position(|(id, _)| *id == group) {
                Some(at) => at,
                None => {
                    let shape = self.groups.get(&group).map(Group::shape).unwrap_or_default();
                    shapes.push((group, shape));
                    shapes.len() - 1
                }
            };
            shapes[at]
                .1
                .take(record)
                .map_err(|what| JournalError::Invalid(format!("group {group}: {what}")))?;
        }
        Ok(())
    }

    /// Takes records that were checked; returns the ticket of the first, the others follow it.
    pub(crate) fn take(&mut self, records: &[Record]) -> u64 {
        let first = self.next_ticket;
        for record in records {
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            self.take_one(record, ticket);
        }
        first
    }

    fn take_one(&mut self, record: &Record, ticket: u64) {
        match record {
            Record::Entry { group: id, index, payload } => {
                self.drop_from(*id, *index);
                let group = self.groups.entry(*id).or_default();
                if group.slots.is_empty() {
                    group.first = *index;
                }
                group.slots.push_back(Slot { ticket, place: None, payload: Some(payload.clone()) });
                let len = payload.len() + CACHE_OVERHEAD;
                self.recent.push_back(Recent { group: *id, index: *index, ticket, len });
                self.recent_bytes += len;
            }
            Record::TruncateAfter { group, index } => {
                if let Some(from) = index.checked_add(1) {
                    self.drop_from(*group, from);
                }
            }
            Record::PurgeTo { group, index } => {
                self.drop_to(*group, *index);
                let group = self.groups.entry(*group).or_default();
                group.purged = group.purged.max(Some(*index));
            }
            Record::Meta { group, key, value } => {
                let group = self.groups.entry(*group).or_default();
                group.meta.insert(*key, value.clone());
            }
            Record::Forget { group } => {
                self.drop_from(*group, 0);
                if let Some(home) = self.groups.remove(group).and_then(|group| group.home)
                    && let Some(segment) = self.segments.get_mut(&home)
                {
                    segment.homes -= 1;
                }
            }
        }
    }

    fn drop_from(&mut self, id: GroupId, index: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let keep = usize::try_from(index.saturating_sub(group.first)).unwrap_or(usize::MAX);
        if keep < group.slots.len() {
            for slot in group.slots.drain(keep..) {
                release(&mut self.segments, &slot);
            }
        }
    }

    fn drop_to(&mut self, id: GroupId, index: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if index < group.first {
            return;
        }
        let gone = usize::try_from(index - group.first).unwrap_or(usize::MAX).saturating_add(1);
        let gone = gone.min(group.slots.len());
        for slot in group.slots.drain(..gone) {
            release(&mut self.segments, &slot);
        }
        group.first += gone as u64;
    }

    /// An entry came to lie at a place, first or anew; nothing happens if it is gone by now.
    pub(crate) fn settle(&mut self, id: GroupId, index: u64, ticket: u64, place: Place) {
        let Some(slot) = self.groups.get_mut(&id).and_then(|group| group.slot_mut(index)) else {
            return;
        };
        if slot.ticket != ticket {
            return;
        }
        release(&mut self.segments, slot);
        slot.place = Some(place);
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live_bytes += place.weight();
            segment.live_entries += 1;
        }
    }

    /// What `purged` and `meta` need lies in this segment and later ones; `moved` when all of it
    /// was written there again.
    pub(crate) fn settle_home(&mut self, id: GroupId, segment: u64, moved: bool) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.home.is_some() && !moved {
            return;
        }
        if let Some(old) = group.home.and_then(|home| self.segments.get_mut(&home)) {
            old.homes -= 1;
        }
        group.home = Some(segment);
        if let Some(new) = self.segments.get_mut(&segment) {
            new.homes += 1;
        }
    }

    /// Puts back a group as it was found on disk. Indexes have no holes.
    pub(crate) fn restore(
        &mut self,
        id: GroupId,
        entries: BTreeMap<u64, Place>,
        purged: Option<u64>,
        meta: BTreeMap<u8, Bytes>,
        home: Option<u64>,
    ) {
        let first = entries.first_key_value().map_or(0, |(first, _)| *first);
        let mut group = Group { first, purged, meta, ..Group::default() };
        for (_, place) in entries {
            let ticket = self.fresh_ticket();
            group.slots.push_back(Slot { ticket, place: Some(place), payload: None });
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.live_bytes += place.weight();
                segment.live_entries += 1;
            }
        }
        self.groups.insert(id, group);
        if let Some(home) = home {
            self.settle_home(id, home, false);
        }
    }

    /// All tickets up to this one are durable: their payloads may leave the cache.
    pub(crate) fn synced(&mut self, ticket: u64) {
        self.synced_ticket = ticket;
        while self.recent_bytes > self.cache_bytes {
            match self.recent.front() {
                Some(recent) if recent.ticket <= self.synced_ticket => {}
                _ => break,
            }
            let Some(recent) = self.recent.pop_front() else { break };
            self.recent_bytes -= recent.len;
            let group = self.groups.get_mut(&recent.group);
            if let Some(slot) = group.and_then(|group| group.slot_mut(recent.index))
                && slot.ticket == recent.ticket
            {
                slot.payload = None;
            }
        }
    }

    pub(crate) fn fresh_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket - 1
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.live_bytes).sum()
    }
}

fn release(segments: &mut BTreeMap<u64, Segment>, slot: &Slot) {
    if let Some(place) = slot.place
        && let Some(segment) = segments.get_mut(&place.segment)
    {
        segment.live_bytes -= place.weight();
        segment.live_entries -= 1;
    }
}
