//! A whole member: from its settings to a listening process, and back down.
//!
//! The order matters. Nothing is touched before the settings are checked; ports are taken before
//! anybody is asked to let this member in; the id is on disk before Raft starts; and what is
//! stopped last is the journal.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Group, GroupOptions, Host, HostOptions, NodeInfo};
use engine::{FjallOptions, open_fjall};
use fault::{Fault, Kind};
use identity::SpiffeId;
use journal::{Journal, RealDisk};
use prometheus::Registry;
use rpc::{ClientAuth, Peer, Server, Tls};
use telemetry::Health;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::assembly::{Assembly, Ground};
use crate::codes;
use crate::data_dir::{DataDir, Endpoints};
use crate::follow::{self, Gates};
use crate::gateway;
use crate::gossip::{self, Gossip, Nodes};
use crate::joining::{self, Urls};
use crate::server::Peers;
use crate::settings::Settings;
use crate::store::{Reader, Store, StoreOptions};

/// Chainfire has one Raft group.
pub(crate) const GROUP: consensus::GroupId = 1;
/// How long a stop waits for calls that are under way.
const GRACE: Duration = Duration::from_secs(5);
/// Room in the log for what wraps a request.
const WRAPPING: usize = 64 << 10;

/// Runs a member until `stop`, or until it cannot go on.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), Fault> {
    let mut member = start(settings, stop.clone()).await?;
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        fault = member.failed() => Err(fault),
    };
    member.stop().await;
    ended
}

/// A running member.
pub struct Member {
    endpoints: Endpoints,
    nodes: Option<watch::Receiver<Arc<Nodes>>>,
    group: Group<Store>,
    host: Host,
    journal: Journal,
    reader: Reader,
    data: DataDir,
    stop: CancellationToken,
    servers: TaskTracker,
    tasks: TaskTracker,
    failure: Option<JoinHandle<Fault>>,
}

/// The listeners, before they serve.
struct Listeners {
    client: Option<Server>,
    peer: Server,
    plaintext: Option<Server>,
}

