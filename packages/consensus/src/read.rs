//! Linearizable reads: all that wait share one round with a quorum.
//!
//! A round begins after the reads it serves were asked for, and ends when the leader has heard from
//! a quorum after that. No clock is trusted: a leader that was paused cannot serve a stale read.

use std::sync::Arc;

use api::raft as pb;
use openraft::raft::ReadPolicy;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::ReadError;
use crate::machine::Machine;
use crate::peers::address;
use crate::propose::Patience;
use crate::raft::count;
use crate::shared::Shared;
use crate::types::NodeId;
use crate::unbroken::unbroken;

/// Reads that wait for the next round.
pub(crate) struct Reads {
    waiting: Mutex<Waiting>,
    ring: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Of this node: answered when it has applied so far.
    here: Vec<oneshot::Sender<Result<u64, ReadError>>>,
    /// Of other members: they only want the index; none says that this node does not lead.
    there: Vec<oneshot::Sender<Option<u64>>>,
    since: Option<Instant>,
}

impl Reads {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::default(), ring: Notify::new() }
    }

    pub(crate) fn fail_all(&self, error: &ReadError) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for read in waiting.here {
            let _ = read.send(Err(error.clone()));
        }
    }
}

impl<M: Machine> Shared<M> {
    pub(crate) async fn read_index(&self) -> Result<u64, ReadError> {
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.reads.waiting.lock();
            if waiting.here.len() >= self.options.max_reads {
                return Err(ReadError::TooBusy);
            }
            waiting.here.push(answer);
            waiting.since.get_or_insert_with(Instant::now);
        }
        if let Some(ended) = self.ended() {
            self.reads.fail_all(&ended.read_error());
        }
        self.reads.ring.notify_one();
        receiver.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Serves another member's read, if this node leads.
    pub(crate) async fn serve_read_index(&self) -> pb::ReadIndexResponse {
        use pb::read_index_response::Outcome;
        let refused = |why| Outcome::Refused(self.refusal(why));
        let outcome = if self.leader() != Some(self.me) {
            refused(pb::refused::Why::NotLeader)
        } else if self.reads.waiting.lock().there.len() >= self.options.max_reads {
            refused(pb::refused::Why::Busy)
        } else {
            let (answer, receiver) = oneshot::channel();
            {
                let mut waiting = self.reads.waiting.lock();
                waiting.there.push(answer);
                waiting.since.get_or_insert_with(Instant::now);
            }
            self.reads.ring.notify_one();
            match timeout(self.options.request_timeout, receiver).await {
                Ok(Ok(Some(index))) => Outcome::Index(index),
                Ok(_) => refused(pb::refused::Why::NotLeader),
                Err(_) => refused(pb::refused::Why::NoQuorum),
            }
        };
        pb::ReadIndexResponse { outcome: Some(outcome) }
    }

    /// Runs rounds as long as the group runs, one at a time: what comes meanwhile shares the next.
    pub(crate) async fn run_reads(self: Arc<Self>) {
        loop {
            let reads = std::mem::take(&mut *self.reads.waiting.lock());
            let Some(since) = reads.since else {
                tokio::select! {
                    () = self.reads.ring.notified() => {}
                    () = self.stop.cancelled() => return,
                }
                // Whoever else is about to ask comes along.
                tokio::task::yield_now().await;
                continue;
            };
            let deadline = since + self.options.request_timeout;
            if self.leader() != Some(self.me) && !reads.there.is_empty() {
                for read in reads.there {
                    let _ = read.send(None);
                }
                self.answer_round(reads.here, deadline).await;
                continue;
            }
            if reads.there.is_empty() {
                self.answer_round(reads.here, deadline).await;
                continue;
            }
            match self.index_here(deadline).await {
                Some(index) => {
                    for read in reads.there {
                        let _ = read.send(Some(index));
                    }
                    self.answer_when_applied(reads.here, index, deadline);
                }
                None => {
                    for read in reads.there {
                        let _ = read.send(None);
                    }
                    self.answer_round(reads.here, deadline).await;
                }
            }
        }
    }

    /// One round for this node's reads, wherever the leader is.
    async fn answer_round(
        self: &Arc<Self>,
        reads: Vec<oneshot::Sender<Result<u64, ReadError>>>,
        deadline: Instant,
    ) {
        if reads.is_empty() {
            return;
        }
        let found = tokio::select! {
            found = timeout_at(deadline, self.find_index(deadline)) => found,
            () = self.stop.cancelled() => Ok(None),
        };
        let error = match found {
            Ok(Some(index)) => return self.answer_when_applied(reads, index, deadline),
            Ok(None) => self.ended().map_or(ReadError::Stopped, |e| e.read_error()),
            Err(_) => ReadError::NoLeader { hint: self.leader_hint() },
        };
        for read in reads {
            let _ = read.send(Err(error.clone()));
        }
    }

    fn answer_when_applied(
        self: &Arc<Self>,
        reads: Vec<oneshot::Sender<Result<u64, ReadError>>>,
        index: u64,
        deadline: Instant,
    ) {
        let answer = |reads: Vec<oneshot::Sender<_>>, result: &Result<u64, ReadError>| {
            for read in reads {
                let _ = read.send(result.clone());
            }
        };
        if reads.is_empty() {
            return;
        }
        if self.progress.applied() >= index {
            return answer(reads, &Ok(index));
        }
        let shared = self.clone();
        tokio::spawn(async move {
            let result = tokio::select! {
                reached = timeout_at(deadline, shared.progress.reached(index)) => match reached {
                    Ok(()) => Ok(index),
                    Err(_) => Err(ReadError::TimedOut(shared.options.request_timeout)),
                },
                ended = shared.until_ended() => Err(ended.read_error()),
            };
            answer(reads, &result);
        });
    }

    /// Tries until a leader has confirmed an index. None when the group has ended.
    async fn find_index(&self, deadline: Instant) -> Option<u64> {
        let mut patience = Patience::new();
        loop {
            if self.ended().is_some() {
                return None;
            }
            let leader = self.leader();
            let found = match leader {
                Some(leader) if leader == self.me => self.index_here(deadline).await,
                Some(leader) => tokio::select! {
                    found = self.index_at(leader) => found,
                    () = self.leader_is_no_more(leader) => None,
                },
                None => None,
            };
            if found.is_some() {
                return found;
            }
            self.leader_change_or(leader, patience.next()).await;
        }
    }

    async fn index_here(&self, deadline: Instant) -> Option<u64> {
        let raft = self.raft.clone();
        let round = unbroken(async move { raft.get_read_linearizer(ReadPolicy::ReadIndex).await });
        match timeout_at(deadline, round).await {
            Ok(Ok(linearizer)) => Some(count(linearizer.read_log_id().log_id())),
            Ok(Err(error)) => {
                tracing::debug!(%error, "read index failed");
                None
            }
            Err(_) => None,
        }
    }

    async fn index_at(&self, leader: NodeId) -> Option<u64> {
        let mut client = self.peers.client(leader)?;
        let request = pb::ReadIndexRequest { address: Some(address(self.group, self.me, leader)) };
        // Asking twice does no harm, so no answer is given up early.
        let limit = self.options.election_max;
        let response = timeout(limit, client.read_index(request)).await.ok()?.ok()?.into_inner();
        match response.outcome? {
            pb::read_index_response::Outcome::Index(index) => Some(index),
            pb::read_index_response::Outcome::Refused(_) => None,
        }
    }
}
