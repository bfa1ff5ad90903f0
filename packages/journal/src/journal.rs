use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, DiskFile};
use crate::format::{PAGE, RECORD_HEADER, payload_crc};
use crate::recover::recover;
use crate::segment::failed;
use crate::state::{Place, State};
use crate::writer::{Writer, largest_record};
use crate::{GroupId, JournalError, Record};

/// How the journal lays out its files.
#[derive(Debug, Clone)]
pub struct Options {
    /// The size of a segment: a multiple of 4 KiB, from 8 KiB to 1 GiB. A record may have almost
    /// half of it. May change from one open to the next.
    pub segment_bytes: u64,
    /// How many bytes of recent payloads are kept in memory.
    pub cache_bytes: usize,
    /// How many bytes go into one write at most (a single call may be larger).
    pub batch_bytes: usize,
    /// How many unused segments are kept for later.
    pub spares: usize,
    /// Make the next segment while the current one fills, on a thread of its own.
    pub prepare_ahead: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            cache_bytes: 16 << 20,
            batch_bytes: 8 << 20,
            spares: 1,
            prepare_ahead: true,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), JournalError> {
        let bytes = self.segment_bytes;
        if !bytes.is_multiple_of(PAGE) || !(2 * PAGE..=1 << 30).contains(&bytes) {
            let what = format!("segment_bytes = {bytes}: a multiple of 4096, from 8192 to 1 GiB");
            return Err(JournalError::Options(what));
        }
        Ok(())
    }
}

/// Bounds of the durations that [`Stats::sync_counts`] counts, in microseconds.
pub const SYNC_BOUNDS_MICROS: [u64; 14] = [
    125, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000,
    1_024_000,
];

/// What the journal did since it was opened, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Syncs; each made one write durable.
    pub syncs: u64,
    /// Bytes written, with frames and padding.
    pub bytes: u64,
    /// Records written, also those carried forward.
    pub records: u64,
    /// Records carried forward to free old segments.
    pub carried: u64,
    /// How long the last write and sync took.
    pub last_sync_micros: u64,
    /// How long writes with their syncs took, each counted in the first of these that it fits in:
    /// as bounded by [`SYNC_BOUNDS_MICROS`], and one more for those beyond.
    pub sync_counts: [u64; SYNC_BOUNDS_MICROS.len() + 1],
    /// How long they took together.
    pub sync_micros: u64,
    /// Segments in use.
    pub segments: u64,
    /// Bytes that the wanted entries take.
    pub live_bytes: u64,
    /// Calls that wait to be written.
    pub queued: u64,
}

impl Stats {
    pub(crate) fn synced(&mut self, micros: u64) {
        self.syncs += 1;
        self.last_sync_micros = micros;
        self.sync_micros += micros;
        self.sync_counts[SYNC_BOUNDS_MICROS.partition_point(|bound| *bound < micros)] += 1;
    }
}

pub(crate) type Done = Box<dyn FnOnce(Result<(), Arc<JournalError>>) + Send>;

/// A caller's records on their way to the disk.
pub(crate) struct Call {
    pub(crate) records: Vec<Record>,
    pub(crate) first_ticket: u64,
    pub(crate) bytes: usize,
    pub(crate) done: Done,
}

/// What callers and the writer share.
pub(crate) struct Shared {
    pub(crate) inner: Mutex<Inner>,
    pub(crate) wake: Condvar,
    /// Rung instead where nobody waits for `wake`.
    ring: Option<Ring>,
    largest_record: usize,
}

/// Told when there is something to write.
type Ring = Box<dyn Fn() + Send + Sync>;

pub(crate) struct Inner {
    pub(crate) state: State,
    pub(crate) queue: VecDeque<Call>,
    pub(crate) failed: Option<Arc<JournalError>>,
    pub(crate) closing: bool,
    pub(crate) stats: Stats,
}

impl Shared {
    fn ring(&self) {
        match &self.ring {
            None => drop(self.wake.notify_one()),
            Some(ring) => ring(),
        }
    }

