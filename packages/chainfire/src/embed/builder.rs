//! Building, and holding, an embedded member.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chainfire_client::{Client, prefix_end};
use fault::{Fault, Kind};
use identity::TlsFiles;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::cluster_events::{self, ClusterEventHandler};
use super::kv_events::{self, From, KvEventHandler};
use crate::codes;
use crate::data_dir::{Endpoints, known_cluster};
use crate::gossip::Nodes;
use crate::run::{Member, start};
use crate::settings::{Endpoint, GossipSettings, Initial, Plaintext, Settings};
use crate::store::{KeyRange, Reader};

const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

type Handler = Box<dyn FnOnce(&Member, CancellationToken, &TaskTracker) + Send>;

/// Changes settings that the builder has no words for.
type Adjust = Box<dyn FnOnce(&mut Settings) + Send>;

/// Makes a member inside this program. By default it is one node, alone, in the folder given, that
/// listens on free ports of the loopback address.
#[must_use = "nothing happens before start"]
pub struct ClusterBuilder {
    folder: PathBuf,
    name: String,
    cluster_id: Option<Uuid>,
    initial: Initial,
    join: Vec<String>,
    tls: Option<TlsFiles>,
    without_tls: bool,
    client: SocketAddr,
    peer: SocketAddr,
    ops: Option<SocketAddr>,
    gossip: Option<GossipSettings>,
    adjust: Option<Adjust>,
    handlers: Vec<Handler>,
}

impl ClusterBuilder {
    /// In this folder, which is the member's alone; made if it is missing.
    pub fn new(folder: impl Into<PathBuf>) -> ClusterBuilder {
        ClusterBuilder {
            folder: folder.into(),
            name: "embedded".to_owned(),
            cluster_id: None,
            initial: Initial::Form,
            join: Vec::new(),
            tls: None,
            without_tls: false,
            client: ANY_PORT,
            peer: ANY_PORT,
            ops: None,
            gossip: None,
            adjust: None,
            handlers: Vec::new(),
        }
    }

    /// The member's name, unique in its cluster; `embedded` without this.
    pub fn name(mut self, name: impl Into<String>) -> ClusterBuilder {
        self.name = name.into();
        self
    }

    /// The cluster's id. Without this it is the one in the folder, or a new one; a member that joins
    /// needs it.
    pub fn cluster_id(mut self, id: Uuid) -> ClusterBuilder {
        self.cluster_id = Some(id);
        self
    }

    /// Joins the members at these peer URLs when the folder is empty, instead of forming a cluster.
    pub fn join(
        mut self,
        peer_urls: impl IntoIterator<Item = impl Into<String>>,
    ) -> ClusterBuilder {
        self.initial = Initial::Join;
        self.join = peer_urls.into_iter().map(Into::into).collect();
        self
    }

    /// Certificates of this node's chainfire, for both listeners and for dialing members.
    pub fn tls(mut self, files: TlsFiles) -> ClusterBuilder {
        self.tls = Some(files);
        self
    }

    /// Without certificates: whoever reaches the ports is let in. It must be said, and fits the
    /// loopback address or a closed network.
    pub fn without_tls(mut self) -> ClusterBuilder {
        self.without_tls = true;
        self
    }

    /// Where clients come in; a free port of the loopback address without this.
    pub fn client_listen(mut self, address: SocketAddr) -> ClusterBuilder {
        self.client = address;
        self
    }

    /// Where other members come in; a free port of the loopback address without this.
    pub fn peer_listen(mut self, address: SocketAddr) -> ClusterBuilder {
        self.peer = address;
        self
    }

    /// Where probes and metrics are answered; nowhere without this.
    pub fn ops_listen(mut self, address: SocketAddr) -> ClusterBuilder {
        self.ops = Some(address);
        self
    }

    /// Gossip with the other members, which tells which of them answer.
    pub fn gossip(mut self, gossip: GossipSettings) -> ClusterBuilder {
        self.gossip = Some(gossip);
        self
    }

    /// Changes any of the settings, last of all.
    pub fn adjust(mut self, adjust: impl FnOnce(&mut Settings) + Send + 'static) -> ClusterBuilder {
        self.adjust = Some(Box::new(adjust));
        self
    }

    /// Tells this handler what happens in the cluster. Several may be given.
    pub fn on_cluster(mut self, handler: impl ClusterEventHandler) -> ClusterBuilder {
        self.handlers.push(Box::new(move |member, stop, tasks| {
            let (status, nodes) = (member.watch_status(), member.watch_nodes());
            tasks.spawn(cluster_events::tell(handler, status, nodes, stop));
        }));
        self
    }

