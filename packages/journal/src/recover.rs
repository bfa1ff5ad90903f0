//! What a folder's files say was written: run once, at open.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::format::{FORMAT, Header, HeaderPage, PAGE, Written, align};
use crate::segment::{
    Frame, Spare, failed, find_later, is_unfinished, number_of, read_frame, read_header,
};
use crate::state::{Place, Segment, State};
use crate::writer::Current;
use crate::{GroupId, JournalError, Options, Record};

/// The journal as it was found.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) current: Option<Current>,
    pub(crate) spares: Vec<Spare>,
    pub(crate) floor: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_batch: u64,
    pub(crate) next_name: u64,
}

struct Found {
    name: String,
    file: Arc<dyn DiskFile>,
    header: Header,
}

impl Found {
    fn corrupt(&self, offset: u64, what: impl Into<String>) -> JournalError {
        JournalError::Corrupt { file: self.name.clone(), offset, what: what.into() }
    }
}

/// Reads all segments. A torn tail is left out; other damage is an error. When this returns, what
/// it found is durable.
pub(crate) fn recover(disk: &dyn Disk, options: &Options) -> Result<Recovered, JournalError> {
    let mut spares = Vec::new();
    let (mut found, next_name) = survey(disk, options, &mut spares)?;
    let Some(last) = found.last_key_value().map(|(_, last)| last) else {
        let state = State::new(options.cache_bytes);
        return Ok(Recovered {
            state,
            current: None,
            spares,
            floor: 1,
            next_sequence: 1,
            next_batch: 1,
            next_name,
        });
    };
    let (last_sequence, floor) = (last.header.sequence, floor_in(last)?);
    if floor > last_sequence {
        return Err(last.corrupt(0, format!("its floor {floor} is above its sequence")));
    }
    let live = found.split_off(&floor);
    let mut replay = Replay::default();
    let mut batch = live.first_key_value().map_or(1, |(_, first)| first.header.first_batch);
    let mut end = PAGE;
    let mut tail: Option<Frame> = None;
    let mut previous: Option<&Found> = None;
    for (expected, (sequence, segment)) in (floor..).zip(&live) {
        if *sequence != expected {
            return Err(segment.corrupt(0, format!("the segment {expected} before it is missing")));
        }
        if segment.header.first_batch != batch {
            let (damaged, at) = previous.map_or((segment, 0), |previous| (previous, end));
            let what = format!("batch {batch} is missing, but later ones were written");
            return Err(damaged.corrupt(at, what));
        }
        check_length(segment)?;
        (end, tail) = (PAGE, None);
        while let Some(frame) = segment.frame(end, batch)? {
            replay.frame(segment, &frame)?;
            end = align(frame.end(), crate::format::ALIGN);
            batch = frame.batch + 1;
            tail = Some(frame);
        }
        previous = Some(segment);
    }
    let Some((_, last)) = live.last_key_value() else {
        return Err(JournalError::Corrupt {
            file: format!("segment {last_sequence}"),
            offset: 0,
            what: "it is missing".into(),
        });
    };
    if let Some(later) = find_later(&*last.file, &last.name, &last.header, end, batch)? {
        let what = format!("batch {batch} is missing, but a later one stands at byte {later}");
        return Err(last.corrupt(end, what));
    }
    make_durable(last, tail.as_ref())?;
    // Only now: the floor that frees them may not have been durable.
    for (_, free) in found {
        let spare = Spare { name: free.name, file: free.file, capacity: free.header.capacity };
        keep_or_remove(disk, options, &mut spares, spare)?;
    }

    let current = Current {
        header: last.header,
        name: last.name.clone(),
        file: Arc::clone(&last.file),
        pos: end,
        header_written: true,
    };
    let mut state = State::new(options.cache_bytes);
    for (sequence, segment) in live {
        let Found { name, file, header } = segment;
        state.segments.insert(sequence, Segment::new(name, file, header.capacity));
    }
    replay.into_state(&mut state)?;
    Ok(Recovered {
        state,
        current: Some(current),
        spares,
        floor,
        next_sequence: last_sequence + 1,
        next_batch: batch,
        next_name,
    })
}