    /// From now on everything fails with this error, beginning with what waits.
    pub(crate) fn fail(&self, error: Arc<JournalError>, waiting: Vec<Done>) {
        tracing::error!(code = error.code().0, %error, hint = error.hint(), "journal failed");
        let queue = {
            let mut inner = self.inner.lock();
            inner.failed.get_or_insert_with(|| Arc::clone(&error));
            std::mem::take(&mut inner.queue)
        };
        for done in waiting.into_iter().chain(queue.into_iter().map(|call| call.done)) {
            done(Err(Arc::clone(&error)));
        }
    }

    /// Reads a payload from its segment. Only the writer may call it for a place that is wanted,
    /// others must look again whether it still is.
    pub(crate) fn fetch(
        &self,
        group: GroupId,
        index: u64,
        place: &Place,
    ) -> Result<Bytes, JournalError> {
        let (file, name) = {
            let inner = self.inner.lock();
            let segment = inner.state.segments.get(&place.segment);
            let segment = segment.ok_or_else(|| damaged("?", place, group, index))?;
            (Arc::clone(&segment.file), segment.name.clone())
        };
        let mut bytes = vec![0; place.len as usize];
        file.read_at(&mut bytes, place.offset).map_err(failed("read", &name))?;
        if payload_crc(group, index, &bytes) != place.crc {
            return Err(damaged(&name, place, group, index));
        }
        Ok(bytes.into())
    }
}

fn damaged(file: &str, place: &Place, group: GroupId, index: u64) -> JournalError {
    JournalError::Corrupt {
        file: file.into(),
        offset: place.offset,
        what: format!("entry {index} of group {group} is not what was written"),
    }
}

/// The journal. A clone is another handle to the same one; the last one closes it.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Of a journal without a thread.
    stepped: Option<Mutex<Writer>>,
}

