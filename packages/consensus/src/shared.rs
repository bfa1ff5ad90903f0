//! What the tasks of one group share, and how the group ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::raft as pb;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::apply::Progress;
use crate::error::{MembershipError, ProposeError, ReadError};
use crate::log::Log;
use crate::machine::Machine;
use crate::options::GroupOptions;
use crate::peers::Peers;
use crate::propose::{Queue, Waiters};
use crate::raft::{Raft, Types, count_of};
use crate::read::Reads;
use crate::thread::{Thread, members_of};
use crate::threads;
use crate::types::{GroupId, Member, NodeId, NodeInfo, Role, Status};
use crate::unbroken::unbroken;

/// Changes of the status that only say "further" are told at most this often.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);
/// A disk that hangs holds up the end of a group by no more than twice this.
const STOP_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Shared<M: Machine> {
    pub(crate) group: GroupId,
    pub(crate) me: NodeId,
    pub(crate) boot: u64,
    pub(crate) options: GroupOptions,
    pub(crate) raft: Raft<M>,
    pub(crate) log: Log,
    pub(crate) peers: Arc<Peers>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) waiters: Arc<Waiters<M::Response>>,
    pub(crate) queue: Queue<M::Response>,
    pub(crate) reads: Reads,
    pub(crate) thread: Mutex<Option<Thread<M>>>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ended: watch::Sender<Option<Ended>>,
    /// The last leader that was known; 0 before the first.
    pub(crate) led_by: AtomicU64,
    /// Another member says that this one was removed.
    pub(crate) dismissed: AtomicBool,
    /// When a leader was last heard.
    pub(crate) heard: Arc<Mutex<Instant>>,
    /// One membership change at a time is driven from here.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// One snapshot at a time is received.
    pub(crate) receiving: Arc<tokio::sync::Semaphore>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Why a group serves nothing any more on this node.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    Stopped,
    Failed(String),
}

impl Ended {
    pub(crate) fn propose_error(&self) -> ProposeError {
        match self {
            Ended::Stopped => ProposeError::Stopped,
            Ended::Failed(why) => ProposeError::Failed(why.clone()),
        }
    }

    pub(crate) fn read_error(&self) -> ReadError {
        match self {
            Ended::Stopped => ReadError::Stopped,
            Ended::Failed(why) => ReadError::Failed(why.clone()),
        }
    }

    pub(crate) fn membership_error(&self) -> MembershipError {
        match self {
            Ended::Stopped => MembershipError::Stopped,
            Ended::Failed(why) => MembershipError::Failed(why.clone()),
        }
    }
}

