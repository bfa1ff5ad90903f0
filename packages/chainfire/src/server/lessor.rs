//! The leader's part of leases: it keeps the deadlines and proposes what they decide.
//!
//! A new leader first claims its part through the log; the claim is known by its index there. From
//! then on nothing that an earlier leader proposed takes effect, so one that was paused and wakes
//! up can neither end a lease that its successor has renewed nor note less time than it has. Only
//! then are leases renewed here; each begins with its full time, or with what the log says is left.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::etcdserverpb::LeaseCheckpoint;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::deadlines::{Deadlines, Renewed};
use super::node::{Node, mismatch};
use super::refusal;
use crate::store::{
    LeaseChange, Reader, Reply, StoreError, Subscription, encode_claim, encode_expire,
    encode_remaining,
};

/// Leases in one command.
const BATCH: usize = 1000;
/// After a failed proposal.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) struct Lessor {
    deadlines: Mutex<Deadlines>,
    /// The claim by which this member holds the part.
    holds: watch::Sender<Option<u64>>,
    /// Held from taking notes until they are in the log.
    noting: tokio::sync::Mutex<()>,
    /// When it took the part.
    since: Mutex<Option<Instant>>,
    /// Time that is promised is told the client sooner than this.
    prompt: Duration,
}

/// What renewals answered, and what must be noted before that is told.
type Answers = (Vec<i64>, Vec<(i64, i64)>);

impl Lessor {
    /// With the shortest time of an election.
    pub(crate) fn new(election: Duration) -> Lessor {
        let holds = watch::Sender::new(None);
        Lessor {
            deadlines: Mutex::default(),
            holds,
            since: Mutex::default(),
            noting: tokio::sync::Mutex::default(),
            prompt: election,
        }
    }

    /// Waits until this member, the leader, holds the part.
    async fn held(&self, timeout: Duration) -> Result<u64, Status> {
        let mut holds = self.holds.subscribe();
        let held = match tokio::time::timeout(timeout, holds.wait_for(Option::is_some)).await {
            Ok(Ok(held)) => *held,
            _ => None,
        };
        held.ok_or_else(|| Status::from(&refusal::NO_LEADER))
    }

    /// Since when this member holds the part: it has led at least since then.
    pub(crate) fn since(&self) -> Option<Instant> {
        let held = self.holds.borrow();
        held.and_then(|_| *self.since.lock())
    }

    /// Somebody else has claimed the part.
    fn lose(&self, claim: u64) {
        self.holds.send_if_modified(|held| held.take_if(|held| *held == claim).is_some());
    }

    /// Renews leases on the leader; answers the time of each, 0 for those that are gone.
    pub(crate) async fn renew(&self, node: &Node, ids: &[i64]) -> Result<Vec<i64>, Status> {
        let claim = self.held(node.timeout()).await?;
        // Time counts from before the barrier, and that must have passed as this leader's own: then
        // whoever claims the part later gives the leases their whole time from later on.
        let asked = Instant::now();
        node.barrier().await?;
        if !node.group.status().leads() {
            return Err(Status::from(&refusal::NOT_LEADER));
        }
        let (answers, noted) = self.renew_from(asked, &node.reader, ids, claim)?;
        // Before the client relies on it: the next leader must not go by the old note.
        if !noted.is_empty() {
            let _one = self.noting.lock().await;
            self.note(node, noted, claim).await?;
        }
        Ok(answers)
    }

