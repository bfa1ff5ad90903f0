//! What all groups of a process share: one journal, one spool, one channel to each peer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use futures::future::BoxFuture;
use journal::Journal;
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::apply::{Apply, Progress};
use crate::error::ConsensusError;
use crate::group::Group;
use crate::log::Log;
use crate::machine::Machine;
use crate::network::Network;
use crate::options::{Dialer, GroupOptions, HostOptions};
use crate::peers::Peers;
use crate::propose::{Queue, Waiters};
use crate::raft::Raft;
use crate::read::Reads;
use crate::service::Service;
use crate::shared::Shared;
use crate::spool::Spool;
use crate::thread::{Identity, Thread};
use crate::threads;
use crate::types::{GroupId, NodeId, Role, Status};

/// The process's part in all its groups. Cloning it is cheap.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Journal,
    peers: Arc<Peers>,
    spool: Spool,
    service: Service,
    max_message: usize,
    groups: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    stopped: bool,
    running: HashMap<GroupId, Stop>,
}

/// How a group is stopped, once it runs.
type Stop = Option<Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>>;

impl Host {
    /// Opens the spool. Groups are started one by one.
    pub fn new(
        journal: Journal,
        dialer: Arc<dyn Dialer>,
        options: HostOptions,
    ) -> Result<Self, ConsensusError> {
        let spool = Spool::open(&options.spool)?;
        let peers = Arc::new(Peers::new(dialer, options.max_message));
        let service = Service::new(options.admit, spool.clone(), options.max_message);
        let (max_message, groups) = (options.max_message, Mutex::default());
        Ok(Self { inner: Arc::new(Inner { journal, peers, spool, service, max_message, groups }) })
    }

    /// The service for the peer port. Groups that start later are served too.
    pub fn routes(&self) -> tonic::service::Routes {
        self.inner.service.routes()
    }

    /// What is counted of all groups: times of applying, proposals, leaders, peers, snapshots.
    pub fn register_metrics(&self, registry: &prometheus::Registry) {
        self.inner.peers.figures.register(registry);
    }

    /// Forgets what was counted of peers that are in no group any more. Of use where the caller knows
    /// all groups.
    pub fn keep_peers(&self, is_peer: impl Fn(NodeId) -> bool) {
        self.inner.peers.figures.keep_peers(is_peer);
    }

