//! Proposals: gathered while earlier ones are under way, proposed together, answered together.
//!
//! A batch that may have reached a leader's log is never proposed again: its waiters are told that
//! its fate is unknown. Only a batch that was surely refused is tried again, until its deadline.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use api::raft as pb;
use bytes::Bytes;
use openraft::errors::ClientWriteError;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::ProposeError;
use crate::machine::Machine;
use crate::options::GroupOptions;
use crate::peers::{address, surely_not_received};
use crate::raft::{Fate, Proposal};
use crate::shared::Shared;
use crate::types::NodeId;
use crate::unbroken::unbroken;
use crate::wire;

type Answer<R> = oneshot::Sender<Result<R, ProposeError>>;

/// What a request costs in the queue besides its bytes.
const OVERHEAD: usize = 128;
/// After a change of the leader a batch may still turn out to be applied within this time.
const GRACE: Duration = Duration::from_millis(300);

/// Who waits for which of this node's batches. Every waiter is answered exactly once.
pub(crate) struct Waiters<R> {
    table: Mutex<HashMap<u64, Waiting<R>>>,
    held: AtomicUsize,
}

struct Waiting<R> {
    answers: Vec<Answer<R>>,
    cost: usize,
    /// Dropped with the rest: whoever holds the other end learns that the batch is over.
    _done: oneshot::Sender<()>,
}

impl<R> Waiters<R> {
    pub(crate) fn new() -> Self {
        Self { table: Mutex::default(), held: AtomicUsize::new(0) }
    }

    fn hold(&self, cost: usize, limit: usize) -> bool {
        let before = self.held.fetch_add(cost, Ordering::Relaxed);
        // One request always fits, whatever its size.
        let fits = before == 0 || before + cost <= limit;
        if !fits {
            self.held.fetch_sub(cost, Ordering::Relaxed);
        }
        fits
    }

    fn release(&self, cost: usize) {
        self.held.fetch_sub(cost, Ordering::Relaxed);
    }

    fn insert(&self, sequence: u64, answers: Vec<Answer<R>>, cost: usize) -> oneshot::Receiver<()> {
        let (done, over) = oneshot::channel();
        self.table.lock().insert(sequence, Waiting { answers, cost, _done: done });
        over
    }

    fn take(&self, sequence: u64) -> Option<Waiting<R>> {
        let waiting = self.table.lock().remove(&sequence)?;
        self.release(waiting.cost);
        Some(waiting)
    }

    /// The batch is applied here.
    pub(crate) fn answer(&self, sequence: u64, responses: Vec<R>) {
        if let Some(waiting) = self.take(sequence) {
            for (answer, response) in waiting.answers.into_iter().zip(responses) {
                let _ = answer.send(Ok(response));
            }
        }
    }

    fn fail(&self, sequence: u64, error: &ProposeError) {
        if let Some(waiting) = self.take(sequence) {
            for answer in waiting.answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }

    pub(crate) fn fail_all(&self, error: &ProposeError) {
        let sequences: Vec<u64> = self.table.lock().keys().copied().collect();
        for sequence in sequences {
            self.fail(sequence, error);
        }
    }
}

/// Requests that wait to be proposed.
pub(crate) struct Queue<R> {
    items: Mutex<Items<R>>,
    /// There is one.
    some: Notify,
    /// There is enough for a batch.
    full: Notify,
}

struct Items<R> {
    line: VecDeque<Item<R>>,
    bytes: usize,
}

struct Item<R> {
    request: Bytes,
    answer: Answer<R>,
    since: Instant,
}

struct Gathered<R> {
    requests: Vec<Bytes>,
    answers: Vec<Answer<R>>,
    cost: usize,
    since: Instant,
}

impl<R> Items<R> {
    fn fill_a_batch(&self, options: &GroupOptions) -> bool {
        self.line.len() >= options.batch_requests || self.bytes >= options.batch_bytes
    }
}

impl<R> Queue<R> {
    pub(crate) fn new() -> Self {
        let items = Mutex::new(Items { line: VecDeque::new(), bytes: 0 });
        Self { items, some: Notify::new(), full: Notify::new() }
    }

    fn push(&self, item: Item<R>, options: &GroupOptions) {
        let mut items = self.items.lock();
        let (was_empty, was_full) = (items.line.is_empty(), items.fill_a_batch(options));
        items.bytes += item.request.len();
        items.line.push_back(item);
        if was_empty {
            self.some.notify_one();
        }
        if !was_full && items.fill_a_batch(options) {
            self.full.notify_one();
        }
    }

    fn is_empty(&self) -> bool {
        self.items.lock().line.is_empty()
    }

    fn fills_a_batch(&self, options: &GroupOptions) -> bool {
        self.items.lock().fill_a_batch(options)
    }

