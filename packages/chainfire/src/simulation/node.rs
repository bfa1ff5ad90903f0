//! One simulated node: its disk and engine outlive its lives.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Group, GroupOptions, Host, HostOptions, NodeId, NodeInfo};
use engine::LossyMemory;
use journal::lossy::LossyDisk;
use journal::{Disk, Journal, Options};
use parking_lot::Mutex;
use prometheus::Registry;
use telemetry::Health;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::Lived;
use super::chance::Dice;
use super::clients::{Door, Doors};
use super::disorder::{Liar, Twice};
use super::net::{self, Net};
use super::trace::note;
use super::truth::{Spy, Truth};
use crate::assembly::{Assembly, Ground};
use crate::follow::Gates;
use crate::joining::Urls;
use crate::server::Peers;
use crate::settings::Settings;
use crate::store::{Reader, Store, StoreOptions};

const GROUP: consensus::GroupId = 1;
const SEGMENT: u64 = 64 << 10;
const ENTRY: usize = 16 << 10;

/// What all nodes of a world share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) net: Net,
    pub(super) doors: Doors,
    pub(super) truth: Arc<Mutex<Truth>>,
    pub(super) heartbeat: u64,
    pub(super) election: u64,
    pub(super) keep_entries: u64,
    /// Disks say that they synced, and did not.
    pub(super) lying_disks: bool,
    pub(super) spool: Arc<tempfile::TempDir>,
}

pub(super) struct SimNode {
    pub(super) id: NodeId,
    pub(super) disk: LossyDisk,
    engine: Arc<LossyMemory>,
    /// Milliseconds that a sync takes, at most.
    pub(super) sync: Arc<Mutex<(u64, Dice)>>,
    common: Common,
    running: Option<Running>,
}