    /// Starts a group on this node: recovers its machine and its log, and takes part from then on.
    /// A node that is new to the group waits to be formed, or to be added by a leader.
    pub async fn start<M: Machine>(
        &self,
        group: GroupId,
        me: NodeId,
        machine: M,
        options: GroupOptions,
    ) -> Result<Group<M>, ConsensusError> {
        options.check()?;
        options.check_room(self.inner.journal.largest_record(), self.inner.max_message)?;
        {
            let mut groups = self.inner.groups.lock();
            if groups.stopped {
                return Err(ConsensusError::Stopped);
            }
            if groups.running.contains_key(&group) {
                return Err(ConsensusError::Running(group));
            }
            groups.running.insert(group, None);
        }
        let started = self.start_reserved(group, me, machine, options).await;
        let mut groups = self.inner.groups.lock();
        match started {
            Ok(shared) => {
                let (host, stopping) = (self.clone(), shared.clone());
                let stop = move || -> BoxFuture<'static, ()> {
                    let (host, shared) = (host.clone(), stopping.clone());
                    Box::pin(async move { host.stop(&shared).await })
                };
                groups.running.insert(group, Some(Arc::new(stop)));
                Ok(Group::new(shared, self.clone()))
            }
            Err(e) => {
                groups.running.remove(&group);
                Err(e)
            }
        }
    }

    async fn start_reserved<M: Machine>(
        &self,
        group: GroupId,
        me: NodeId,
        machine: M,
        options: GroupOptions,
    ) -> Result<Arc<Shared<M>>, ConsensusError> {
        let storage = move |e: String| ConsensusError::Storage(format!("group {group}: {e}"));
        let config = raft_config(group, &options)?;
        let boot = rand::random();
        let (journal, spool) = (self.inner.journal.clone(), self.inner.spool.clone());
        let opened = threads::blocking(move || {
            let fatal = |e: crate::error::Fatal| storage(e.0);
            let identity = Identity { group, me, boot };
            let log = Log::open(journal, group, me, machine.applied() != Default::default())?;
            let (thread, position) = Thread::start(machine, identity, &spool).map_err(fatal)?;
            Ok::<_, ConsensusError>((log, thread, position))
        });
        let (log, thread, position) = opened.await.map_err(|e| storage(e.to_string()))??;
        for (id, info) in position.members.nodes().filter(|(id, _)| **id != me) {
            self.inner.peers.learn(*id, info);
        }
        let progress = Arc::new(Progress::new(position, options.persist_bytes));
        let waiters = Arc::new(Waiters::new());
        let apply = Apply {
            thread: thread.clone(),
            progress: progress.clone(),
            waiters: waiters.clone(),
            spool: self.inner.spool.clone(),
            figures: self.inner.peers.figures.clone(),
        };
        let network = Network { group, me, peers: self.inner.peers.clone(), log: log.clone() };
        let raft = Raft::<M>::new(me, Arc::new(config), network, log.clone(), apply).await;
        let raft = raft.map_err(|e| storage(e.to_string()))?;
        let shared = Arc::new(Shared {
            group,
            me,
            boot,
            options,
            raft,
            log,
            peers: self.inner.peers.clone(),
            progress,
            waiters,
            queue: Queue::new(),
            reads: Reads::new(),
            thread: Mutex::new(Some(thread)),
            status: watch::Sender::new(nothing_yet(group, me)),
            ended: watch::Sender::new(None),
            led_by: AtomicU64::new(0),
            dismissed: AtomicBool::new(false),
            heard: Arc::new(Mutex::new(Instant::now())),
            changing: tokio::sync::Mutex::new(()),
            receiving: Arc::new(Semaphore::new(1)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared.status.send_replace(shared.status());
        shared.tasks.spawn(shared.clone().run_status());
        shared.tasks.spawn(shared.clone().run_batcher());
        shared.tasks.spawn(shared.clone().run_reads());
        shared.tasks.spawn(shared.clone().run_persist());
        shared.tasks.spawn(shared.clone().run_standing());
        shared.tasks.spawn(shared.clone().run_finish_changes());
        self.inner.service.add(group, shared.clone());
        Ok(shared)
    }

    pub(crate) async fn stop<M: Machine>(&self, shared: &Shared<M>) {
        self.inner.service.remove(shared.group);
        shared.shutdown().await;
        self.inner.groups.lock().running.remove(&shared.group);
    }

    /// Stops all groups. The journal stays open: it belongs to the caller.
    pub async fn shutdown(&self) {
        let stops: Vec<_> = {
            let mut groups = self.inner.groups.lock();
            groups.stopped = true;
            groups.running.values().flatten().cloned().collect()
        };
        futures::future::join_all(stops.iter().map(|stop| stop())).await;
    }
}

fn nothing_yet(group: GroupId, me: NodeId) -> Status {
    Status {
        group,
        me,
        term: 0,
        leader: None,
        role: Role::Learner,
        last_index: 0,
        committed: 0,
        applied: 0,
        persisted: 0,
        purged: 0,
        members: Vec::new(),
        removed: false,
        failure: None,
    }
}

/// The library waits for the lease of the old leader (its maximum) and then for a random time
/// between its minimum and maximum; together that makes our minimum and maximum.
fn raft_config(group: GroupId, options: &GroupOptions) -> Result<Config, ConsensusError> {
    let heartbeat = options.heartbeat.as_millis() as u64;
    let lease = (options.election_max.as_millis() as u64) / 2;
    let least = (options.election_min.as_millis() as u64).saturating_sub(lease);
    let config = Config {
        cluster_name: format!("{group:x}"),
        heartbeat_interval: heartbeat,
        election_timeout_min: least.max(2 * heartbeat),
        election_timeout_max: lease.max(3 * heartbeat),
        install_snapshot_timeout: 600_000,
        max_payload_entries: 256,
        replication_lag_threshold: options.promote_lag,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.keep_entries,
        purge_batch_size: 1,
        broadcast_submitted_on_append: Some(true),
        enable_pre_vote: Some(true),
        // A restarted leader may have forgotten what it had committed: it is elected anew.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|e| ConsensusError::Options(e.to_string()))
}