impl<M: Machine> Shared<M> {
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    pub(crate) async fn until_ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ended::Stopped),
            Err(_) => Ended::Stopped,
        }
    }

    /// Ends the group: everybody who waits is answered, and nobody waits from now on.
    pub(crate) fn end(&self, how: Ended) {
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(how.clone());
            }
            first
        });
        if !first {
            return;
        }
        if let Ended::Failed(why) = &how {
            tracing::error!(
                group = self.group,
                why,
                code = crate::codes::FAILED.0,
                "the group has failed here"
            );
        }
        self.stop.cancel();
        let error = how.propose_error();
        self.queue.fail_all(&error, &self.waiters);
        self.waiters.fail_all(&error);
        self.reads.fail_all(&how.read_error());
        self.publish(true);
        // What has failed must not go on leading: its heartbeats would keep others from it.
        if let (Ended::Failed(_), Ok(runtime)) = (&how, Handle::try_current()) {
            let raft = self.raft.clone();
            runtime.spawn(async move { raft.shutdown().await });
        }
    }

    /// Who leads as far as this node knows.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    pub(crate) fn leader_hint(&self) -> Option<Box<NodeInfo>> {
        self.status().leader_info().cloned().map(Box::new)
    }

    pub(crate) fn refusal(&self, why: pb::refused::Why) -> pb::Refused {
        let leader = self.leader().filter(|id| *id != self.me).unwrap_or(0);
        pb::Refused { why: why.into(), leader }
    }

    /// Returns when this node no longer takes that one for the leader, or when the group has ended.
    pub(crate) async fn leader_is_no_more(&self, leader: NodeId) {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_and_update().current_leader == Some(leader) {
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Returns when somebody else leads, or after a pause, or when the group has ended.
    pub(crate) async fn leader_change_or(&self, leader: Option<NodeId>, pause: Duration) {
        let mut metrics = self.raft.server_metrics();
        let changed = async {
            while metrics.borrow_and_update().current_leader == leader {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    pub(crate) fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow_watched().clone();
        self.picture(&metrics)
    }

    fn picture(&self, metrics: &RaftMetrics<Types>) -> Status {
        let ended = self.ended();
        let applied = self.progress.applied();
        let effective = &metrics.membership_config;
        let members = members_of(effective.membership());
        let here = members.iter().any(|m| m.id == self.me);
        let settled = effective == &metrics.committed_membership_config;
        let gone = settled && !members.is_empty() && !here && self.log.was_member();
        let members = members.into_iter().map(|m| self.with_progress(m, metrics)).collect();
        let role = match metrics.state {
            _ if ended.is_some() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let committed = count_of(metrics.local_committed.as_ref()).max(applied);
        Status {
            group: self.group,
            me: self.me,
            term: metrics.current_term,
            leader: metrics.current_leader.filter(|_| ended.is_none()),
            role,
            last_index: metrics.last_log_index.map_or(0, |index| index + 1).max(committed),
            committed,
            applied,
            persisted: self.progress.persisted(),
            purged: count_of(metrics.purged.as_ref()),
            members,
            removed: gone || self.dismissed.load(Ordering::Relaxed),
            failure: match ended {
                Some(Ended::Failed(why)) => Some(why),
                _ => None,
            },
        }
    }

    fn with_progress(&self, mut member: Member, metrics: &RaftMetrics<Types>) -> Member {
        let Some(replication) = &metrics.replication else { return member };
        let now = Instant::now();
        if member.id == self.me {
            member.matched = Some(metrics.last_log_index.map_or(0, |index| index + 1));
            member.last_ack = Some(now);
            return member;
        }
        member.matched = replication.get(&member.id).map(|id| count_of(id.as_ref()));
        let heartbeat = metrics.heartbeat.as_ref().and_then(|h| h.get(&member.id).cloned());
        member.last_ack =
            heartbeat.flatten().and_then(|at| now.checked_sub(at.into_inner().elapsed()));
        member
    }

    fn publish(&self, always: bool) -> Status {
        let status = self.status();
        if let Some(leader) = status.leader
            && ![0, leader].contains(&self.led_by.swap(leader, Ordering::Relaxed))
        {
            self.peers.figures.leader_changes.inc();
        }
        self.status.send_if_modified(|current| {
            let news = always || differs(current, &status);
            *current = status.clone();
            news
        });
        status
    }

    /// Keeps the status true, notices new addresses of members, and the end of the Raft core.
    pub(crate) async fn run_status(self: Arc<Self>) {
        let mut server = self.raft.server_metrics();
        let mut metrics = self.raft.metrics();
        let mut alive = true;
        loop {
            let (running, known) = {
                let now = metrics.borrow_and_update();
                (now.running_state.clone(), news(&now))
            };
            server.borrow_and_update();
            if let Err(fatal) = running {
                let (journal, machine) = (crate::codes::JOURNAL, crate::codes::MACHINE);
                let code = if self.log.failed() { journal } else { machine };
                return self.end(Ended::Failed(format!("{code}: {fatal}")));
            }
            // The reason, if there is one, is told before the channels close.
            if !alive {
                return self.end(Ended::Failed(format!("{}: it ended", crate::codes::FAILED)));
            }
            let status = self.publish(false);
            for member in status.members.iter().filter(|m| m.id != self.me) {
                self.peers.learn(member.id, &member.info);
            }
            if status.members.iter().any(|m| m.id == self.me) {
                self.log.note_member();
            }
            let further = async {
                // Each answer to a heartbeat changes the metrics too: that is told less often.
                let begin = Instant::now();
                loop {
                    let changed = metrics.changed().await;
                    let now = metrics.borrow_and_update();
                    let due = begin.elapsed() >= self.options.election_min / 3;
                    if due || changed.is_err() || now.running_state.is_err() || news(&now) != known
                    {
                        break changed;
                    }
                }
            };
            let further = async {
                let changed = further.await;
                tokio::time::sleep(STATUS_INTERVAL).await;
                changed
            };
            alive = tokio::select! {
                changed = server.changed() => changed.is_ok(),
                changed = further => changed.is_ok(),
                () = self.stop.cancelled() => return,
            };
        }
    }

    /// Makes the machine durable now and then, and lets the log be cut below that.
    pub(crate) async fn run_persist(self: Arc<Self>) {
        // How many bytes of entries there had been at earlier positions.
        let mut marks = VecDeque::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.options.persist_interval) => {}
                () = self.progress.many.notified() => {}
                () = self.stop.cancelled() => return,
            }
            if self.progress.applied() == self.progress.persisted() {
                continue;
            }
            if let Err(why) = self.persist().await {
                return self.end(Ended::Failed(format!("{}: {why}", crate::codes::MACHINE)));
            }
            marks.push_back((self.progress.persisted(), self.log.appended()));
            self.cut_to_size(&mut marks).await;
        }
    }

    /// Cuts the log where what follows is about as large as may be kept.
    async fn cut_to_size(&self, marks: &mut VecDeque<(u64, u64)>) {
        let (mut cut, now) = (0, self.log.appended());
        while let Some((index, bytes)) = marks.front().copied() {
            if now - bytes <= self.options.keep_bytes {
                break;
            }
            cut = index;
            marks.pop_front();
        }
        if cut > 0 {
            let raft = self.raft.clone();
            let _ = unbroken(async move { raft.trigger().purge_log(cut - 1).await }).await;
        }
    }

    async fn persist(&self) -> Result<(), crate::error::Fatal> {
        let thread = self.thread.lock().clone();
        let Some(thread) = thread else { return Ok(()) };
        let (position, work) = thread.persist().await?;
        let _measured = self.peers.figures.persist.start_timer();
        let done = threads::blocking(work).await;
        done.map_err(crate::error::Fatal::new)??;
        self.progress.persist(position);
        // An error means that the core has ended, which the status task notices.
        let raft = self.raft.clone();
        let _ = unbroken(async move { raft.trigger().snapshot().await }).await;
        Ok(())
    }

    /// Stops everything and waits for it.
    pub(crate) async fn shutdown(&self) {
        self.end(Ended::Stopped);
        self.stop.cancel();
        let raft = self.raft.clone();
        if unbroken(async move { raft.shutdown().await }).await.is_err() {
            tracing::warn!(group = self.group, "the raft core ended badly");
        }
        self.tasks.close();
        if timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!(group = self.group, "the group's tasks do not end");
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && timeout(STOP_LIMIT, thread.end()).await.is_err()
        {
            tracing::warn!(group = self.group, "the machine's thread does not end");
        }
        self.publish(true);
    }
}

/// What the status shows of the metrics, but for who was heard when.
fn news(metrics: &RaftMetrics<Types>) -> impl PartialEq + use<> {
    (
        (metrics.last_log_index, metrics.local_committed, metrics.last_applied),
        (metrics.snapshot, metrics.purged, metrics.replication.clone()),
    )
}

/// Whether there is anything to tell: that a member lives still is not.
fn differs(a: &Status, b: &Status) -> bool {
    let still = |status: &Status| {
        let mut status = status.clone();
        for member in &mut status.members {
            member.last_ack = None;
        }
        status
    };
    still(a) != still(b)
}