impl Journal {
    /// Opens the journal of a folder, recovering what was written. A torn tail (a write that was
    /// never acknowledged) is left out; any other damage is an error.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Journal, JournalError> {
        let writer = Journal::recover(disk, options, None)?;
        let shared = writer.shared();
        let guard = Guard(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                let _guard = guard;
                writer.run();
            })
            .map_err(|source| JournalError::Io {
                action: "start the writer of",
                file: "folder".into(),
                source,
            })?;
        let thread = Mutex::new(Some(thread));
        Ok(Journal { handle: Arc::new(Handle { shared, thread, stepped: None }) })
    }

    /// The same without a thread, for simulations: `ring` is called when there is something to
    /// write, and it is written by [`Journal::step`], which must not be called from `ring`. The next
    /// segment is not made ahead.
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        options: Options,
        ring: impl Fn() + Send + Sync + 'static,
    ) -> Result<Journal, JournalError> {
        let options = Options { prepare_ahead: false, ..options };
        let writer = Journal::recover(disk, options, Some(Box::new(ring)))?;
        let (shared, thread) = (writer.shared(), Mutex::new(None));
        let stepped = Some(Mutex::new(writer));
        Ok(Journal { handle: Arc::new(Handle { shared, thread, stepped }) })
    }

    /// Writes and syncs once what waits, and tells the callers. Whether there may be more to do;
    /// never where a thread does this.
    pub fn step(&self) -> bool {
        self.handle.stepped.as_ref().is_some_and(|writer| writer.lock().step())
    }

    fn recover(
        disk: Arc<dyn Disk>,
        options: Options,
        ring: Option<Ring>,
    ) -> Result<Writer, JournalError> {
        options.check()?;
        let found = recover(&*disk, &options)?;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                state: State::new(0),
                queue: VecDeque::new(),
                failed: None,
                closing: false,
                stats: Stats::default(),
            }),
            wake: Condvar::new(),
            ring,
            largest_record: largest_record(options.segment_bytes),
        });
        Ok(Writer::new(shared, disk, options, found))
    }

    /// Appends records, all or (at a crash) the first few of them. They are readable at once;
    /// `done` runs when they are durable, on the writer's thread, which it must not hold up.
    /// Whatever waits shares one write and one sync. Never blocks on the disk.
    ///
    /// If a record is refused none is taken, and `done` runs at once, on this thread; so it does
    /// when the journal has failed or is closed.
    pub fn append(
        &self,
        records: Vec<Record>,
        done: impl FnOnce(Result<(), Arc<JournalError>>) + Send + 'static,
    ) {
        let shared = &self.handle.shared;
        let mut inner = shared.inner.lock();
        let taken = match &inner.failed {
            Some(error) => Err(Arc::clone(error)),
            None if inner.closing => Err(Arc::new(JournalError::Closed)),
            None => shared.check(&inner.state, &records).map_err(Arc::new),
        };
        let bytes = match taken {
            Ok(bytes) => bytes,
            Err(error) => {
                drop(inner);
                return done(Err(error));
            }
        };
        let first_ticket = inner.state.take(&records);
        let wake = inner.queue.is_empty();
        inner.queue.push_back(Call { records, first_ticket, bytes, done: Box::new(done) });
        drop(inner);
        if wake {
            shared.ring();
        }
    }

    /// Appends records and waits until they are durable.
    pub fn append_wait(&self, records: Vec<Record>) -> Result<(), Arc<JournalError>> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.append(records, move |result| {
            let _ = sender.send(result);
        });
        while self.step() {}
        receiver.recv().unwrap_or_else(|_| Err(Arc::new(JournalError::Closed)))
    }

    /// Reads the entries of `[from, to_exclusive)` that there are, without a hole, up to
    /// `max_bytes` of payload, but one at least. Recent ones come from memory.
    pub fn read(
        &self,
        group: GroupId,
        from: u64,
        to_exclusive: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, JournalError> {
        let shared = &self.handle.shared;
        let mut found = Vec::new();
        for wanted in shared.look_up(group, from, to_exclusive, max_bytes) {
            match shared.load(group, wanted)? {
                Some(entry) => found.push(entry),
                None => break,
            }
        }
        Ok(found)
    }

    /// The same if all of it is in memory; never waits for the disk.
    pub fn read_cached(
        &self,
        group: GroupId,
        from: u64,
        to_exclusive: u64,
        max_bytes: usize,
    ) -> Option<Vec<(u64, Bytes)>> {
        let wanted = self.handle.shared.look_up(group, from, to_exclusive, max_bytes);
        wanted.into_iter().map(|wanted| Some((wanted.index, wanted.found.ok()?))).collect()
    }

    /// The largest payload of an entry that can be appended.
    pub fn largest_record(&self) -> usize {
        self.handle.shared.largest_record
    }

    /// The first and the last index of a group's entries; `None` when it has none.
    pub fn span(&self, group: GroupId) -> Option<(u64, u64)> {
        self.handle.shared.inner.lock().state.groups.get(&group)?.span()
    }

    /// Up to which index a group was purged; 0 if it never was.
    pub fn purged(&self, group: GroupId) -> u64 {
        let inner = self.handle.shared.inner.lock();
        inner.state.groups.get(&group).and_then(|group| group.purged).unwrap_or(0)
    }

    /// A value beside the entries.
    pub fn meta(&self, group: GroupId, key: u8) -> Option<Bytes> {
        self.handle.shared.inner.lock().state.groups.get(&group)?.meta.get(&key).cloned()
    }

    /// All groups that have anything, in order.
    pub fn groups(&self) -> Vec<GroupId> {
        let inner = self.handle.shared.inner.lock();
        let groups = inner.state.groups.iter();
        let mut ids: Vec<_> =
            groups.filter(|(_, group)| !group.is_empty()).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// The error after which everything fails, for ever: a write or sync that was refused (what
    /// such bytes are is unknown, so it is never tried again), or a full disk.
    pub fn failed(&self) -> Option<Arc<JournalError>> {
        self.handle.shared.inner.lock().failed.clone()
    }

    /// Writes what is queued, then ends. Other handles see a closed journal.
    pub fn close(self) {
        self.handle.close();
    }

    /// What it did and holds.
    pub fn stats(&self) -> Stats {
        let inner = self.handle.shared.inner.lock();
        Stats {
            segments: inner.state.segments.len() as u64,
            live_bytes: inner.state.live_bytes(),
            queued: inner.queue.len() as u64,
            ..inner.stats
        }
    }
}

impl Handle {
    fn close(&self) {
        self.shared.inner.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(writer) = &self.stepped {
            let mut writer = writer.lock();
            while writer.step() {}
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Lets nobody wait for a writer that died by a panic (of a callback).
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = JournalError::Io {
                action: "write",
                file: "folder".into(),
                source: std::io::Error::other("the writer's thread died"),
            };
            self.0.fail(Arc::new(error), Vec::new());
        }
    }
}

/// An entry to read: in memory, or where it was when it was looked up.
struct Wanted {
    index: u64,
    ticket: u64,
    found: Result<Bytes, (Place, Arc<dyn DiskFile>)>,
}

impl Shared {
    /// The bytes that the records take, if they can be taken.
    fn check(&self, state: &State, records: &[Record]) -> Result<usize, JournalError> {
        let mut total = 0;
        for record in records {
            let bytes = record.payload().len();
            let limit = match record {
                Record::Meta { .. } => self.largest_record.min(Record::MAX_META),
                _ => self.largest_record,
            };
            if bytes > limit {
                return Err(JournalError::TooLarge { bytes, limit });
            }
            total += bytes + RECORD_HEADER;
        }
        state.check(records)?;
        Ok(total)
    }

    fn look_up(&self, id: GroupId, from: u64, to: u64, max_bytes: usize) -> Vec<Wanted> {
        let inner = self.inner.lock();
        let mut wanted = Vec::new();
        let Some(group) = inner.state.groups.get(&id) else { return wanted };
        let mut bytes = 0;
        for index in from.max(group.first)..to {
            let Some(slot) = group.slot(index) else { break };
            let found = match (&slot.payload, slot.place) {
                (Some(payload), _) => Ok(payload.clone()),
                (None, Some(place)) => match inner.state.segments.get(&place.segment) {
                    Some(segment) => Err((place, Arc::clone(&segment.file))),
                    None => break,
                },
                (None, None) => break,
            };
            bytes += match &found {
                Ok(payload) => payload.len(),
                Err((place, _)) => place.len as usize,
            };
            if bytes > max_bytes && !wanted.is_empty() {
                break;
            }
            wanted.push(Wanted { index, ticket: slot.ticket, found });
        }
        wanted
    }

    /// Reads what was looked up. Its segment may have been recycled meanwhile; then the entry is
    /// looked up again, and is `None` if it was dropped.
    fn load(&self, id: GroupId, wanted: Wanted) -> Result<Option<(u64, Bytes)>, JournalError> {
        let Wanted { index, ticket, found } = wanted;
        let (mut place, mut file) = match found {
            Ok(payload) => return Ok(Some((index, payload))),
            Err(found) => found,
        };
        loop {
            let mut bytes = vec![0; place.len as usize];
            let read = file.read_at(&mut bytes, place.offset);
            if read.is_ok() && payload_crc(id, index, &bytes) == place.crc {
                return Ok(Some((index, bytes.into())));
            }
            let inner = self.inner.lock();
            let slot = inner.state.groups.get(&id).and_then(|group| group.slot(index));
            let Some(slot) = slot.filter(|slot| slot.ticket == ticket) else { return Ok(None) };
            let Some((now, segment)) =
                slot.place.and_then(|now| Some((now, inner.state.segments.get(&now.segment)?)))
            else {
                return Ok(None);
            };
            if now == place {
                read.map_err(failed("read", &segment.name))?;
                return Err(damaged(&segment.name, &place, id, index));
            }
            (place, file) = (now, Arc::clone(&segment.file));
        }
    }
}
