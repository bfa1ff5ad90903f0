//! The services: etcd's and our own, on top of one Raft group and the store's reader.
//!
//! Absent on purpose: state that outlives the process. What must survive goes through the log.

mod auth;
mod cluster;
mod deadlines;
mod election;
mod header;
mod join;
mod kv;
mod lease;
mod lessor;
mod local;
mod lock;
mod maintenance;
mod metrics;
mod node;
mod peers;
mod quota;
mod range_stream;
pub(crate) mod refusal;
mod tally;
mod together;
mod turn;
mod version;
mod watch;

use std::sync::Arc;

use api::chainfire::gossip_peer_server::GossipPeerServer;
use api::chainfire::gossip_server::GossipServer;
use api::chainfire::local_server::LocalServer;
use api::chainfire::membership_server::MembershipServer;
use api::chainfire::quotas_server::QuotasServer;
use api::etcdserverpb::auth_server::AuthServer;
use api::etcdserverpb::cluster_server::ClusterServer;
use api::etcdserverpb::kv_server::KvServer;
use api::etcdserverpb::lease_server::LeaseServer;
use api::etcdserverpb::maintenance_server::MaintenanceServer;
use api::v3electionpb::election_server::ElectionServer;
use api::v3lockpb::lock_server::LockServer;
use tonic::Request;
use tonic::service::Routes;

pub(crate) use auth::Passwords;
pub(crate) use cluster::new_id;
pub(crate) use header::Headers;
pub(crate) use join::{ALIVE, promote_learners};
pub(crate) use lessor::Lessor;
pub(crate) use metrics::{Gauges, Metrics};
pub(crate) use node::Node;
pub(crate) use peers::{Peers, SERVICE};
pub(crate) use quota::Rates;
#[cfg(all(test, feature = "simulation"))]
pub(crate) use refusal::store as store_refusal;
pub(crate) use version::VERSION;
pub(crate) use watch::{Hub, QueueLimits, Sessions, feed};

use crate::gossip::{Gossip, GossipService, GreetService};
use crate::store::Reader;

/// What a message may have beyond the largest request, so that a request that is somewhat too
/// large is refused in etcd's words and not by the transport.
const SLACK: usize = 1 << 20;

/// The services of one member.
#[derive(Clone)]
pub(crate) struct Services {
    node: Arc<Node>,
    sessions: Sessions<Reader>,
    membership: Arc<join::MembershipService>,
    gossip: Option<Gossip>,
    least_ttl: i64,
}

impl Services {
    pub(crate) fn new(node: Arc<Node>, sessions: Sessions<Reader>, least_ttl: i64) -> Services {
        let membership = Arc::new(join::MembershipService::new(node.clone()));
        Services { node, sessions, membership, gossip: None, least_ttl }
    }

    /// With gossip, which is none without this.
    pub(crate) fn with_gossip(self, gossip: Option<Gossip>) -> Services {
        Services { gossip, ..self }
    }

    /// What the services share.
    pub(crate) fn node(&self) -> Arc<Node> {
        self.node.clone()
    }

    /// What clients may call.
    pub(crate) fn for_clients(&self, routes: Routes) -> Routes {
        let limit = self.node.limits.request_bytes + SLACK;
        let (node, sessions) = (self.node.clone(), self.sessions.clone());
        let (own, caller) = (sessions.clone(), auth::Caller::Nobody);
        let turns = turn::Turns { node: node.clone(), sessions: own, caller };
        let election = ElectionServer::new(election::ElectionService(turns.clone()))
            .max_decoding_message_size(limit);
        let watch = watch::WatchService { node: node.clone(), sessions, limit };
        let maintenance = maintenance::MaintenanceService(node.clone());
        let kv = KvServer::new(kv::KvService(node.clone()))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(usize::MAX);
        let routes = routes
            .add_service(kv)
            .add_service(watch)
            .add_service(LockServer::new(lock::LockService(turns)))
            .add_service(election)
            .add_service(MaintenanceServer::new(maintenance))
            .add_service(QuotasServer::new(quota::QuotaService(node.clone())))
            .add_service(AuthServer::new(auth::AuthService(node)))
            .add_service(LocalServer::new(local::LocalService(self.node.clone())))
            .add_service(GossipServer::new(GossipService::new(
                self.node.clone(),
                self.gossip.clone(),
            )));
        self.for_all(routes, false)
    }

    /// What members ask of each other besides Raft. They are known by their certificates and may do
    /// all of it; anybody else is judged as on the clients' port.
    pub(crate) fn for_members(&self, routes: Routes) -> Routes {
        let greet = GreetService::new(self.node.clone(), self.gossip.clone());
        // Joining is for the peer port alone: without TLS nothing else tells who asks.
        let routes = routes
            .add_service(GossipPeerServer::new(greet))
            .add_service(MembershipServer::from_arc(self.membership.clone()));
        self.for_all(routes, true)
    }

    fn for_all(&self, routes: Routes, among_members: bool) -> Routes {
        let mark = move |mut request: Request<()>| {
            if among_members {
                request.extensions_mut().insert(auth::MemberPort);
            }
            Ok(request)
        };
        let cluster = cluster::ClusterService(self.node.clone());
        let lease = lease::LeaseService { node: self.node.clone(), least_ttl: self.least_ttl };
        routes
            .add_service(LeaseServer::with_interceptor(lease, mark))
            .add_service(ClusterServer::with_interceptor(cluster, mark))
    }
}
