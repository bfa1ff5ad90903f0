//! The one thread that writes: takes whatever is queued, writes it as one frame, syncs it, then
//! tells the callers. It also frees old segments, within the same frames.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::carry::{Cursor, Plan};
use crate::disk::{Disk, DiskFile};
use crate::format::{
    ALIGN, FRAME_HEADER, FrameHeader, Header, PAGE, RECORD_HEADER, Written, align, body_crc,
};
use crate::journal::{Call, Done, Shared};
use crate::recover::Recovered;
use crate::segment::{Spare, failed, make, name_of};
use crate::state::{Place, Segment};
use crate::{GroupId, JournalError, Options, Record};

/// The segment that is being written.
pub(crate) struct Current {
    pub(crate) header: Header,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next frame begins.
    pub(crate) pos: u64,
    /// The header goes out with the first frame.
    pub(crate) header_written: bool,
}

impl Current {
    /// How long the next frame's body can be.
    fn room(&self) -> usize {
        self.header.capacity.saturating_sub(self.pos + FRAME_HEADER as u64) as usize
    }
}

/// The longest record that every segment can take.
pub(crate) fn largest_record(segment_bytes: u64) -> usize {
    ((segment_bytes - PAGE) / 2) as usize - FRAME_HEADER - RECORD_HEADER
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    options: Options,
    current: Option<Current>,
    spares: Vec<Spare>,
    preparing: Option<JoinHandle<Result<Spare, JournalError>>>,
    floor: u64,
    next_sequence: u64,
    next_batch: u64,
    next_name: u64,
    cursor: Cursor,
    buffer: Vec<u8>,
    /// There is something to carry forward, also if nobody appends.
    more: bool,
}

/// A frame that is being filled.
#[derive(Default)]
struct Filling {
    body: Vec<u8>,
    marks: Vec<Mark>,
    records: u64,
    carried: u64,
    last_ticket: Option<u64>,
    done: Vec<Done>,
}