/// Starts a member and returns when it listens; it may not have a leader yet. `stop` ends a join
/// that waits for the cluster; a member that runs is ended by [`Member::stop`].
pub async fn start(settings: Settings, stop: CancellationToken) -> Result<Member, Fault> {
    settings.check()?;
    let data = DataDir::open(&settings.data_dir)?;
    let mut owner = data.owner(settings.cluster_id, &settings.name)?;
    let tls = settings.tls.as_ref().map(Tls::load).transpose()?;
    if let Some(tls) = &tls {
        check_identity(tls, &settings.name)?;
    }
    let listeners = listen(&settings, tls.as_ref()).await?;
    let udp = match &settings.gossip {
        Some(gossip) => Some(Gossip::bind(gossip).await?),
        None => None,
    };
    let mut endpoints = listeners.endpoints();
    endpoints.gossip = udp.as_ref().and_then(|udp| udp.local_addr().ok()).map(|it| it.to_string());
    let urls = urls(&settings, &listeners);

    let (health, registry) = (Health::new(), Registry::new());
    let gates = Gates::new(&health);
    telemetry::process_metrics(&registry);
    listeners.register(&registry);
    let own_stop = CancellationToken::new();
    // Whatever fails below takes the tasks with it.
    let cleanup = own_stop.clone().drop_guard();
    if let Some(ops) = &settings.ops {
        let (address, _) =
            telemetry::ops(ops.listen, health, registry.clone(), own_stop.clone()).await?;
        endpoints.ops = Some(address.to_string());
    }

    let peers = Arc::new(Peers::new(tls));
    let gate = (&gates.raft, &stop);
    let me = joining::member_id(&settings, &data, &mut owner, &urls, &peers, gate).await?;
    endpoints.member_id = me;
    endpoints.pid = std::process::id();

    let (journal, store, reader) = open_storage(&settings, &data).await?;
    if owner.started && journal.groups().is_empty() {
        return Err(Fault::new(
            codes::DATA_GONE,
            Kind::Precondition,
            format!("the store's data is gone from {}", settings.data_dir.display()),
            "remove this member, empty the folder, and let it join anew",
        ));
    }
    let host = start_host(&data, &journal, &peers)?;
    host.register_metrics(&registry);
    // A log that is there says that the cluster was formed, before Raft has read it.
    let has_log = journal.span(GROUP).is_some() || journal.purged(GROUP) > 0;
    let group = host.start(GROUP, me, store, group_options(&settings)).await?;
    // The journal names the node by now. Nobody is answered, and nothing formed, before this.
    if !owner.started {
        owner.started = true;
        data.keep_owner(&owner)?;
    }
    if owner.formed && !has_log && !group.status().formed() {
        let info = NodeInfo {
            name: settings.name.clone(),
            peer_urls: urls.peer.clone(),
            client_urls: urls.client.clone(),
            nonce: Bytes::copy_from_slice(owner.nonce.as_bytes()),
            auto_promote: true,
        };
        group.form(info).await?;
        tracing::info!(cluster = %settings.cluster_id, "formed");
    }

    let gossip = match (udp, &settings.gossip) {
        (Some(socket), Some(gossip)) => {
            let begin = gossip::Start {
                settings: gossip,
                me,
                run: data.next_run(unix_ms())?,
                socket,
                client_urls: urls.client.clone(),
                peer_urls: urls.peer.clone(),
                status: group.watch_status(),
                peers: peers.clone(),
                registry: &registry,
            };
            Some(Gossip::start(begin, own_stop.clone())?)
        }
        _ => None,
    };
    let (reporter, health_service) = rpc::health();
    let forgetting =
        follow::forget_removed(group.watch_status(), peers.clone(), host.clone(), own_stop.clone());
    let ground = Ground {
        settings,
        me,
        urls,
        peers,
        group: group.clone(),
        reader: reader.clone(),
        journal: journal.clone(),
        registry,
        gates,
        health: reporter,
        stop: own_stop.clone(),
    };
    let Assembly { services, tasks, failure } = ground.assemble()?;
    tasks.spawn(forgetting);
    let (gossip, gossiping) = gossip.unzip();
    let nodes = gossip.as_ref().map(|gossip: &Gossip| gossip.nodes.clone());
    let services = services.with_gossip(gossip);
    if let Some(gossiping) = gossiping {
        tasks.spawn(gossiping);
    }
    let for_clients = services.for_clients(
        Routes::new(health_service.clone())
            .add_service(rpc::reflection(api::FILE_DESCRIPTOR_SET)?)
            .add_service(rpc::reflection_v1alpha(api::FILE_DESCRIPTOR_SET)?),
    );
    let web = gateway::router(services.node(), for_clients.clone())?;
    let for_members = services.for_members(host.routes()).add_service(health_service);
    let servers = TaskTracker::new();
    let with_routes = [
        (Some(listeners.peer), for_members, None),
        (listeners.client, for_clients.clone(), Some(web.clone())),
        (listeners.plaintext, for_clients, Some(web)),
    ];
    for (server, routes, web) in with_routes {
        let Some(server) = server else { continue };
        let stop = own_stop.clone();
        servers.spawn(async move {
            let served = match web {
                Some(web) => server.serve_both(routes, web, stop).await,
                None => server.serve(routes, stop).await,
            };
            if let Err(fault) = served {
                tracing::error!(%fault, "listener ended");
            }
        });
    }
    data.keep_endpoints(&endpoints)?;
    tracing::info!(member = format!("{me:x}"), ?endpoints, "running");
    cleanup.disarm();
    let failure = Some(failure);
    Ok(Member {
        endpoints,
        nodes,
        group,
        host,
        journal,
        reader,
        data,
        stop: own_stop,
        servers,
        tasks,
        failure,
    })
}

