//! What a member is above its Raft group: services, watch hub, lessor, and the tasks that watch
//! over them. The same in a process and in a simulation: nothing here opens a file or a port.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use consensus::{Group, NodeId};
use fault::{Fault, Kind};
use journal::Journal;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

use crate::codes;
use crate::follow::{self, Gates};
use crate::joining::Urls;
use crate::server::{
    Gauges, Headers, Hub, Lessor, Metrics, Node, Passwords, Peers, QueueLimits, Rates, Services,
    Sessions, feed, promote_learners,
};
use crate::settings::Settings;
use crate::store::{Reader, Store};

/// After so many elections' time without a word, a member that was let in asks whether it still is.
const SILENCE: u32 = 10;
/// The largest answer of a watch, but for one revision that is larger; and a page of history.
const WATCH_ANSWER: usize = 1 << 20;
const WATCH_PAGE: usize = 512 << 10;

/// What a member stands on.
pub(crate) struct Ground {
    pub(crate) settings: Settings,
    pub(crate) me: NodeId,
    pub(crate) urls: Urls,
    pub(crate) peers: Arc<Peers>,
    pub(crate) group: Group<Store>,
    pub(crate) reader: Reader,
    pub(crate) journal: Journal,
    pub(crate) registry: Registry,
    pub(crate) gates: Gates,
    pub(crate) health: HealthReporter,
    /// Ends the tasks and the endless streams.
    pub(crate) stop: CancellationToken,
}

/// What serves, and what runs beside it.
pub(crate) struct Assembly {
    pub(crate) services: Services,
    pub(crate) tasks: TaskTracker,
    /// Ends when the member cannot go on, with the reason.
    pub(crate) failure: JoinHandle<Fault>,
}

impl Ground {
    /// Puts the member together and starts its tasks.
    pub(crate) fn assemble(self) -> Result<Assembly, Fault> {
        let Ground { settings, me, urls, peers, group, reader, .. } = self;
        let Ground { journal, registry, gates, health, stop, .. } = self;
        let (quorum, has_quorum) = watch::channel(false);
        let headers = Headers {
            cluster_id: short_id(settings.cluster_id),
            member_id: me,
            status: group.watch_status(),
        };
        let election = Duration::from_millis(settings.raft.election_ms);
        let node = Arc::new(Node {
            group: group.clone(),
            reader: reader.clone(),
            headers: headers.clone(),
            limits: settings.limits.clone(),
            quota_bytes: settings.storage.quota_bytes,
            cluster_id: settings.cluster_id,
            lessor: Arc::new(Lessor::new(election)),
            renewals: Arc::default(),
            peers: peers.clone(),
            quorum: has_quorum.clone(),
            full: AtomicBool::new(false),
            metrics: Metrics::new(&registry).map_err(twice)?,
            passwords: Passwords::new(settings.auth.bcrypt_cost),
            rates: Rates::default(),
            token_seconds: settings.auth.token_seconds,
            stop: stop.clone(),
        });
        let changes = reader.subscribe();
        let hub = Arc::new(Hub::new(reader.revision(), QueueLimits::default()));
        let sessions = Sessions {
            hub: hub.clone(),
            source: reader.clone(),
            headers,
            stop: stop.clone(),
            answer_bytes: WATCH_ANSWER.min(settings.limits.request_bytes),
            page_bytes: WATCH_PAGE,
            progress: Duration::from_secs(settings.limits.progress_seconds),
        };
        let weak = Arc::downgrade(&node);
        Gauges::register(&registry, weak.clone(), Arc::downgrade(&hub), journal.clone())
            .map_err(twice)?;

        let tasks = TaskTracker::new();
        let watch_quorum = follow::watch_quorum(group.clone(), quorum, election);
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            tokio::select! { () = watch_quorum => {} () = stopped => {} }
        });
        tasks.spawn(feed(hub, reader, changes, stop.clone()));
        tasks.spawn(node.lessor.clone().run(weak.clone(), stop.clone()));
        tasks.spawn(promote_learners(weak.clone(), stop.clone()));
        tasks.spawn(follow::watch_quota(weak, stop.clone()));
        tasks.spawn(follow::advertise(node.clone(), settings.name, urls, stop));
        let follow = follow::follow(group.watch_status(), has_quorum, journal, gates, health);
        let (status, join) = (group.watch_status(), settings.join);
        let cluster = short_id(settings.cluster_id);
        let dropped = follow::dropped(me, cluster, status, peers, join, SILENCE * election);
        let failure = tokio::spawn(async move {
            tokio::select! { fault = follow => fault, fault = dropped => fault }
        });

        let least_ttl = (3 * settings.raft.election_ms).div_ceil(2000) as i64;
        Ok(Assembly { services: Services::new(node, sessions, least_ttl), tasks, failure })
    }
}

/// The cluster's id in the headers of etcd's API, which has 64 bits for it.
pub(crate) fn short_id(id: uuid::Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    high ^ low
}

fn twice(error: prometheus::Error) -> Fault {
    Fault::new(codes::SETTINGS, Kind::Internal, format!("metrics: {error}"), "report this")
}