/// What to tell the index once the frame is durable.
enum Mark {
    Entry { group: GroupId, index: u64, ticket: u64, at: usize, len: u32, crc: u32 },
    Home { group: GroupId, moved: bool },
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        options: Options,
        found: Recovered,
    ) -> Writer {
        shared.inner.lock().state = found.state;
        Writer {
            shared,
            disk,
            options,
            current: found.current,
            spares: found.spares,
            preparing: None,
            floor: found.floor,
            next_sequence: found.next_sequence,
            next_batch: found.next_batch,
            next_name: found.next_name,
            cursor: Cursor::default(),
            buffer: Vec::new(),
            more: false,
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Writes until the journal is closed or fails.
    pub(crate) fn run(mut self) {
        while self.turn(true) {}
        if let Some(preparing) = self.preparing.take() {
            let _ = preparing.join();
        }
    }

    /// Writes what there is to write now; whether there was anything.
    pub(crate) fn step(&mut self) -> bool {
        self.turn(false)
    }

    fn turn(&mut self, wait: bool) -> bool {
        self.prepare();
        let Some((calls, plan)) = self.next(wait) else { return false };
        self.more = plan.more;
        let mut waiting: Vec<Done> = Vec::new();
        if let Err(error) = self.write(calls, plan, &mut waiting) {
            self.more = false;
            self.shared.fail(Arc::new(error), waiting);
            return false;
        }
        true
    }

    /// Takes what is to be done, or waits for it. What it decides about old segments is true for the log that ends with
    /// these calls, so it decides nothing while more are queued.
    fn next(&mut self, wait: bool) -> Option<(Vec<Call>, Plan)> {
        let mut inner = self.shared.inner.lock();
        while inner.queue.is_empty() && !self.more {
            if inner.closing || !wait {
                return None;
            }
            self.shared.wake.wait(&mut inner);
        }
        if inner.closing && inner.queue.is_empty() {
            return None;
        }
        let mut calls = Vec::new();
        let mut bytes = 0;
        while let Some(call) = inner.queue.front() {
            bytes += call.bytes;
            if bytes > self.options.batch_bytes && !calls.is_empty() {
                break;
            }
            calls.extend(inner.queue.pop_front());
        }
        let plan = if inner.queue.is_empty() {
            let current = self.current.as_ref().map(|current| current.header.sequence);
            self.cursor.plan(&inner.state, current, self.floor)
        } else {
            Plan::default()
        };
        Some((calls, plan))
    }

    /// Makes calls and plan durable. On an error the calls that were not told are in `waiting`.
    fn write(
        &mut self,
        calls: Vec<Call>,
        plan: Plan,
        waiting: &mut Vec<Done>,
    ) -> Result<(), JournalError> {
        let mut calls = calls.into_iter();
        let mut filling = Filling::default();
        let mut result = Ok(());
        for call in calls.by_ref() {
            let Call { records, first_ticket, bytes, done } = call;
            result = self.write_call(&records, first_ticket, bytes, &mut filling);
            filling.done.push(done);
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            result = self.write_plan(plan, &mut filling);
        }
        if result.is_err() {
            waiting.append(&mut filling.done);
            waiting.extend(calls.map(|call| call.done));
        }
        result
    }

    fn write_call(
        &mut self,
        records: &[Record],
        first_ticket: u64,
        bytes: usize,
        filling: &mut Filling,
    ) -> Result<(), JournalError> {
        // A call stays in one frame if a segment can hold it at all.
        let whole = (self.options.segment_bytes - PAGE) as usize - FRAME_HEADER;
        if bytes <= whole {
            self.make_room(bytes, filling)?;
        }
        for (ticket, record) in (first_ticket..).zip(records) {
            let mark = match record {
                Record::Entry { group, index, .. } => Some(Mark::Entry {
                    group: *group,
                    index: *index,
                    ticket,
                    at: 0,
                    len: 0,
                    crc: 0,
                }),
                Record::PurgeTo { group, .. } | Record::Meta { group, .. } => {
                    Some(Mark::Home { group: *group, moved: false })
                }
                Record::TruncateAfter { .. } | Record::Forget { .. } => None,
            };
            self.put(&Written::Record(record.clone()), mark, filling)?;
            filling.last_ticket = Some(ticket);
        }
        Ok(())
    }

    fn write_plan(&mut self, plan: Plan, filling: &mut Filling) -> Result<(), JournalError> {
        for moved in plan.moves {
            let payload = match moved.payload {
                Some(payload) => payload,
                None => self.shared.fetch(moved.group, moved.index, &moved.place)?,
            };
            let (group, index, ticket) = (moved.group, moved.index, moved.ticket);
            let mark = Mark::Entry { group, index, ticket, at: 0, len: 0, crc: 0 };
            self.put(&Written::Moved { group, index, payload }, Some(mark), filling)?;
            filling.carried += 1;
        }
        for (group, records) in plan.homes {
            for (at, record) in records.into_iter().enumerate() {
                // The first stands in the oldest of the segments that they may spread over.
                let mark = (at == 0).then_some(Mark::Home { group, moved: true });
                self.put(&Written::Record(record), mark, filling)?;
                filling.carried += 1;
            }
        }
        if let Some(floor) = plan.floor {
            self.put(&Written::Floor(floor), None, filling)?;
        }
        self.flush(filling)?;
        if let Some(floor) = plan.floor {
            self.free_below(floor);
        }
        Ok(())
    }

    fn put(
        &mut self,
        written: &Written,
        mark: Option<Mark>,
        filling: &mut Filling,
    ) -> Result<(), JournalError> {
        self.make_room(written.encoded_len(), filling)?;
        let start = filling.body.len() + RECORD_HEADER;
        let crc = written.encode(&mut filling.body);
        filling.records += 1;
        filling.marks.extend(mark.map(|mark| match mark {
            Mark::Entry { group, index, ticket, .. } => {
                let len = (filling.body.len() - start) as u32;
                Mark::Entry { group, index, ticket, at: start, len, crc }
            }
            home => home,
        }));
        Ok(())
    }

    /// Sees to it that so many bytes fit into the frame, by ending frame and segment if need be.
    fn make_room(&mut self, bytes: usize, filling: &mut Filling) -> Result<(), JournalError> {
        let room = self.current.as_ref().map_or(0, Current::room);
        if filling.body.len() + bytes <= room {
            return Ok(());
        }
        self.flush(filling)?;
        if self.current.as_ref().map_or(0, Current::room) < bytes {
            self.roll()?;
        }
        Ok(())
    }

    /// Writes the frame, syncs it, tells the index and the callers.
    fn flush(&mut self, filling: &mut Filling) -> Result<(), JournalError> {
        if filling.body.is_empty() {
            // Calls without records wait only for those before them.
            filling.done.drain(..).for_each(|done| done(Ok(())));
            return Ok(());
        }
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        let header = current.header;
        let frame = FrameHeader {
            batch: self.next_batch,
            body_len: filling.body.len() as u32,
            body_crc: body_crc(&filling.body, header.salt),
        };
        let offset = if current.header_written { current.pos } else { 0 };
        self.buffer.clear();
        if !current.header_written {
            self.buffer.extend_from_slice(&header.encode());
            self.buffer.resize(PAGE as usize, 0);
        }
        self.buffer.extend_from_slice(&frame.encode(&header));
        self.buffer.extend_from_slice(&filling.body);
        let end = offset + self.buffer.len() as u64;
        self.buffer.resize((align(end, PAGE) - offset) as usize, 0);
        let started = Instant::now();
        current.file.write_at(&self.buffer, offset).map_err(failed("write", &current.name))?;
        current.file.sync_data().map_err(failed("sync", &current.name))?;
        let micros = started.elapsed().as_micros() as u64;
        let body_start = current.pos + FRAME_HEADER as u64;
        current.header_written = true;
        current.pos = align(end, ALIGN);
        self.next_batch += 1;
        let filled = std::mem::take(filling);
        let mut inner = self.shared.inner.lock();
        for mark in filled.marks {
            match mark {
                Mark::Entry { group, index, ticket, at, len, crc } => {
                    let offset = body_start + at as u64;
                    let place = Place { segment: header.sequence, offset, len, crc };
                    inner.state.settle(group, index, ticket, place);
                }
                Mark::Home { group, moved } => {
                    inner.state.settle_home(group, header.sequence, moved);
                }
            }
        }
        if let Some(ticket) = filled.last_ticket {
            inner.state.synced(ticket);
        }
        inner.stats.synced(micros);
        inner.stats.bytes += self.buffer.len() as u64;
        inner.stats.records += filled.records;
        inner.stats.carried += filled.carried;
        drop(inner);
        for done in filled.done {
            done(Ok(()));
        }
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Ends the segment and goes on in another.
    fn roll(&mut self) -> Result<(), JournalError> {
        let spare = match self.spares.pop() {
            Some(spare) => spare,
            None => self.make()?,
        };
        let header = Header {
            sequence: self.next_sequence,
            salt: RandomState::new().hash_one(self.next_sequence),
            first_batch: self.next_batch,
            floor: self.floor,
            capacity: spare.capacity,
        };
        self.next_sequence += 1;
        let Spare { name, file, capacity } = spare;
        let segment = Segment::new(name.clone(), Arc::clone(&file), capacity);
        self.shared.inner.lock().state.segments.insert(header.sequence, segment);
        self.current = Some(Current { header, name, file, pos: PAGE, header_written: false });
        Ok(())
    }

    fn make(&mut self) -> Result<Spare, JournalError> {
        if let Some(preparing) = self.preparing.take() {
            match preparing.join() {
                Ok(Ok(spare)) => return Ok(spare),
                // Perhaps there is room by now; if not, this says why.
                Ok(Err(error)) => tracing::debug!(%error, "next segment could not be prepared"),
                Err(_) => tracing::debug!("the thread that prepared the next segment died"),
            }
        }
        let name = self.fresh_name();
        make(&*self.disk, name, self.options.segment_bytes)
    }

    fn fresh_name(&mut self) -> String {
        self.next_name += 1;
        name_of(self.next_name - 1)
    }

    /// Makes the next segment on another thread when the current one is half full.
    fn prepare(&mut self) {
        let full =
            self.current.as_ref().is_none_or(|current| current.pos > current.header.capacity / 2);
        if !self.options.prepare_ahead
            || !full
            || !self.spares.is_empty()
            || self.preparing.is_some()
        {
            return;
        }
        let (disk, name) = (Arc::clone(&self.disk), self.fresh_name());
        let bytes = self.options.segment_bytes;
        self.preparing = std::thread::Builder::new()
            .name("journal-prepare".into())
            .spawn(move || make(&*disk, name, bytes))
            .ok();
    }

    /// The floor is durable: what is below it can be used again.
    fn free_below(&mut self, floor: u64) {
        self.floor = floor;
        let free: Vec<Segment> = {
            let mut inner = self.shared.inner.lock();
            let live = inner.state.segments.split_off(&floor);
            std::mem::replace(&mut inner.state.segments, live).into_values().collect()
        };
        for Segment { name, file, capacity, .. } in free {
            if capacity == self.options.segment_bytes && self.spares.len() < self.options.spares {
                self.spares.push(Spare { name, file, capacity });
            } else if let Err(error) = self.disk.remove(&name) {
                tracing::warn!(%name, %error, "unused journal segment could not be removed");
            }
        }
    }
}
