//! Between the Raft library and the machine's thread: committed entries in, answers out.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::error::Fatal;
use crate::figures::Figures;
use crate::machine::Machine;
use crate::propose::Waiters;
use crate::raft::{Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, count, count_of};
use crate::spool::{Body, Spool};
use crate::thread::Thread;
use crate::wire::Position;

/// So many entries, or bytes of requests, go to the machine's thread at once.
const CHUNK_ENTRIES: usize = 64;
const CHUNK_BYTES: usize = 4 << 20;

/// How far this node's machine is. Shared with whoever waits for it.
pub(crate) struct Progress {
    applied: watch::Sender<u64>,
    state: Mutex<State>,
    /// Bytes of requests applied since the last persist; rings when they are many.
    pub(crate) many: Notify,
    persist_bytes: u64,
}

#[derive(Default)]
struct State {
    position: Position,
    durable: Position,
    unsaved: u64,
}

impl Progress {
    pub(crate) fn new(position: Position, persist_bytes: u64) -> Self {
        let applied = watch::Sender::new(count_of(position.last.as_ref()));
        let state = State { durable: position.clone(), position, unsaved: 0 };
        Self { applied, state: Mutex::new(state), many: Notify::new(), persist_bytes }
    }

    /// The count of applied entries.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// The count of entries whose effect is durable.
    pub(crate) fn persisted(&self) -> u64 {
        count_of(self.state.lock().durable.last.as_ref())
    }

    /// Waits until so many entries are applied.
    pub(crate) async fn reached(&self, index: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = applied.wait_for(|applied| *applied >= index).await;
    }

    /// The machine has made this position durable.
    pub(crate) fn persist(&self, durable: Position) {
        let mut state = self.state.lock();
        if durable.last >= state.durable.last {
            state.durable = durable;
        }
    }

    fn set(&self, last: LogId, members: Option<StoredMembership>, bytes: u64) {
        let mut state = self.state.lock();
        state.position.last = Some(last);
        if let Some(members) = members {
            state.position.members = members;
        }
        state.unsaved += bytes;
        let ring = state.unsaved >= self.persist_bytes;
        if ring {
            state.unsaved = 0;
        }
        drop(state);
        self.applied.send_replace(count(&last));
        if ring {
            self.many.notify_one();
        }
    }

    fn set_installed(&self, position: Position) {
        let applied = count_of(position.last.as_ref());
        let mut state = self.state.lock();
        state.durable = position.clone();
        state.position = position;
        drop(state);
        self.applied.send_replace(applied);
    }
}

/// The state machine as the Raft library sees it.
pub(crate) struct Apply<M: Machine> {
    pub(crate) thread: Thread<M>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) waiters: Arc<Waiters<M::Response>>,
    pub(crate) spool: Spool,
    pub(crate) figures: Arc<Figures>,
}

fn io_error(e: Fatal) -> io::Error {
    io::Error::other(e)
}

impl<M: Machine> Apply<M> {
    async fn apply_chunk(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        let entries = std::mem::take(&mut chunk.entries);
        let Some(last) = entries.last().map(|e| e.id) else { return Ok(()) };
        let members = entries.iter().rev().find_map(|e| match &e.payload {
            EntryPayload::Membership(m) => Some(StoredMembership::new(Some(e.id), m.clone())),
            _ => None,
        });
        let measured = self.figures.apply.start_timer();
        let answers = self.thread.apply(entries).await.map_err(io_error)?;
        measured.observe_duration();
        self.progress.set(last, members, std::mem::take(&mut chunk.bytes) as u64);
        for (sequence, responses) in answers {
            self.waiters.answer(sequence, responses);
        }
        for responder in chunk.responders.drain(..) {
            responder.send(());
        }
        Ok(())
    }
}

#[derive(Default)]
struct Chunk {
    entries: Vec<Entry>,
    responders: Vec<openraft::storage::ApplyResponder<Types>>,
    bytes: usize,
}

impl<M: Machine> RaftStateMachine<Types> for Apply<M> {
    type SnapshotData = Body;
    type SnapshotBuilder = Durable;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let state = self.progress.state.lock();
        Ok((state.position.last, state.position.members.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunk = Chunk::default();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if let EntryPayload::Normal(proposal) = &entry.payload {
                chunk.bytes += proposal.bytes();
            }
            chunk.entries.push(entry);
            chunk.responders.extend(responder);
            if chunk.entries.len() >= CHUNK_ENTRIES || chunk.bytes >= CHUNK_BYTES {
                self.apply_chunk(&mut chunk).await?;
            }
        }
        self.apply_chunk(&mut chunk).await
    }

    async fn get_snapshot_builder(&mut self) -> Durable {
        Durable { progress: self.progress.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Body,
    ) -> Result<(), io::Error> {
        let Body::File(part) = snapshot else {
            return Err(io::Error::other("only a received snapshot can be installed"));
        };
        tracing::info!(last = ?meta.last_log_id, "installing a snapshot");
        let position = self.thread.install(self.spool.clone(), part).await.map_err(io_error)?;
        self.progress.set_installed(position);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if self.progress.state.lock().position.last.is_none() {
            return Ok(None);
        }
        let (position, view) = self.thread.view().await.map_err(io_error)?;
        Ok(Some(Snapshot { meta: meta(&position), snapshot: Body::View(view) }))
    }
}

fn meta(position: &Position) -> SnapshotMeta {
    SnapshotMeta { last_log_id: position.last, last_membership: position.members.clone() }
}

/// The library's "snapshot" of this node is the engine itself, up to what is durable. Building one
/// only reports that position, so that the log may be cut below it.
pub(crate) struct Durable {
    progress: Arc<Progress>,
}

impl RaftSnapshotBuilder<Types> for Durable {
    type SnapshotData = Body;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let durable = self.progress.state.lock().durable.clone();
        Ok(Snapshot { meta: meta(&durable), snapshot: Body::Nothing })
    }
}