/// Opens all files: those with a header by sequence number, the blank ones as spares.
fn survey(
    disk: &dyn Disk,
    options: &Options,
    spares: &mut Vec<Spare>,
) -> Result<(BTreeMap<u64, Found>, u64), JournalError> {
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    let mut next_name = 1;
    // A killed process may have made files whose names are not durable yet.
    disk.sync_dir().map_err(failed("sync", "folder"))?;
    let mut names = disk.list().map_err(failed("list", "folder"))?;
    names.sort_unstable();
    for name in names {
        if is_unfinished(&name) {
            disk.remove(&name).map_err(failed("remove", &name))?;
        }
        let Some(number) = number_of(&name) else { continue };
        next_name = next_name.max(number.saturating_add(1));
        let file = disk.open(&name).map_err(failed("open", &name))?;
        let len = file.len().map_err(failed("read", &name))?;
        if len < 2 * PAGE || !len.is_multiple_of(PAGE) {
            let what = "the file was cut".into();
            return Err(JournalError::Corrupt { file: name, offset: len, what });
        }
        match read_header(&*file, &name)? {
            HeaderPage::Blank => {
                keep_or_remove(disk, options, spares, Spare { name, file, capacity: len })?;
            }
            HeaderPage::Valid(header) => {
                let segment = Found { name, file, header };
                let sequence = header.sequence;
                if let Some(twin) = found.get(&sequence) {
                    let what = format!("it has the sequence {sequence} of {}", twin.name);
                    return Err(segment.corrupt(0, what));
                }
                found.insert(sequence, segment);
            }
            HeaderPage::Foreign(found) => {
                return Err(JournalError::Version { file: name, found, known: FORMAT });
            }
            HeaderPage::Damaged => {
                let what = "its header is damaged".into();
                return Err(JournalError::Corrupt { file: name, offset: 0, what });
            }
        }
    }
    Ok((found, next_name))
}

fn keep_or_remove(
    disk: &dyn Disk,
    options: &Options,
    spares: &mut Vec<Spare>,
    spare: Spare,
) -> Result<(), JournalError> {
    let len = spare.file.len().map_err(failed("read", &spare.name))?;
    let fits = spare.capacity == options.segment_bytes && len == spare.capacity;
    if fits && spares.len() < options.spares {
        spares.push(spare);
        return Ok(());
    }
    disk.remove(&spare.name).map_err(failed("remove", &spare.name))
}

/// The floor as of the end of the last segment.
fn floor_in(last: &Found) -> Result<u64, JournalError> {
    let mut floor = last.header.floor;
    let (mut at, mut batch) = (PAGE, last.header.first_batch);
    while let Some(frame) = last.frame(at, batch)? {
        for written in records(last, &frame) {
            if let (Written::Floor(raised), _) = written? {
                floor = floor.max(raised);
            }
        }
        at = align(frame.end(), crate::format::ALIGN);
        batch += 1;
    }
    Ok(floor)
}

fn check_length(segment: &Found) -> Result<(), JournalError> {
    let len = segment.file.len().map_err(failed("read", &segment.name))?;
    if len < segment.header.capacity {
        let what = format!("the file was cut: it had {} bytes", segment.header.capacity);
        return Err(segment.corrupt(len, what));
    }
    Ok(())
}

impl Found {
    fn frame(&self, at: u64, batch: u64) -> Result<Option<Frame>, JournalError> {
        read_frame(&*self.file, &self.name, &self.header, at, batch)
    }
}