impl Member {
    /// Where it listens.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Reads of its store.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// What it knows of the cluster.
    pub fn status(&self) -> consensus::Status {
        self.group.status()
    }

    /// Follows what it knows of the cluster: who leads, who is a member.
    pub fn watch_status(&self) -> watch::Receiver<consensus::Status> {
        self.group.watch_status()
    }

    /// Follows which members answer, by gossip; none where gossip is off.
    pub fn watch_nodes(&self) -> Option<watch::Receiver<Arc<Nodes>>> {
        self.nodes.clone()
    }

    /// Returns when the member cannot go on, with the reason.
    pub async fn failed(&mut self) -> Fault {
        match &mut self.failure {
            Some(failure) => failure.await.unwrap_or_else(|error| {
                Fault::new(codes::STOPPED, Kind::Internal, error.to_string(), "report this")
            }),
            None => std::future::pending().await,
        }
    }

    /// Hands leadership over if there is somebody, answers what is under way, and stops.
    pub async fn stop(self) {
        self.hand_over().await;
        self.stop.cancel();
        self.servers.close();
        self.tasks.close();
        self.servers.wait().await;
        self.tasks.wait().await;
        if let Some(failure) = &self.failure {
            failure.abort();
        }
        self.host.shutdown().await;
        self.data.forget_endpoints();
        let journal = self.journal;
        let _ = tokio::task::spawn_blocking(move || journal.close()).await;
        tracing::info!("stopped");
    }

    /// So that the others need not wait for an election.
    async fn hand_over(&self) {
        let status = self.group.status();
        if !status.leads() || status.failure.is_some() {
            return;
        }
        let fresh = |at: tokio::time::Instant| at.elapsed() < Duration::from_secs(1);
        let heir = status
            .members
            .iter()
            .filter(|member| member.voter && member.id != status.me)
            .filter(|member| member.last_ack.is_some_and(fresh))
            .max_by_key(|member| member.matched);
        let Some(heir) = heir else { return };
        let handing = self.group.transfer_leader(heir.id);
        match tokio::time::timeout(Duration::from_secs(2), handing).await {
            Ok(Ok(())) => tracing::info!(to = heir.info.name, "leadership handed over"),
            Ok(Err(error)) => tracing::info!(%error, "leadership not handed over"),
            Err(_) => tracing::info!("leadership not handed over in time"),
        }
    }
}

/// Wall time, for people and for numbering runs.
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn check_identity(tls: &Tls, name: &str) -> Result<(), Fault> {
    match tls.id() {
        Some(SpiffeId::Service { service, node, .. })
            if service == crate::server::SERVICE && node == name =>
        {
            Ok(())
        }
        other => Err(Fault::new(
            codes::SETTINGS,
            Kind::Invalid,
            format!(
                "the certificate of [tls] is {}, not that of chainfire on {name}",
                other.map_or("without an id".into(), |id| id.to_string())
            ),
            "name the certificate that was enrolled for chainfire on this node",
        )),
    }
}

async fn listen(settings: &Settings, tls: Option<&Tls>) -> Result<Listeners, Fault> {
    let server = |name: &str, secure: bool| {
        let server = Server::new(name).grace(GRACE);
        match tls {
            Some(tls) if secure => server.tls(tls.clone(), ClientAuth::Required),
            _ => server.plaintext(),
        }
    };
    let peer = server("chainfire-peer", true).bind(settings.peer.listen).await?;
    let client = match &settings.client {
        Some(client) => Some(server("chainfire-client", true).bind(client.listen).await?),
        None => None,
    };
    let plaintext = match &settings.plaintext {
        Some(plain) => Some(server("chainfire-plaintext", false).bind(plain.listen).await?),
        None => None,
    };
    Ok(Listeners { client, peer, plaintext })
}

