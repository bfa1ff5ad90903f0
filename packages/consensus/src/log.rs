//! Raft's log over the journal: entries in our encoding, vote and positions beside them.
//!
//! The journal counts from 1 and the library from 0: an entry's place in the journal is its
//! index + 1. Everything that is appended goes through one queue, so a vote is never reordered
//! against entries. The committed position rides along with the next append and costs no sync.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, stream};
use journal::{GroupId, Journal, JournalError, Record};
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::ConsensusError;
use crate::raft::{Entry, LogId, Types, Vote};
use crate::threads;
use crate::types::NodeId;
use crate::wire;

const VOTE: u8 = 1;
const COMMITTED: u8 = 2;
const PURGED: u8 = 3;
const NODE: u8 = 4;
const MEMBER: u8 = 5;

/// How much is read from the journal at once, on the way to a peer or to the machine.
pub(crate) const READ_BYTES: usize = 1 << 20;

#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Journal,
    group: GroupId,
    state: Mutex<State>,
    /// Bytes of entries appended in this life.
    appended: AtomicU64,
}

#[derive(Default)]
struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Set by `save_committed`, taken by the next append.
    committed: Option<LogId>,
    /// This node has been a member of the group.
    member: bool,
}

fn journal_error(e: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(e)
}

/// Entries as they lie in the journal.
fn decode(found: Vec<(u64, Bytes)>) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(found.len());
    for (place, bytes) in found {
        let entry = wire::decode_entry(bytes).map_err(journal_error)?;
        if entry.id.index + 1 != place {
            return Err(io::Error::other(format!(
                "entry {} lies at place {place} of the journal",
                entry.id
            )));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Waits until an append is durable.
async fn durable(done: oneshot::Receiver<Result<(), Arc<JournalError>>>) -> io::Result<()> {
    match done.await {
        Ok(result) => result.map_err(journal_error),
        Err(_) => Err(io::Error::other("the journal is closed")),
    }
}

impl Log {
    /// Opens the log of a group; a new one is marked as this node's. `applied` says whether the
    /// machine has state: then the log cannot be new, or votes would be forgotten.
    pub(crate) fn open(
        journal: Journal,
        group: GroupId,
        me: NodeId,
        applied: bool,
    ) -> Result<Self, ConsensusError> {
        let storage = |what: String| ConsensusError::Storage(what);
        match Self::owner(&journal, group)? {
            Some(stored) if stored == me => {}
            Some(stored) => return Err(ConsensusError::WrongNode { group, stored, asked: me }),
            None if applied => {
                return Err(storage(format!(
                    "group {group}: the machine has state, but the journal has none"
                )));
            }
            None => {
                let value = Bytes::copy_from_slice(&me.to_be_bytes());
                journal
                    .append_wait(vec![Record::Meta { group, key: NODE, value }])
                    .map_err(|e| storage(e.to_string()))?;
            }
        }
        let damaged = |e: wire::Malformed| storage(format!("group {group}: {e}"));
        let vote = journal.meta(group, VOTE).map(wire::decode_vote).transpose();
        let purged = journal.meta(group, PURGED).map(wire::decode_log_id).transpose();
        let (vote, purged) = (vote.map_err(damaged)?, purged.map_err(damaged)?);

        // PURGED is written before the cut: after a crash in between the cut is done again.
        let purged_to = crate::raft::count_of(purged.as_ref());
        if journal.span(group).is_some_and(|(first, _)| first <= purged_to) {
            journal.append(vec![Record::PurgeTo { group, index: purged_to }], |_| {});
        }
        let member = journal.meta(group, MEMBER).is_some();
        let state = State { vote, purged, last: purged, committed: None, member };
        let (state, appended) = (Mutex::new(state), AtomicU64::new(0));
        let log = Self { shared: Arc::new(Shared { journal, group, state, appended }) };
        if let Some((_, last)) = log.shared.journal.span(group)
            && last > purged_to
        {
            let entry = log.read(last - 1, last, usize::MAX).map_err(|e| storage(e.to_string()))?;
            let last = entry.last().map(|e| e.id);
            let last = last.ok_or_else(|| storage(format!("group {group}: no last entry")))?;
            log.shared.state.lock().last = Some(last);
        }
        Ok(log)
    }

    /// The node whose log of the group this is; none if there is no log.
    pub(crate) fn owner(
        journal: &Journal,
        group: GroupId,
    ) -> Result<Option<NodeId>, ConsensusError> {
        let Some(bytes) = journal.meta(group, NODE) else { return Ok(None) };
        let damaged = |_| ConsensusError::Storage(format!("group {group}: damaged node id"));
        let stored: [u8; 8] = bytes[..].try_into().map_err(damaged)?;
        Ok(Some(NodeId::from_be_bytes(stored)))
    }

    /// The last entry, or where the log was cut.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.shared.state.lock().last
    }

    /// Bytes of entries appended since the start.
    pub(crate) fn appended(&self) -> u64 {
        self.shared.appended.load(Ordering::Relaxed)
    }

    /// Whether the journal has failed, for all groups and for good.
    pub(crate) fn failed(&self) -> bool {
        self.shared.journal.failed().is_some()
    }

    /// Whether this node has ever been a member.
    pub(crate) fn was_member(&self) -> bool {
        self.shared.state.lock().member
    }

    /// Remembers that this node is a member.
    pub(crate) fn note_member(&self) {
        let mut state = self.shared.state.lock();
        if !state.member {
            state.member = true;
            let (group, value) = (self.shared.group, Bytes::from_static(&[1]));
            self.shared.journal.append(vec![Record::Meta { group, key: MEMBER, value }], |_| {});
        }
    }

    /// Entries `[from, to)` in the library's counting, as many as fit, but one at least. May wait
    /// for the disk.
    pub(crate) fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let from = self.wanted_from(from);
        if from >= to {
            return Ok(Vec::new());
        }
        let found = self.shared.journal.read(self.shared.group, from + 1, to + 1, max_bytes);
        decode(found.map_err(journal_error)?)
    }

    /// The same for tasks: what is not in memory is read elsewhere.
    async fn fetch(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let first = self.wanted_from(from);
        if first >= to {
            return Ok(Vec::new());
        }
        let (journal, group) = (&self.shared.journal, self.shared.group);
        if let Some(found) = journal.read_cached(group, first + 1, to + 1, max_bytes) {
            return decode(found);
        }
        let log = self.clone();
        let read = threads::blocking(move || log.read(from, to, max_bytes));
        read.await.map_err(io::Error::other)?
    }

    /// Whether the log was cut above this index, in the library's counting.
    pub(crate) fn is_purged(&self, index: u64) -> bool {
        self.wanted_from(index) > index
    }

    /// What is purged is not there any more.
    fn wanted_from(&self, from: u64) -> u64 {
        from.max(crate::raft::count_of(self.shared.state.lock().purged.as_ref()))
    }

    fn range(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let from = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = crate::raft::count_of(self.shared.state.lock().last.as_ref());
        let to = match range.end_bound() {
            Bound::Included(at) => at.saturating_add(1),
            Bound::Excluded(at) => *at,
            Bound::Unbounded => end,
        };
        (from, to.min(end))
    }

    /// The records of an append, the committed position first.
    fn with_committed(&self, records: &mut Vec<Record>) {
        if let Some(id) = self.shared.state.lock().committed.take() {
            let value = wire::encode_log_id(&id);
            records.push(Record::Meta { group: self.shared.group, key: COMMITTED, value });
        }
    }
}

