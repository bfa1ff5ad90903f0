//! What a journal should hold, kept as plainly as can be, and random work for it.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use bytes::Bytes;
use journal::{GroupId, Journal, Options, Record};

/// Small files, so that a few records fill, free and recycle them.
pub fn small(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        cache_bytes: 2048,
        batch_bytes: segment_bytes as usize,
        spares: 1,
        prepare_ahead: false,
    }
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn bytes(&mut self, longest: u64) -> Bytes {
        let len = self.below(longest + 1);
        (0..len).map(|_| self.next() as u8).collect::<Vec<_>>().into()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    pub entries: BTreeMap<u64, Bytes>,
    pub purged: u64,
    pub meta: BTreeMap<u8, Bytes>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub groups: BTreeMap<GroupId, Group>,
}

impl Model {
    pub fn apply(&mut self, record: &Record) {
        let group = self.groups.entry(record.group()).or_default();
        match record {
            Record::Entry { index, payload, .. } => {
                group.entries.split_off(index);
                group.entries.insert(*index, payload.clone());
            }
            Record::TruncateAfter { index, .. } => {
                group.entries.split_off(&(index + 1));
            }
            Record::PurgeTo { index, .. } => {
                group.entries = group.entries.split_off(&(index + 1));
                group.purged = group.purged.max(*index);
            }
            Record::Meta { key, value, .. } => {
                group.meta.insert(*key, value.clone());
            }
            Record::Forget { group } => {
                self.groups.remove(group);
            }
        }
        self.groups.retain(|_, group| *group != Group::default());
    }

    /// What a journal holds, read entry by entry.
    pub fn of(journal: &Journal) -> Model {
        let mut model = Model::default();
        for id in journal.groups() {
            let mut group = Group { purged: journal.purged(id), ..Group::default() };
            if let Some((first, last)) = journal.span(id) {
                let read = journal.read(id, first, last + 1, usize::MAX).unwrap();
                assert_eq!(read.len() as u64, last - first + 1, "group {id} has a hole");
                group.entries = read.into_iter().collect();
            }
            for key in 0..4 {
                group.meta.extend(journal.meta(id, key).map(|value| (key, value)));
            }
            model.groups.insert(id, group);
        }
        model.groups.retain(|_, group| *group != Group::default());
        model
    }

    /// One or more records that fit.
    pub fn random_call(&self, random: &mut Random) -> Vec<Record> {
        let mut after = self.clone();
        let count = if random.chance(70) { 1 } else { 1 + random.below(6) };
        let mut records = Vec::new();
        for _ in 0..count {
            let record = after.random_record(random);
            after.apply(&record);
            records.push(record);
        }
        records
    }

    fn random_record(&self, random: &mut Random) -> Record {
        // Group 9 is written rarely and never purged: it must not hold the log.
        let id = if random.chance(2) { 9 } else { 1 + random.below(3) };
        let empty = Group::default();
        let group = self.groups.get(&id).unwrap_or(&empty);
        let next = group.entries.last_key_value().map_or(group.purged, |(last, _)| *last) + 1;
        let first = group.entries.first_key_value().map_or(next, |(first, _)| *first);
        match random.below(100) {
            _ if id == 9 && group.entries.len() > 5 => {
                Record::Meta { group: 9, key: 1, value: random.bytes(20) }
            }
            0..60 => Record::Entry { group: id, index: next, payload: random.bytes(700) },
            60..65 => {
                let index = first + random.below(next - first + 1);
                Record::Entry { group: id, index, payload: random.bytes(700) }
            }
            65..73 => {
                Record::TruncateAfter { group: id, index: first + random.below(next - first + 1) }
            }
            73..88 if id != 9 => {
                // Mostly near the end, sometimes beyond it.
                let index = next.saturating_sub(random.below(6)).max(1) + random.below(2);
                Record::PurgeTo { group: id, index }
            }
            88..90 if id != 9 => Record::Forget { group: id },
            _ => Record::Meta { group: id, key: random.below(4) as u8, value: random.bytes(40) },
        }
    }
}

/// Whether `found` is what the first so many of `records` make of `model`.
pub fn is_prefix(model: &Model, records: &[Record], found: &Model) -> bool {
    let mut at = model.clone();
    if at == *found {
        return true;
    }
    for record in records {
        at.apply(record);
        if at == *found {
            return true;
        }
    }
    false
}