/// Writes the last frame again and syncs it. A process before this one may have been killed, or
/// have had its sync refused, while the bytes were only in memory.
fn make_durable(last: &Found, tail: Option<&Frame>) -> Result<(), JournalError> {
    let (from, to) = match tail {
        Some(frame) if frame.start > PAGE => (frame.start, frame.end()),
        Some(frame) => (0, frame.end()),
        None => (0, PAGE),
    };
    let mut bytes = vec![0; (to - from) as usize];
    last.file.read_at(&mut bytes, from).map_err(failed("read", &last.name))?;
    last.file.write_at(&bytes, from).map_err(failed("write", &last.name))?;
    last.file.sync_data().map_err(failed("sync", &last.name))
}

/// The records of a frame, with their places.
fn records<'a>(
    segment: &'a Found,
    frame: &'a Frame,
) -> impl Iterator<Item = Result<(Written, Place), JournalError>> + 'a {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= frame.body.len() {
            return None;
        }
        let read = Written::decode(&frame.body, at);
        Some(match read {
            Ok((written, start, crc)) => {
                let len = written.payload_len();
                at = start + len;
                let offset = frame.body_start() + start as u64;
                let segment = segment.header.sequence;
                Ok((written, Place { segment, offset, len: len as u32, crc }))
            }
            Err(what) => {
                let place = frame.body_start() + at as u64;
                at = frame.body.len();
                Err(segment.corrupt(place, what))
            }
        })
    })
}

/// The groups as the records make them. Entries that were moved may come before or after others
/// of higher index, so holes are looked for at the end only.
#[derive(Default)]
struct Replay {
    groups: HashMap<GroupId, Replayed>,
}

#[derive(Default)]
struct Replayed {
    entries: BTreeMap<u64, Place>,
    purged: Option<u64>,
    meta: BTreeMap<u8, Bytes>,
    home: Option<u64>,
}

impl Replay {
    fn frame(&mut self, segment: &Found, frame: &Frame) -> Result<(), JournalError> {
        for written in records(segment, frame) {
            let (written, place) = written?;
            match written {
                Written::Record(record) => self.record(record, place),
                Written::Moved { group, index, .. } => {
                    self.groups.entry(group).or_default().entries.insert(index, place);
                }
                Written::Floor(_) => {}
            }
        }
        Ok(())
    }

    fn record(&mut self, record: Record, place: Place) {
        let group = self.groups.entry(record.group()).or_default();
        match record {
            Record::Entry { index, .. } => {
                group.entries.split_off(&index);
                group.entries.insert(index, place);
            }
            Record::TruncateAfter { index, .. } => {
                if let Some(from) = index.checked_add(1) {
                    group.entries.split_off(&from);
                }
            }
            Record::PurgeTo { index, .. } => {
                group.entries = match index.checked_add(1) {
                    Some(from) => group.entries.split_off(&from),
                    None => BTreeMap::new(),
                };
                group.purged = group.purged.max(Some(index));
                group.home.get_or_insert(place.segment);
            }
            Record::Meta { key, value, .. } => {
                // A copy, so that a small value does not keep its whole frame in memory.
                group.meta.insert(key, Bytes::copy_from_slice(&value));
                group.home.get_or_insert(place.segment);
            }
            Record::Forget { group } => {
                self.groups.remove(&group);
            }
        }
    }

    fn into_state(self, state: &mut State) -> Result<(), JournalError> {
        for (id, group) in self.groups {
            let mut next = group.entries.first_key_value().map(|(first, _)| *first);
            for (index, place) in &group.entries {
                if next != Some(*index) {
                    let file = state.segments.get(&place.segment).map(|found| found.name.clone());
                    return Err(JournalError::Corrupt {
                        file: file.unwrap_or_default(),
                        offset: place.offset,
                        what: format!("group {id}: the entries before {index} are missing"),
                    });
                }
                next = index.checked_add(1);
            }
            state.restore(id, group.entries, group.purged, group.meta, group.home);
        }
        Ok(())
    }
}