impl RaftLogReader<Types> for Log {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = self.range(&range);
        let state = (self.clone(), from, to, VecDeque::<Entry>::new());
        Box::pin(stream::try_unfold(state, |(log, mut from, to, mut ready)| async move {
            if ready.is_empty() {
                if from >= to {
                    return Ok(None);
                }
                ready = log.fetch(from, to, READ_BYTES).await?.into();
                let last = ready.back().map(|e| e.id.index);
                from = last.ok_or_else(|| io::Error::other(format!("no entry {from}")))? + 1;
            }
            Ok(ready.pop_front().map(|entry| (entry, (log, from, to, ready))))
        }))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (mut from, to) = self.range(&range);
        let mut entries = Vec::new();
        while from < to {
            let more = self.fetch(from, to, READ_BYTES).await?;
            match more.last() {
                Some(last) => from = last.id.index + 1,
                None => break,
            }
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let found = self.fetch(start, end, READ_BYTES).await?;
        // What was purged, even meanwhile, leaves no hole: who wants it gets nothing at all.
        let whole = found.first().is_some_and(|first| first.id.index == start);
        Ok(if whole { found } else { Vec::new() })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state.lock().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let value = wire::encode_vote(vote);
        let mut records = vec![Record::Meta { group: self.shared.group, key: VOTE, value }];
        self.with_committed(&mut records);
        let (done, saved) = oneshot::channel();
        self.shared.journal.append(records, move |result| {
            let _ = done.send(result);
        });
        durable(saved).await?;
        self.shared.state.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.state.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        if let Some(id) = self.shared.state.lock().committed {
            return Ok(Some(id));
        }
        let stored = self.shared.journal.meta(self.shared.group, COMMITTED);
        stored.map(wire::decode_log_id).transpose().map_err(journal_error)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        self.with_committed(&mut records);
        let mut last = None;
        for entry in entries {
            last = Some(entry.id);
            let payload = wire::encode_entry(&entry);
            self.shared.appended.fetch_add(payload.len() as u64, Ordering::Relaxed);
            let (group, index) = (self.shared.group, entry.index() + 1);
            records.push(Record::Entry { group, index, payload });
        }
        let mut state = self.shared.state.lock();
        self.shared.journal.append(records, move |result| {
            callback.io_completed(result.map_err(journal_error));
        });
        if last.is_some() {
            state.last = last;
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        // Waited for: what follows may be applied before it is durable, and a dropped entry that
        // came back after a crash would contradict what the machine has.
        let index = crate::raft::count_of(last.as_ref());
        let (done, dropped) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            if crate::raft::count_of(state.last.as_ref()) <= index {
                return Ok(());
            }
            let record = Record::TruncateAfter { group: self.shared.group, index };
            self.shared.journal.append(vec![record], move |result| {
                let _ = done.send(result);
            });
            state.last = last.max(state.purged);
        }
        durable(dropped).await
    }

    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        let mut state = self.shared.state.lock();
        if state.purged >= Some(id) {
            return Ok(());
        }
        let group = self.shared.group;
        let records = vec![
            Record::Meta { group, key: PURGED, value: wire::encode_log_id(&id) },
            Record::PurgeTo { group, index: crate::raft::count(&id) },
        ];
        self.shared.journal.append(records, |_| {});
        state.purged = Some(id);
        state.last = state.last.max(Some(id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::Options;
    use journal::lossy::LossyDisk;
    use openraft::EntryPayload;

    use crate::raft::LeaderId;

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId { term: 1, node_id: 1 }, index)
    }

