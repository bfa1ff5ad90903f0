//! One node: its disk, engine and port outlive its process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use consensus::{Group, GroupId, GroupOptions, Host, HostOptions, NodeId, NodeInfo};
use engine::LossyMemory;
use journal::lossy::LossyDisk;
use journal::{Journal, Options};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use super::kv::{Kv, SPACES};
use super::net::{Dial, Net};

pub const GROUP: GroupId = 1;

pub struct Node {
    pub id: NodeId,
    pub address: SocketAddr,
    pub disk: LossyDisk,
    pub engines: BTreeMap<GroupId, Arc<LossyMemory>>,
    pub spool: tempfile::TempDir,
    pub net: Net,
    pub options: GroupOptions,
    pub poison: Option<Bytes>,
    pub admit: bool,
    listener: Option<TcpListener>,
    running: Option<Running>,
}

struct Running {
    host: Host,
    journal: Journal,
    groups: BTreeMap<GroupId, Group<Kv>>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Node {
    pub async fn new(id: NodeId, net: &Net, seed: u64) -> Self {
        // `RUST_LOG=openraft=debug` shows what happens.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "off".into()))
            .with_test_writer()
            .try_init();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            id,
            address: listener.local_addr().unwrap(),
            disk: LossyDisk::new(seed),
            engines: BTreeMap::from([(GROUP, Arc::new(LossyMemory::new(&SPACES, seed)))]),
            spool: tempfile::tempdir().unwrap(),
            net: net.clone(),
            options: super::options(),
            poison: None,
            admit: true,
            listener: Some(listener),
            running: None,
        }
    }

    /// A second group, before the start.
    pub fn add_group(&mut self, group: GroupId) {
        self.engines.insert(group, Arc::new(LossyMemory::new(&SPACES, self.id + group)));
    }

    pub fn info(&self) -> NodeInfo {
        NodeInfo {
            name: format!("node{:02}", self.id),
            peer_urls: vec![format!("http://{}", self.address)],
            ..NodeInfo::default()
        }
    }

    pub fn journal(&self) -> Journal {
        let options =
            Options { segment_bytes: 1 << 20, prepare_ahead: false, ..Options::default() };
        Journal::open(Arc::new(self.disk.clone()), options).unwrap()
    }

    pub async fn start(&mut self) {
        self.try_start().await.unwrap();
    }

    pub async fn try_start(&mut self) -> Result<(), consensus::ConsensusError> {
        assert!(self.running.is_none());
        let journal = self.journal();
        let dialer = Arc::new(Dial { net: self.net.clone(), me: self.id });
        let admit = self.admit;
        let options = HostOptions::new(self.spool.path())
            .admit(move |_| if admit { Ok(()) } else { Err("not today".into()) });
        let host = Host::new(journal.clone(), dialer, options)?;
        let mut groups = BTreeMap::new();
        for (group, engine) in &self.engines {
            let machine = Kv { engine: engine.clone(), group: *group, poison: self.poison.clone() };
            match host.start(*group, self.id, machine, self.options.clone()).await {
                Ok(started) => groups.insert(*group, started),
                Err(e) => {
                    host.shutdown().await;
                    journal.close();
                    return Err(e);
                }
            };
        }
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(self.address).await.unwrap(),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let server = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_routes(host.routes())
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
                stopped.cancelled().await;
            });
        let server = tokio::spawn(async move {
            let _ = server.await;
        });
        self.running = Some(Running { host, journal, groups, stop, server });
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub fn group(&self) -> Group<Kv> {
        self.group_of(GROUP)
    }

    pub fn group_of(&self, group: GroupId) -> Group<Kv> {
        self.running.as_ref().expect("the node runs").groups[&group].clone()
    }

    pub fn engine(&self) -> Arc<LossyMemory> {
        self.engines[&GROUP].clone()
    }

    /// Stops in order.
    pub async fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.server.abort();
        // Only then the next start can have the address.
        let _ = running.server.await;
        running.stop.cancel();
        running.host.shutdown().await;
        running.journal.close();
    }

    /// The process dies, the power stays: nothing more is written.
    pub async fn kill(&mut self) {
        self.end(false).await;
    }

    /// The power goes: what was not synced is lost or torn.
    pub async fn lose_power(&mut self) {
        self.end(true).await;
    }

    async fn end(&mut self, power: bool) {
        for engine in self.engines.values() {
            engine.fail();
        }
        self.disk.kill();
        self.stop().await;
        if power {
            self.disk.crash();
        }
        for engine in self.engines.values() {
            engine.crash();
        }
    }
}
