//! What must be written again so that old segments can be freed. Decides only; does no I/O.
//!
//! Segments are freed oldest first. The oldest one is free when none of its entries is wanted and
//! what groups remember beside their entries (what was purged, their values) stands later, too.
//! Few wanted entries of a quiet group would pin it for ever: once most of the log is unwanted,
//! they are written again at its end.

use bytes::Bytes;

use crate::state::{Place, State};
use crate::{GroupId, Record};

/// What to add to the next frame.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) moves: Vec<Move>,
    /// Groups whose values and purge mark are written again, all of them.
    pub(crate) homes: Vec<(GroupId, Vec<Record>)>,
    /// Segments below are free, after this frame.
    pub(crate) floor: Option<u64>,
    /// There will be more to do, also if nobody appends.
    pub(crate) more: bool,
}

/// An entry to write again.
pub(crate) struct Move {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) ticket: u64,
    pub(crate) place: Place,
    pub(crate) payload: Option<Bytes>,
}

/// How many bytes are moved with one frame, so that callers hardly notice.
const MOVE_BYTES: u64 = 256 << 10;

/// The entries of the oldest segment that are still to be moved.
#[derive(Default)]
pub(crate) struct Cursor {
    segment: u64,
    entries: Vec<(GroupId, u64, u64)>,
}

impl Cursor {
    /// What to do, given a log that ends with everything in `state`.
    pub(crate) fn plan(&mut self, state: &State, current: Option<u64>, floor: u64) -> Plan {
        let mut plan = Plan::default();
        let mut free = floor;
        for (sequence, segment) in &state.segments {
            if current.is_none_or(|current| *sequence >= current) {
                break;
            }
            if segment.live_entries > 0 {
                if wasteful(state, free - floor) {
                    self.moves(state, *sequence, &mut plan);
                }
                break;
            }
            if segment.homes > 0 {
                homes(state, *sequence, &mut plan);
            }
            free = sequence + 1;
        }
        plan.floor = (free > floor).then_some(free);
        plan.more = !plan.moves.is_empty();
        plan
    }

    fn moves(&mut self, state: &State, oldest: u64, plan: &mut Plan) {
        if self.segment != oldest {
            self.segment = oldest;
            self.entries = entries_in(state, oldest);
        }
        let mut bytes = 0;
        while bytes < MOVE_BYTES
            && let Some((group, index, ticket)) = self.entries.pop()
        {
            let slot = state.groups.get(&group).and_then(|found| found.slot(index));
            let Some((slot, place)) = slot.and_then(|slot| Some((slot, slot.place?))) else {
                continue;
            };
            if slot.ticket == ticket && place.segment == oldest {
                bytes += place.weight();
                let payload = slot.payload.clone();
                plan.moves.push(Move { group, index, ticket, place, payload });
            }
        }
    }
}

/// Whether the log takes more than twice the room of what is wanted in it. The segments that may
/// be half empty because the next call did not fit are counted in: moving must come to an end.
fn wasteful(state: &State, freed: u64) -> bool {
    let capacity = state.segments.values().map(|segment| segment.capacity).min().unwrap_or(1);
    let wanted = (2 * state.live_bytes()).div_ceil(capacity.max(1)) + 3;
    state.segments.len() as u64 > wanted + freed
}

fn entries_in(state: &State, sequence: u64) -> Vec<(GroupId, u64, u64)> {
    let mut found = Vec::new();
    for (id, group) in &state.groups {
        for (index, slot) in (group.first..).zip(&group.slots) {
            if slot.place.is_some_and(|place| place.segment == sequence) {
                found.push((*id, index, slot.ticket));
            }
        }
    }
    // They are taken from the end.
    found.reverse();
    found
}

fn homes(state: &State, sequence: u64, plan: &mut Plan) {
    for (id, group) in &state.groups {
        if group.home != Some(sequence) {
            continue;
        }
        let purge = group.purged.map(|index| Record::PurgeTo { group: *id, index });
        let meta = group.meta.iter().map(|(key, value)| Record::Meta {
            group: *id,
            key: *key,
            value: value.clone(),
        });
        plan.homes.push((*id, purge.into_iter().chain(meta).collect()));
    }
}