    /// All that waits, up to the limits of a batch. Who waits no more is left out.
    fn gather(&self, options: &GroupOptions, waiters: &Waiters<R>) -> Option<Gathered<R>> {
        let mut items = self.items.lock();
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        let (mut cost, mut bytes, mut since) = (0, 0, None);
        while let Some(next) = items.line.front() {
            let len = next.request.len();
            let full = requests.len() >= options.batch_requests
                || (!requests.is_empty() && bytes + len > options.batch_bytes);
            if full {
                break;
            }
            let Some(item) = items.line.pop_front() else { break };
            items.bytes -= len;
            if item.answer.is_closed() {
                waiters.release(len + OVERHEAD);
                continue;
            }
            bytes += len;
            cost += len + OVERHEAD;
            since.get_or_insert(item.since);
            requests.push(item.request);
            answers.push(item.answer);
        }
        Some(Gathered { requests, answers, cost, since: since? })
    }

    pub(crate) fn fail_all(&self, error: &ProposeError, waiters: &Waiters<R>) {
        let line = {
            let mut items = self.items.lock();
            items.bytes = 0;
            std::mem::take(&mut items.line)
        };
        for item in line {
            waiters.release(item.request.len() + OVERHEAD);
            let _ = item.answer.send(Err(error.clone()));
        }
    }
}

/// What became of a batch.
enum Verdict {
    /// The leader has applied it; this node will.
    Applied,
    /// It may or may not take effect.
    Lost,
    /// The group has ended here.
    Ended,
}

impl<M: Machine> Shared<M> {
    pub(crate) async fn propose(&self, request: Bytes) -> Result<M::Response, ProposeError> {
        let (size, limit) = (request.len(), self.options.max_request);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        if !self.waiters.hold(size + OVERHEAD, self.options.max_in_flight) {
            return Err(ProposeError::TooBusy);
        }
        let (answer, receiver) = oneshot::channel();
        self.queue.push(Item { request, answer, since: Instant::now() }, &self.options);
        // After the push: whoever ends the group either sees this item, or is seen here.
        if let Some(ended) = self.ended() {
            self.queue.fail_all(&ended.propose_error(), &self.waiters);
        }
        receiver.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Makes batches as long as the group runs.
    pub(crate) async fn run_batcher(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(self.options.batches_in_flight));
        let mut sequence = 0;
        loop {
            while self.queue.is_empty() {
                tokio::select! {
                    () = self.queue.some.notified() => {}
                    () = self.stop.cancelled() => return,
                }
                // Whoever else is about to ask comes along.
                tokio::task::yield_now().await;
            }
            let permit = tokio::select! {
                permit = self.slot(&slots) => permit,
                () = self.stop.cancelled() => return,
            };
            let Some(permit) = permit else { return };
            if let Some(batch) = self.queue.gather(&self.options, &self.waiters) {
                sequence += 1;
                tokio::spawn(self.clone().drive(sequence, batch, permit));
            }
        }
    }

    /// As Nagle's algorithm (RFC 896) has it: while a batch is under way the next one grows, and
    /// only when it is full does it go beside. A batch costs each member more than a request does.
    async fn slot(&self, slots: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let all = self.options.batches_in_flight as u32;
        while !self.queue.fills_a_batch(&self.options) {
            tokio::select! {
                permits = slots.clone().acquire_many_owned(all) => return permits.ok()?.split(1),
                () = self.queue.full.notified() => {}
            }
        }
        slots.clone().acquire_owned().await.ok()
    }

    async fn drive(
        self: Arc<Self>,
        sequence: u64,
        batch: Gathered<M::Response>,
        permit: OwnedSemaphorePermit,
    ) {
        let deadline = batch.since + self.options.request_timeout;
        let proposal = Proposal {
            origin: self.me,
            boot: self.boot,
            sequence,
            requests: Arc::new(batch.requests),
        };
        let over = self.waiters.insert(sequence, batch.answers, batch.cost);
        let sent = AtomicBool::new(false);
        let verdict = timeout_at(deadline, self.place(&proposal, &sent)).await;
        drop(permit);
        let timed_out = || ProposeError::TimedOut(self.options.request_timeout);
        let error = match verdict {
            Ok(Verdict::Applied) => match timeout_at(deadline, over).await {
                Ok(_) => return,
                Err(_) => timed_out(),
            },
            Ok(Verdict::Lost) => {
                let grace = deadline.min(Instant::now() + GRACE);
                match timeout_at(grace, over).await {
                    Ok(_) => return,
                    Err(_) => ProposeError::LeaderChanged,
                }
            }
            Ok(Verdict::Ended) => match self.ended() {
                Some(ended) => ended.propose_error(),
                None => ProposeError::Stopped,
            },
            Err(_) if sent.load(Ordering::Relaxed) => timed_out(),
            Err(_) => ProposeError::NoLeader { hint: self.leader_hint() },
        };
        self.waiters.fail(sequence, &error);
    }