impl Listeners {
    fn endpoints(&self) -> Endpoints {
        let address = |server: &Server| server.local_addr().to_string();
        Endpoints {
            client: self.client.as_ref().map(address),
            peer: Some(address(&self.peer)),
            plaintext: self.plaintext.as_ref().map(address),
            ..Endpoints::default()
        }
    }

    fn register(&self, registry: &Registry) {
        let all = [self.client.as_ref(), Some(&self.peer), self.plaintext.as_ref()];
        all.into_iter().flatten().for_each(|server| server.register_metrics(registry));
    }
}

/// What is advertised: as set, or made from where the listener really is.
fn urls(settings: &Settings, listeners: &Listeners) -> Urls {
    let url = |advertise: Option<&String>, scheme: &str, address: SocketAddr| match advertise {
        Some(url) => vec![url.clone()],
        None => vec![format!("{scheme}://{address}")],
    };
    let peer_scheme = if settings.tls.is_some() { "https" } else { "http" };
    let peer = url(settings.peer.advertise.as_ref(), peer_scheme, listeners.peer.local_addr());
    let client = match (&settings.client, &listeners.client, &listeners.plaintext) {
        (Some(client), Some(server), _) => {
            url(client.advertise.as_ref(), "https", server.local_addr())
        }
        (_, _, Some(server)) => url(None, "http", server.local_addr()),
        _ => Vec::new(),
    };
    Urls { peer, client }
}

async fn open_storage(
    settings: &Settings,
    data: &DataDir,
) -> Result<(Journal, Store, Reader), Fault> {
    let (journal_dir, engine_dir) = (data.join("journal"), data.join("engine"));
    let cache = settings.storage.cache_bytes;
    let open = move || open_at(&journal_dir, &engine_dir, cache);
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|e| Fault::new(codes::STORAGE, Kind::Internal, e.to_string(), "report this"))?
}

/// Opens what lies in these folders, or makes them. Waits for the disk.
pub(crate) fn open_at(
    journal: &Path,
    engine: &Path,
    cache: u64,
) -> Result<(Journal, Store, Reader), Fault> {
    let disk = RealDisk::open(journal)?;
    let journal = Journal::open(disk, journal::Options::default())?;
    let options = FjallOptions { cache_bytes: cache / 4, ..FjallOptions::default() };
    let engine = open_fjall(engine, &Store::SPACES, options)?;
    let defaults = StoreOptions::default();
    let cache_bytes = (cache - cache / 4) as usize;
    let options = StoreOptions { cache_bytes, ..defaults };
    let (store, reader) = Store::open(engine, GROUP, options).map_err(|error| {
        Fault::new(
            codes::STORAGE,
            Kind::Corrupt,
            format!("the store does not open: {error}"),
            "remove this member, empty its data folder and let it join anew",
        )
    })?;
    Ok((journal, store, reader))
}

fn start_host(data: &DataDir, journal: &Journal, peers: &Arc<Peers>) -> Result<Host, Fault> {
    let admitted = peers.clone();
    let options = HostOptions::new(data.join("spool")).admit(move |extensions| {
        admitted.member(extensions.get::<Peer>()).map(drop).map_err(|fault| fault.to_string())
    });
    Ok(Host::new(journal.clone(), peers.clone(), options)?)
}

pub(crate) fn group_options(settings: &Settings) -> GroupOptions {
    let defaults = GroupOptions::default();
    let max_request = settings.limits.request_bytes + WRAPPING;
    GroupOptions {
        heartbeat: Duration::from_millis(settings.raft.heartbeat_ms),
        election_min: Duration::from_millis(settings.raft.election_ms),
        election_max: Duration::from_millis(2 * settings.raft.election_ms),
        max_request,
        max_in_flight: defaults.max_in_flight.max(2 * max_request),
        request_timeout: Duration::from_secs(settings.limits.request_seconds),
        persist_interval: Duration::from_secs(settings.storage.persist_seconds),
        keep_entries: settings.raft.snapshot_entries,
        ..defaults
    }
}