    /// Tells this handler every change of the keys that begin with `prefix` (of all keys, where it
    /// is empty). Several may be given.
    pub fn on_kv(
        mut self,
        prefix: impl Into<Bytes>,
        from: From,
        handler: impl KvEventHandler,
    ) -> ClusterBuilder {
        let range = under(&prefix.into());
        self.handlers.push(Box::new(move |member, stop, tasks| {
            let reader = member.reader().clone();
            let from = match from {
                From::Now => reader.revision() + 1,
                From::Revision(revision) => revision.max(1),
            };
            tasks.spawn(kv_events::tell(handler, reader, range, from, stop));
        }));
        self
    }

    /// Starts the member. It returns when it listens; [`Cluster::ready`] waits for a leader.
    ///
    /// # Errors
    /// Settings that cannot work, a folder in use or of another cluster, ports that are taken,
    /// certificates that do not fit, a join that is refused.
    pub async fn start(self) -> Result<Cluster, Fault> {
        let ClusterBuilder { folder, tls, adjust, handlers, .. } = self;
        let refuse =
            |what: &str, hint: &str| Err(Fault::new(codes::SETTINGS, Kind::Invalid, what, hint));
        if tls.is_none() && !self.without_tls {
            return refuse(
                "neither certificates nor their absence were asked for",
                "call tls, or without_tls",
            );
        }
        if tls.is_some() && self.without_tls {
            return refuse("tls and without_tls contradict each other", "call one of the two");
        }
        let cluster_id = match (self.cluster_id, known_cluster(&folder)?) {
            (Some(id), _) | (None, Some(id)) => id,
            (None, None) if self.initial == Initial::Form => Uuid::now_v7(),
            (None, None) => {
                return refuse("a member that joins needs the cluster's id", "call cluster_id");
            }
        };
        let endpoint = |listen| Endpoint { listen, advertise: None };
        let mut settings = Settings::new(self.name, folder, cluster_id, endpoint(self.peer));
        settings.initial = self.initial;
        settings.join = self.join;
        settings.ops = self.ops.map(|listen| telemetry::OpsSettings { listen });
        settings.gossip = self.gossip;
        match tls {
            Some(files) => {
                settings.client = Some(endpoint(self.client));
                settings.tls = Some(files);
            }
            None => {
                settings.plaintext = Some(Plaintext { listen: self.client });
                settings.plaintext_peer = true;
            }
        }
        if let Some(adjust) = adjust {
            adjust(&mut settings);
        }
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let files = settings.tls.clone();
        let member = start(settings, stop.clone()).await?;
        for handler in handlers {
            handler(&member, stop.clone(), &tasks);
        }
        tasks.close();
        Ok(Cluster { member, files, stop, tasks })
    }
}

/// The keys that begin with a prefix.
fn under(prefix: &Bytes) -> KeyRange {
    let first = if prefix.is_empty() { Bytes::from_static(&[0]) } else { prefix.clone() };
    KeyRange::new(&first, &prefix_end(prefix))
}

/// A member that runs inside this program. Dropping it leaves it running in the background until
/// the program ends, as if its power were cut: nothing that was acknowledged is lost.
/// [`Cluster::stop`] ends it in order.
pub struct Cluster {
    member: Member,
    files: Option<TlsFiles>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Cluster {
    /// Returns when a leader is known, here or elsewhere.
    pub async fn ready(&self) {
        let mut status = self.member.watch_status();
        // an error means that the member has stopped, which `failed` tells
        let _ = status.wait_for(|status| status.leader.is_some()).await;
    }

    /// A client of this member, over its own listener.
    ///
    /// # Errors
    /// The certificates cannot be read any more.
    pub fn client(&self) -> Result<Client, Fault> {
        let endpoints = self.member.endpoints();
        let tls = self.files.as_ref().map(rpc::Tls::load).transpose()?;
        let urls: Vec<String> = match (&endpoints.plaintext, &endpoints.client) {
            (Some(address), _) => vec![format!("http://{address}")],
            (None, Some(address)) => vec![format!("https://{address}")],
            (None, None) => Vec::new(),
        };
        Ok(Client::connect(urls, tls)?)
    }

    /// Reads of what this member has applied, without a call: local reads.
    pub fn reader(&self) -> &Reader {
        self.member.reader()
    }

    /// Where it listens.
    pub fn endpoints(&self) -> &Endpoints {
        self.member.endpoints()
    }

    /// What it knows of the cluster.
    pub fn status(&self) -> consensus::Status {
        self.member.status()
    }

    /// Which members answer, by gossip; none where gossip is off.
    pub fn watch_nodes(&self) -> Option<watch::Receiver<Arc<Nodes>>> {
        self.member.watch_nodes()
    }

    /// Returns when the member cannot go on, with the reason.
    pub async fn failed(&mut self) -> Fault {
        self.member.failed().await
    }

    /// Ends the handlers, hands leadership over, and stops the member.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.member.stop().await;
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Cluster").field("endpoints", self.endpoints()).finish_non_exhaustive()
    }
}