    /// Brings a batch into the leader's log. `sent` is set while it may be there.
    async fn place(&self, proposal: &Proposal, sent: &AtomicBool) -> Verdict {
        let mut patience = Patience::new();
        loop {
            if self.ended().is_some() {
                return Verdict::Ended;
            }
            let leader = self.leader();
            let placed = match leader {
                Some(leader) => {
                    sent.store(true, Ordering::Relaxed);
                    let placing = async {
                        if leader == self.me {
                            self.place_here(proposal.clone()).await
                        } else {
                            self.place_at(leader, proposal).await
                        }
                    };
                    tokio::select! {
                        placed = placing => placed,
                        () = self.leader_is_no_more(leader) => Placed::Lost,
                    }
                }
                None => Placed::Refused,
            };
            match placed {
                Placed::Applied => return Verdict::Applied,
                Placed::Lost => return Verdict::Lost,
                Placed::Refused => sent.store(false, Ordering::Relaxed),
            }
            self.leader_change_or(leader, patience.next()).await;
        }
    }

    /// Proposes on this node, hoping that it leads.
    pub(crate) async fn place_here(&self, proposal: Proposal) -> Placed {
        let (fate, known) = Fate::channel();
        let raft = self.raft.clone();
        let taken = unbroken(async move { raft.client_write_ff(proposal, Some(fate)).await });
        if taken.await.is_err() {
            return Placed::Lost;
        }
        match known.await {
            Ok(Ok(_)) => Placed::Applied,
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => Placed::Refused,
            Ok(Err(_)) | Err(_) => Placed::Lost,
        }
    }

    async fn place_at(&self, leader: NodeId, proposal: &Proposal) -> Placed {
        use pb::propose_response::Outcome;
        let Some(mut client) = self.peers.client(leader) else { return Placed::Refused };
        let request = pb::ProposeRequest {
            address: Some(address(self.group, self.me, leader)),
            batch: Some(wire::batch(proposal)),
        };
        match client.propose(request).await {
            Ok(response) => match response.into_inner().outcome {
                Some(Outcome::Applied(_)) => Placed::Applied,
                Some(Outcome::Refused(_)) => Placed::Refused,
                Some(Outcome::Lost(_)) | None => Placed::Lost,
            },
            Err(status) if surely_not_received(&status) => Placed::Refused,
            Err(_) => Placed::Lost,
        }
    }

    /// Serves a batch of another member. Its own apply thread answers; here it is only placed.
    pub(crate) async fn serve_propose(&self, batch: pb::Batch) -> pb::ProposeResponse {
        use pb::propose_response::Outcome;
        let proposal = wire::from_batch(batch);
        let cost = proposal.bytes() + OVERHEAD * proposal.requests.len();
        if self.leader() != Some(self.me) {
            return refused(self.refusal(pb::refused::Why::NotLeader));
        }
        if !self.waiters.hold(cost, self.options.max_in_flight) {
            return refused(self.refusal(pb::refused::Why::Busy));
        }
        let _held = Held { waiters: &self.waiters, cost };
        let placed =
            timeout_at(Instant::now() + self.options.request_timeout, self.place_here(proposal));
        let outcome = match placed.await {
            Ok(Placed::Applied) => Outcome::Applied(self.progress.applied()),
            Ok(Placed::Refused) => Outcome::Refused(self.refusal(pb::refused::Why::NotLeader)),
            Ok(Placed::Lost) | Err(_) => Outcome::Lost(pb::Lost {}),
        };
        pb::ProposeResponse { outcome: Some(outcome) }
    }
}

fn refused(why: pb::Refused) -> pb::ProposeResponse {
    pb::ProposeResponse { outcome: Some(pb::propose_response::Outcome::Refused(why)) }
}

/// The cost of another member's batch while it is under way here.
struct Held<'a, R> {
    waiters: &'a Waiters<R>,
    cost: usize,
}

impl<R> Drop for Held<'_, R> {
    fn drop(&mut self) {
        self.waiters.release(self.cost);
    }
}

pub(crate) enum Placed {
    Applied,
    /// Surely not in any log.
    Refused,
    /// Nobody knows.
    Lost,
}

/// The pauses between attempts: short at first, bounded.
pub(crate) struct Patience(Duration);

impl Patience {
    pub(crate) fn new() -> Self {
        Self(Duration::from_millis(5))
    }

    pub(crate) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(Duration::from_millis(100));
        now
    }
}
