//! The one OS thread that drives a group's machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::EntryPayload;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::Fatal;
use crate::machine::{Machine, Mark, Persist, SnapshotSource, mark_keys};
use crate::raft::{Entry, LogId, Membership, StoredMembership, count};
use crate::spool::{Installing, Part, Spool};
use crate::threads;
use crate::types::{GroupId, Member, NodeId};
use crate::wire::{self, Position};

/// The answers to this node's own batches, by sequence.
pub(crate) type Answers<R> = Vec<(u64, Vec<R>)>;
type Reply<T> = oneshot::Sender<Result<T, Fatal>>;

/// How many jobs may wait: more than there are tasks that ask.
const QUEUE: usize = 64;

enum Job<R> {
    Apply(Vec<Entry>, Reply<Answers<R>>),
    View(Reply<(Position, Box<dyn SnapshotSource>)>),
    Persist(Reply<(Position, Persist)>),
    Install(Spool, Part, Reply<Position>),
}

/// The handle to the thread. The thread ends when the last handle is gone.
///
/// A group of one member has its entries applied on the caller where that takes less than handing
/// them over and back: nobody's heartbeats wait meanwhile.
pub(crate) struct Thread<M: Machine> {
    jobs: Jobs<M::Response>,
    driver: Arc<Mutex<Driver<M>>>,
    /// So many more times the thread is used, because the machine was slow on the caller.
    wary: Arc<AtomicU32>,
    /// The machine is being made durable, which may hold up what it is given meanwhile.
    persisting: Arc<AtomicBool>,
    ended: Arc<Mutex<Option<Running>>>,
}

/// The most requests, and bytes of them, that are applied on the caller.
const BRIEF_REQUESTS: usize = 4;
const BRIEF_BYTES: usize = 16 << 10;
/// The machine is slow if they take longer …
const SLOW: Duration = Duration::from_millis(1);
/// … and then it is not tried for so many times.
const WARY: u32 = 500;

enum Jobs<R> {
    Thread(mpsc::SyncSender<Job<R>>),
    /// In place, see [`threads`].
    Task(tokio::sync::mpsc::Sender<Job<R>>),
}

enum Running {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl<R> Clone for Jobs<R> {
    fn clone(&self) -> Self {
        match self {
            Jobs::Thread(jobs) => Jobs::Thread(jobs.clone()),
            Jobs::Task(jobs) => Jobs::Task(jobs.clone()),
        }
    }
}

impl<M: Machine> Clone for Thread<M> {
    fn clone(&self) -> Self {
        Self {
            jobs: self.jobs.clone(),
            driver: self.driver.clone(),
            wary: self.wary.clone(),
            persisting: self.persisting.clone(),
            ended: self.ended.clone(),
        }
    }
}

/// Who this node is, for recognizing its own batches.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) group: GroupId,
    pub(crate) me: NodeId,
    pub(crate) boot: u64,
}

impl<M: Machine> Thread<M> {
    /// Finishes an interrupted installation, makes the machine durable as it is, tells it its
    /// members, and starts its thread.
    pub(crate) fn start(
        mut machine: M,
        identity: Identity,
        spool: &Spool,
    ) -> Result<(Self, Position), Fatal> {
        let decode = |machine: &M| Position::decode(&machine.applied()).map_err(Fatal::new);
        let mut position = decode(&machine)?;
        if let Some(file) = spool.interrupted(identity.group) {
            let (meta, _) = file.read()?;
            if meta.last_log_id >= position.last {
                tracing::info!(group = identity.group, "installing an interrupted snapshot again");
                position = install(&mut machine, identity.group, file)?;
            } else {
                file.done().map_err(Fatal::new)?;
            }
        }
        machine.persist()?()?;
        machine.members_changed(&members_of(position.members.membership()));
        let driver = Driver { machine, identity, position: position.clone() };
        let driver = Arc::new(Mutex::new(driver));
        let driven = driver.clone();
        // One job at a time is under way; the rest wait as futures.
        let (jobs, running) = if threads::in_place() {
            let (jobs, mut queue) = tokio::sync::mpsc::channel(QUEUE);
            let work = async move {
                while let Some(job) = queue.recv().await {
                    driven.lock().work(job);
                }
                driven.lock().end();
            };
            (Jobs::Task(jobs), Running::Task(tokio::spawn(work)))
        } else {
            let (jobs, queue) = mpsc::sync_channel(QUEUE);
            let work = move || {
                while let Ok(job) = queue.recv() {
                    driven.lock().work(job);
                }
                driven.lock().end();
            };
            let name = format!("apply-{:x}", identity.group);
            let thread = std::thread::Builder::new().name(name).spawn(work).map_err(Fatal::new)?;
            (Jobs::Thread(jobs), Running::Thread(thread))
        };
        let ended = Arc::new(Mutex::new(Some(running)));
        let (wary, persisting) = (Arc::default(), Arc::default());
        Ok((Self { jobs, driver, wary, persisting, ended }, position))
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job<M::Response>) -> Result<T, Fatal> {
        let (reply, answer) = oneshot::channel();
        let gone = || Fatal::new("the machine's thread has ended");
        // The queue is longer than the number of tasks that ask, so this never blocks for long.
        match &self.jobs {
            Jobs::Thread(jobs) => jobs.send(job(reply)).map_err(|_| gone())?,
            Jobs::Task(jobs) => jobs.send(job(reply)).await.map_err(|_| gone())?,
        }
        answer.await.map_err(|_| gone())?
    }