    /// Renews leases from `asked` on, if `claim` is the last claim in the log.
    fn renew_from(
        &self,
        asked: Instant,
        reader: &Reader,
        ids: &[i64],
        claim: u64,
    ) -> Result<Answers, Status> {
        let mut deadlines = self.deadlines.lock();
        if reader.lessor_claim() != claim {
            self.lose(claim);
        }
        if *self.holds.borrow() != Some(claim) {
            return Err(Status::from(&refusal::NOT_LEADER));
        }
        if asked.elapsed() >= self.prompt {
            return Err(Status::from(&refusal::TIMED_OUT));
        }
        let (mut answers, mut noted) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            let mut renewed = deadlines.renew(*id, asked);
            if renewed == Renewed::Gone
                && deadlines.left(*id, asked).is_none()
                && let Some(info) = reader.lease(*id)
            {
                // Granted a moment ago.
                deadlines.learn(info, Instant::now(), Duration::ZERO);
                renewed = deadlines.renew(*id, asked);
            }
            answers.push(match renewed {
                Renewed::Gone => 0,
                Renewed::Yes { ttl, noted: has_note } => {
                    // The table may be a moment behind the log.
                    if has_note || reader.lease(*id).is_some_and(|info| info.remaining > 0) {
                        noted.push((*id, 0));
                    }
                    ttl
                }
            });
        }
        Ok((answers, noted))
    }

    /// Seconds left and granted, on the leader.
    pub(crate) async fn left(&self, node: &Node, id: i64) -> Result<Option<(i64, i64)>, Status> {
        self.held(node.timeout()).await?;
        node.barrier().await?;
        self.look(&node.reader, id)
    }

    fn look(&self, reader: &Reader, id: i64) -> Result<Option<(i64, i64)>, Status> {
        let now = Instant::now();
        let mut deadlines = self.deadlines.lock();
        // Nothing may be learned between two leaderships: it would be old in the second.
        if self.holds.borrow().is_none() {
            return Err(Status::from(&refusal::NOT_LEADER));
        }
        let Some(info) = reader.lease(id) else { return Ok(None) };
        deadlines.learn(info, now, Duration::ZERO);
        Ok(deadlines.left(id, now))
    }

    /// Notes go into the log in the order in which they were taken: one that is older must not come
    /// after that of a renewal.
    async fn note(&self, node: &Node, notes: Vec<(i64, i64)>, claim: u64) -> Result<(), Status> {
        for part in notes.chunks(BATCH) {
            let checkpoints = part
                .iter()
                .map(|&(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl })
                .collect();
            let proposed = node.group.propose(encode_remaining(checkpoints, claim)).await;
            match proposed.map_err(refusal::propose)? {
                Ok(Reply::LeaseRemaining) => {}
                Ok(_) => return Err(mismatch()),
                Err(error) => {
                    if error == StoreError::NotLessor {
                        self.lose(claim);
                    }
                    return Err(refusal::store(error));
                }
            }
        }
        Ok(())
    }

    /// Does the leader's part whenever this member leads, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, node: Weak<Node>, stop: CancellationToken) {
        let Some(mut status) = node.upgrade().map(|node| node.group.watch_status()) else {
            return;
        };
        loop {
            let term = tokio::select! {
                () = stop.cancelled() => break,
                status = status.wait_for(|status| status.leads()) => match status {
                    Ok(status) => status.term,
                    Err(_) => break,
                },
            };
            let Some(node) = node.upgrade() else { break };
            let changes = node.reader.subscribe();
            let claim = match node.propose_bytes(encode_claim()).await {
                Ok(Reply::LessorClaim(claim)) => claim,
                other => {
                    let error = other.err().unwrap_or_else(mismatch);
                    tracing::debug!(%error, term, "leases not claimed yet");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(PAUSE) => continue,
                    }
                }
            };
            // A leader no longer: the claim was passed on to the next one, who will claim again.
            let now = node.group.status();
            if !now.leads() || now.term != term {
                continue;
            }
            self.deadlines.lock().clear();
            self.load(&node.reader);
            *self.since.lock() = Some(Instant::now());
            self.holds.send_replace(Some(claim));
            tracing::info!(term, leases = node.reader.lease_count(), "keeps the leases' deadlines");
            let mut status = node.group.watch_status();
            let mut holds = self.holds.subscribe();
            tokio::select! {
                () = stop.cancelled() => {}
                _ = status.wait_for(|now| !now.leads() || now.term != term) => {}
                _ = holds.wait_for(|held| *held != Some(claim)) => {}
                () = self.keep(&node, changes, claim) => {}
            }
            self.holds.send_replace(None);
            self.deadlines.lock().clear();
        }
        self.holds.send_replace(None);
    }

    fn load(&self, reader: &Reader) {
        let now = Instant::now();
        let leases = reader.leases();
        let ids: HashSet<i64> = leases.iter().map(|info| info.id).collect();
        let mut deadlines = self.deadlines.lock();
        deadlines.keep(&ids);
        for info in leases {
            deadlines.learn(info, now, Duration::ZERO);
        }
    }

    async fn keep(&self, node: &Node, mut changes: Subscription, claim: u64) {
        let every = Duration::from_secs(node.limits.checkpoint_seconds);
        let mut notes = tokio::time::interval_at(Instant::now() + every, every);
        notes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = self.deadlines.lock().next();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.next() => match change {
                    Ok(change) => self.follow(&change.leases),
                    Err(_) => self.load(&node.reader),
                },
                () = due => self.expire(node, claim).await,
                _ = notes.tick() => {
                    let _one = self.noting.lock().await;
                    let due = self.deadlines.lock().take_notes(Instant::now(), every);
                    if let Err(error) = self.note(node, due, claim).await {
                        tracing::debug!(%error, "remaining lease times not noted");
                    }
                }
            }
        }
    }

    fn follow(&self, changes: &[LeaseChange]) {
        if changes.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut deadlines = self.deadlines.lock();
        for change in changes {
            match change {
                LeaseChange::Granted(info) | LeaseChange::Checkpointed(info) => {
                    deadlines.learn(*info, now, Duration::ZERO);
                }
                LeaseChange::Gone(id) => deadlines.forget(*id),
            }
        }
    }

    async fn expire(&self, node: &Node, claim: u64) {
        let over = self.deadlines.lock().take_over(Instant::now(), BATCH);
        if over.is_empty() {
            return;
        }
        match node.group.propose(encode_expire(over.clone(), claim)).await {
            Ok(Ok(Reply::LeaseExpire(gone))) => {
                node.metrics.expired.inc_by(gone.len() as u64);
                let mut deadlines = self.deadlines.lock();
                over.iter().for_each(|id| deadlines.forget(*id));
            }
            Ok(Err(StoreError::NotLessor)) => self.lose(claim),
            other => {
                let why = match other {
                    Ok(Ok(_)) => "wrong answer".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                tracing::debug!(why, leases = over.len(), "leases not expired yet");
                self.deadlines.lock().put_back(&over, Instant::now() + PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreOptions, encode};
    use api::chainfire_internal::command::Request as Command;
    use api::etcdserverpb::LeaseGrantRequest;
    use bytes::Bytes;

    const LONG: Duration = Duration::from_secs(1000);

    /// A store in memory, and its log.
    struct Log {
        store: Store,
        reader: Reader,
        index: u64,
    }

    impl Log {
        fn new() -> Log {
            let engine = Arc::new(engine::Memory::new(&Store::SPACES));
            let (store, reader) = Store::open(engine, 1, StoreOptions::default()).unwrap();
            Log { store, reader, index: 0 }
        }

        fn apply(&mut self, command: Bytes) -> Reply {
            self.index += 1;
            self.store.run(self.index, &[command], |_| {}).unwrap().remove(0).unwrap()
        }

        fn grant(&mut self, id: i64, ttl: i64) {
            self.apply(encode(Command::LeaseGrant(LeaseGrantRequest { id, ttl })));
        }

        fn claim(&mut self) -> u64 {
            match self.apply(encode_claim()) {
                Reply::LessorClaim(claim) => claim,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_question_between_two_leaderships_leaves_nothing_behind() {
        let (mut log, lessor) = (Log::new(), Lessor::new(LONG));
        log.grant(7, 60);
        let claim = log.claim();
        lessor.holds.send_replace(Some(claim));
        assert_eq!(lessor.look(&log.reader, 7).unwrap(), Some((60, 60)));
        assert_eq!(lessor.look(&log.reader, 8).unwrap(), None);
        lessor.lose(claim + 1);
        lessor.look(&log.reader, 7).unwrap();
        lessor.lose(claim);
        lessor.deadlines.lock().clear();
        let refused = lessor.look(&log.reader, 7).unwrap_err();
        assert_eq!(refused.message(), "etcdserver: not leader");
        assert_eq!(lessor.deadlines.lock().next(), None);
    }

    #[test]
    fn time_is_promised_by_the_last_lessor_only_and_from_when_it_was_asked_for() {
        let (mut log, lessor) = (Log::new(), Lessor::new(LONG));
        log.grant(7, 60);
        let claim = log.claim();
        lessor.holds.send_replace(Some(claim));
        lessor.load(&log.reader);
        let granted = lessor.deadlines.lock().next().unwrap();
        let renew = |lessor: &Lessor, log: &Log, asked, claim| {
            lessor.renew_from(asked, &log.reader, &[7, 99], claim)
        };
        let asked = granted - Duration::from_secs(50);
        assert_eq!(renew(&lessor, &log, asked, claim).unwrap(), (vec![60, 0], vec![]));
        assert_eq!(lessor.deadlines.lock().next(), Some(asked + Duration::from_secs(60)));
        // One that was asked for earlier and comes later takes nothing back.
        let earlier = asked - Duration::from_secs(1);
        renew(&lessor, &log, earlier, claim).unwrap();
        assert_eq!(lessor.deadlines.lock().next(), Some(asked + Duration::from_secs(60)));

        let late = Instant::now() - 2 * LONG;
        let refused = renew(&lessor, &log, late, claim).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(renew(&lessor, &log, asked, claim + 1).is_err(), "it is not held by that claim");
        assert_eq!(*lessor.holds.borrow(), Some(claim));
        // What the log says is left is noted anew, though the table has not heard of it yet.
        let left = vec![LeaseCheckpoint { id: 7, remaining_ttl: 5 }];
        log.apply(encode_remaining(left, claim));
        assert_eq!(renew(&lessor, &log, asked, claim).unwrap().1, [(7, 0)]);
        // Another leader has claimed, and this one does not know yet.
        log.claim();
        let refused = renew(&lessor, &log, asked, claim).unwrap_err();
        assert_eq!(refused.message(), "etcdserver: not leader");
        assert_eq!(*lessor.holds.borrow(), None, "it claims again, if it leads");
    }
}