    fn open(disk: &LossyDisk) -> (Journal, Log) {
        let options = Options {
            segment_bytes: 1 << 20,
            cache_bytes: 0,
            prepare_ahead: false,
            ..Options::default()
        };
        let journal = Journal::open(Arc::new(disk.clone()), options).unwrap();
        let log = Log::open(journal.clone(), 1, 1, false).unwrap();
        (journal, log)
    }

    async fn filled(disk: &LossyDisk) -> Log {
        let (journal, mut log) = open(disk);
        let entries =
            (0..6).map(|n| Entry { id: id(n), payload: EntryPayload::Blank, encoded: None });
        log.append(entries, IOFlushed::noop()).await.unwrap();
        journal.append_wait(Vec::new()).unwrap();
        log
    }

    #[tokio::test]
    async fn what_is_truncated_does_not_come_back() {
        for seed in 0..20 {
            let disk = LossyDisk::new(seed);
            let mut log = filled(&disk).await;
            log.truncate_after(Some(id(2))).await.unwrap();
            disk.kill();
            drop(log);
            disk.crash();
            let (_, mut log) = open(&disk);
            assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(2)), "seed {seed}");
        }
    }

    #[tokio::test]
    async fn what_is_not_in_memory_is_read_from_the_disk() {
        let disk = LossyDisk::new(1);
        let mut log = filled(&disk).await;
        // The cache holds nothing that is durable.
        assert!(log.shared.journal.read_cached(1, 1, 7, usize::MAX).is_none());
        let entries = log.try_get_log_entries(1..5).await.unwrap();
        assert_eq!(
            entries.iter().map(|e| e.id).collect::<Vec<_>>(),
            (1..5).map(id).collect::<Vec<_>>()
        );
        assert_eq!(log.limited_get_log_entries(0, 6).await.unwrap().len(), 6);
    }
}