    pub(crate) async fn apply(&self, entries: Vec<Entry>) -> Result<Answers<M::Response>, Fatal> {
        if matches!(self.jobs, Jobs::Thread(_)) && is_brief(&entries) {
            let wary = self.wary.load(Ordering::Relaxed);
            // A lock that is taken means that the thread is at work.
            if wary > 0 {
                self.wary.store(wary - 1, Ordering::Relaxed);
            } else if !self.persisting.load(Ordering::Relaxed)
                && let Some(mut driver) = self.driver.try_lock()
                && driver.is_alone()
            {
                let begun = Instant::now();
                let answers = driver.apply(entries);
                if begun.elapsed() > SLOW {
                    self.wary.store(WARY, Ordering::Relaxed);
                }
                return answers;
            }
        }
        self.ask(|reply| Job::Apply(entries, reply)).await
    }

    pub(crate) async fn view(&self) -> Result<(Position, Box<dyn SnapshotSource>), Fatal> {
        self.ask(Job::View).await
    }

    pub(crate) async fn persist(&self) -> Result<(Position, Persist), Fatal> {
        let (position, work) = self.ask(Job::Persist).await?;
        let persisting = self.persisting.clone();
        let work = move || {
            persisting.store(true, Ordering::Relaxed);
            let done = work();
            persisting.store(false, Ordering::Relaxed);
            done
        };
        Ok((position, Box::new(work)))
    }

    pub(crate) async fn install(&self, spool: Spool, part: Part) -> Result<Position, Fatal> {
        self.ask(|reply| Job::Install(spool, part, reply)).await
    }

    /// Gives this handle back and waits for the end, which comes once all others are gone.
    pub(crate) async fn end(self) {
        let Self { jobs, driver, ended, .. } = self;
        drop((jobs, driver));
        let running = ended.lock().take();
        let _ = match running {
            Some(Running::Thread(thread)) => {
                threads::blocking(move || thread.join()).await.map(drop)
            }
            Some(Running::Task(task)) => task.await,
            None => Ok(()),
        };
    }
}

fn is_brief(entries: &[Entry]) -> bool {
    let (mut requests, mut bytes) = (0, 0);
    for entry in entries {
        if let EntryPayload::Normal(proposal) = &entry.payload {
            requests += proposal.requests.len();
            bytes += proposal.bytes();
        }
    }
    entries.len() <= BRIEF_REQUESTS && requests <= BRIEF_REQUESTS && bytes <= BRIEF_BYTES
}

pub(crate) struct Driver<M: Machine> {
    pub(crate) machine: M,
    pub(crate) identity: Identity,
    pub(crate) position: Position,
}