struct Running {
    host: Host,
    journal: Journal,
    group: Group<Store>,
    reader: Reader,
    assembly: Assembly,
    stop: CancellationToken,
    life: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl SimNode {
    pub(super) fn new(id: NodeId, common: &Common, dice: &mut Dice) -> SimNode {
        let seed = dice.below(u64::MAX);
        SimNode {
            id,
            disk: LossyDisk::new(seed),
            engine: Arc::new(LossyMemory::new(&Store::SPACES, seed)),
            sync: Arc::new(Mutex::new((2, dice.fork()))),
            common: common.clone(),
            running: None,
        }
    }

    pub(super) fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("node{}", self.id),
            peer_urls: vec![net::url(self.id)],
            client_urls: Vec::new(),
            nonce: Bytes::new(),
            auto_promote: true,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn group(&self) -> Option<&Group<Store>> {
        self.running.as_ref().map(|running| &running.group)
    }

    /// Whether it runs and has not failed.
    pub(super) fn is_well(&self) -> bool {
        self.group().is_some_and(|group| group.status().failure.is_none())
    }

    fn settings(&self) -> Settings {
        let Common { heartbeat, election, keep_entries, .. } = self.common;
        let settings = serde_json::json!({
            "name": format!("node{}", self.id),
            "data_dir": "/nowhere",
            "cluster_id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "peer": { "listen": "127.0.0.1:0" },
            "raft": {
                "heartbeat_ms": heartbeat,
                "election_ms": election,
                "snapshot_entries": keep_entries,
            },
            "limits": { "request_seconds": 1, "progress_seconds": 2, "checkpoint_seconds": 1 },
        });
        serde_json::from_value(settings).expect("settings of a simulated node")
    }

    fn options(&self) -> GroupOptions {
        let Common { heartbeat, election, keep_entries, .. } = self.common;
        GroupOptions {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(election),
            election_max: Duration::from_millis(2 * election),
            batch_bytes: ENTRY,
            max_request: ENTRY,
            request_timeout: Duration::from_millis(1200),
            persist_interval: Duration::from_millis(400),
            keep_entries,
            ..GroupOptions::default()
        }
    }

    /// Begins a life; what cannot begin is told.
    pub(super) async fn start(&mut self) -> Lived<()> {
        assert!(self.running.is_none());
        note!("{} starts", self.id);
        self.common.truth.lock().restarts(self.id);
        let told =
            |what: &str, error: &dyn std::fmt::Display| format!("{}: {what}: {error}", self.id);
        let rung = Arc::new(Notify::new());
        let ring = rung.clone();
        let options =
            Options { segment_bytes: SEGMENT, cache_bytes: 16 << 10, ..Options::default() };
        let disk: Arc<dyn Disk> = match self.common.lying_disks {
            false => Arc::new(self.disk.clone()),
            true => Arc::new(Liar(self.disk.clone())),
        };
        let journal = Journal::open_stepped(disk, options, move || ring.notify_one())
            .map_err(|e| told("journal", &e))?;
        let mut tasks = vec![tokio::spawn(write(journal.clone(), rung, self.sync.clone()))];

        let truth = self.common.truth.clone();
        let engine = Arc::new(Spy { node: self.id, engine: self.engine.clone(), truth });
        let small = StoreOptions { cache_bytes: 4 << 10, ring_bytes: 8 << 10 };
        let (store, reader) = Store::open(engine, GROUP, small).map_err(|e| told("store", &e))?;
        let (net, me) = (self.common.net.clone(), self.id);
        let peers = Arc::new(Peers::through(move |url| net.channel(me, url)));
        let spool = self.common.spool.path().join(format!("{}", self.id));
        let host = Host::new(journal.clone(), peers.clone(), HostOptions::new(spool))
            .map_err(|e| told("host", &e))?;
        let group = host.start(GROUP, self.id, store, self.options()).await;
        let group = group.map_err(|e| told("group", &e))?;

        let (stop, life) = (CancellationToken::new(), CancellationToken::new());
        let (reporter, _) = rpc::health();
        let ground = Ground {
            settings: self.settings(),
            me: self.id,
            urls: Urls { peer: vec![net::url(self.id)], client: Vec::new() },
            peers,
            group: group.clone(),
            reader: reader.clone(),
            journal: journal.clone(),
            registry: Registry::new(),
            gates: Gates::new(&Health::new()),
            health: reporter,
            stop: stop.clone(),
        };
        let assembly = ground.assemble().map_err(|e| told("assembly", &e))?;
        let for_members = assembly.services.for_members(host.routes());
        let connections = UnboundedReceiverStream::new(self.common.net.listen(self.id));
        let connections = futures::StreamExt::map(connections, std::io::Result::Ok);
        let (until, stopped) = (stop.clone(), life.clone());
        let dice = Arc::new(Mutex::new(self.sync.lock().1.fork()));
        tasks.push(tokio::spawn(async move {
            let twice = tower::layer::layer_fn(move |inner| Twice { inner, dice: dice.clone() });
            let server = tonic::transport::Server::builder().layer(twice).add_routes(for_members);
            let serving = server.serve_with_incoming_shutdown(connections, until.cancelled_owned());
            tokio::select! { _ = serving => {} () = stopped.cancelled() => {} }
        }));
        tasks.push(tokio::spawn(watch_role(group.clone())));
        let routes = assembly.services.for_clients(Routes::default());
        self.common.doors.open(self.id, Door { routes, life: life.clone() });
        self.running = Some(Running { host, journal, group, reader, assembly, stop, life, tasks });
        Ok(())
    }

    /// One number for everything that it holds.
    pub(super) fn hash(&self) -> Option<u32> {
        self.running.as_ref().and_then(|running| running.reader.hash().ok())
    }

    pub(super) async fn form(&self) -> Lived<()> {
        let group = self.group().ok_or("not running")?;
        group.form(self.info()).await.map_err(|e| e.to_string().into())
    }

    /// The process dies. With `power`, what was not synced is lost or torn, and peers hear nothing.
    pub(super) async fn die(&mut self, power: bool) {
        let Some(running) = self.running.take() else { return };
        note!("{} dies, power {power}", self.id);
        self.common.doors.close(self.id);
        self.common.net.down(self.id, power);
        self.engine.fail();
        self.disk.kill();
        end(running).await;
        if power {
            self.disk.crash();
        }
        self.engine.crash();
        self.disk.limit_room(None);
        self.sync.lock().0 = 2;
        note!("{} is dead", self.id);
    }

    /// Stops in order.
    pub(super) async fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.common.doors.close(self.id);
        end(running).await;
        self.common.net.down(self.id, false);
    }
}

async fn end(running: Running) {
    let Running { host, journal, assembly, stop, life, tasks, .. } = running;
    life.cancel();
    stop.cancel();
    assembly.failure.abort();
    host.shutdown().await;
    tasks.iter().for_each(JoinHandle::abort);
    assembly.tasks.close();
    assembly.tasks.wait().await;
    journal.close();
}

/// Writes the journal, as its thread would.
async fn write(journal: Journal, rung: Arc<Notify>, sync: Arc<Mutex<(u64, Dice)>>) {
    loop {
        rung.notified().await;
        loop {
            let micros = {
                let (most, dice) = &mut *sync.lock();
                dice.below(1000 * *most)
            };
            tokio::time::sleep(Duration::from_micros(micros)).await;
            if !journal.step() {
                break;
            }
        }
    }
}

/// Notes who leads when.
async fn watch_role(group: Group<Store>) {
    let mut status = group.watch_status();
    let mut told = None;
    loop {
        let (me, role, term, failure) = {
            let now = status.borrow_and_update();
            (now.me, now.role, now.term, now.failure.clone())
        };
        if told.replace((role, term)) != Some((role, term)) {
            note!(
                "{me} is {role:?} in term {term}{}",
                failure.map(|f| format!(": {f}")).unwrap_or_default()
            );
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}