impl<M: Machine> Driver<M> {
    fn work(&mut self, job: Job<M::Response>) {
        match job {
            Job::Apply(entries, reply) => {
                let _ = reply.send(self.apply(entries));
            }
            Job::View(reply) => {
                let view = self.machine.snapshot().map(|view| (self.position.clone(), view));
                let _ = reply.send(view);
            }
            Job::Persist(reply) => {
                let work = self.machine.persist().map(|work| (self.position.clone(), work));
                let _ = reply.send(work);
            }
            Job::Install(spool, part, reply) => {
                let _ = reply.send(self.install(&spool, part));
            }
        }
    }

    /// Whether the group has no other member.
    fn is_alone(&self) -> bool {
        self.position.members.membership().nodes().count() == 1
    }

    /// Only a convenience for the next start: what is not persisted is in the journal.
    fn end(&mut self) {
        if let Err(error) = self.machine.persist().and_then(|work| work()) {
            tracing::warn!(group = self.identity.group, %error, "last persist failed");
        }
    }

    pub(crate) fn apply(&mut self, entries: Vec<Entry>) -> Result<Answers<M::Response>, Fatal> {
        let Identity { group, me, boot } = self.identity;
        let mut answers = Vec::new();
        for entry in entries {
            if let Some(last) = self.position.last
                && entry.id.index != count(&last)
            {
                return Err(Fatal::new(format!("entry {} after {last}", entry.id)));
            }
            match entry.payload {
                EntryPayload::Blank => self.machine.mark(mark(group, &entry.id, None))?,
                EntryPayload::Membership(members) => {
                    let stored = StoredMembership::new(Some(entry.id), members);
                    self.machine.mark(mark(group, &entry.id, Some(&stored)))?;
                    self.machine.members_changed(&members_of(stored.membership()));
                    self.position.members = stored;
                }
                EntryPayload::Normal(proposal) => {
                    let index = count(&entry.id);
                    let mark = mark(group, &entry.id, None);
                    let responses = self.machine.apply(index, &proposal.requests, mark)?;
                    if responses.len() != proposal.requests.len() {
                        return Err(Fatal::new(format!(
                            "{} responses to {} requests of entry {}",
                            responses.len(),
                            proposal.requests.len(),
                            entry.id
                        )));
                    }
                    if (proposal.origin, proposal.boot) == (me, boot) {
                        answers.push((proposal.sequence, responses));
                    }
                }
            }
            self.position.last = Some(entry.id);
        }
        Ok(answers)
    }

    fn install(&mut self, spool: &Spool, part: Part) -> Result<Position, Fatal> {
        let file = spool.commit(self.identity.group, part).map_err(Fatal::new)?;
        self.position = install(&mut self.machine, self.identity.group, file)?;
        self.machine.members_changed(&members_of(self.position.members.membership()));
        Ok(self.position.clone())
    }
}

fn install<M: Machine>(
    machine: &mut M,
    group: GroupId,
    file: Installing,
) -> Result<Position, Fatal> {
    let (meta, mut chunks) = file.read()?;
    let last = meta.last_log_id.ok_or_else(|| Fatal::new("a snapshot of nothing"))?;
    let mark = mark(group, &last, Some(&meta.last_membership));
    machine.install(&mut chunks, mark)?;
    // The machine may have stopped at its own end mark: the rest must be whole too.
    chunks.try_for_each(|chunk| chunk.map(drop))?;
    machine.persist()?()?;
    let position = Position::decode(&machine.applied()).map_err(Fatal::new)?;
    if position.last != Some(last) || position.members != meta.last_membership {
        return Err(Fatal::new("the machine did not keep the mark of the snapshot"));
    }
    file.done().map_err(Fatal::new)?;
    Ok(position)
}

pub(crate) fn mark(group: GroupId, last: &LogId, members: Option<&StoredMembership>) -> Mark {
    let [position, keys] = mark_keys(group);
    let mut pairs: Vec<(Bytes, Bytes)> = vec![(position, wire::encode_log_id(last))];
    if let Some(members) = members {
        pairs.push((keys, wire::encode_members(members)));
    }
    Mark { index: count(last), pairs }
}

pub(crate) fn members_of(membership: &Membership) -> Vec<Member> {
    let voters: std::collections::BTreeSet<NodeId> = membership.voter_ids().collect();
    membership
        .nodes()
        .map(|(id, info)| Member {
            id: *id,
            info: info.clone(),
            voter: voters.contains(id),
            matched: None,
            last_ack: None,
        })
        .collect()
}
