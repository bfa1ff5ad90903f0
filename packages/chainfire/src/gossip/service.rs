//! The services: who is there, for clients; keys and metadata, for members.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::chainfire as pb;
use api::chainfire::gossip_peer_client::GossipPeerClient;
use api::chainfire::gossip_peer_server::GossipPeer;
use api::chainfire::gossip_server;
use bytes::Bytes;
use consensus::{NodeId, NodeInfo};
use fault::{Fault, Kind};
use futures::Stream;
use rpc::Peer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::nodes::{About, Nodes, about};
use super::seal::Given;
use super::task::Gossip;
use crate::codes;
use crate::server::{Node, Peers, refusal};

/// How long a member may take to answer a greeting.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What a member answered to a greeting.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) given: Given,
    pub(super) about: About,
}

/// Asks a member for its key and what it is.
pub(super) async fn greet(
    peers: &Peers,
    me: NodeId,
    member: NodeId,
    info: &NodeInfo,
) -> Result<Greeted, Fault> {
    let odd =
        |what: &str| Fault::new(codes::INTERNAL, Kind::Internal, what, "compare the versions");
    let mut request = Request::new(pb::GreetRequest { from: me, to: member });
    request.set_timeout(ANSWER_MAX);
    let mut client = GossipPeerClient::new(peers.channel(member, info)?);
    let answer = match tokio::time::timeout(ANSWER_MAX, client.greet(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => {
            return Err(Fault::from_status(&status).unwrap_or_else(|| odd(status.message())));
        }
        Err(_) => return Err(odd("no answer in time")),
    };
    let key = answer.key.as_ref().try_into().map_err(|_| odd("a key of another length"))?;
    let about = answer.about.and_then(about).ok_or_else(|| odd("metadata out of bounds"))?;
    Ok(Greeted { given: Given { session: answer.session, key, counter: answer.counter }, about })
}

/// For other members, on the peer listener alone.
pub(crate) struct GreetService {
    node: Arc<Node>,
    gossip: Option<Gossip>,
}

impl GreetService {
    pub(crate) fn new(node: Arc<Node>, gossip: Option<Gossip>) -> GreetService {
        GreetService { node, gossip }
    }
}

#[tonic::async_trait]
impl GossipPeer for GreetService {
    async fn greet(
        &self,
        request: Request<pb::GreetRequest>,
    ) -> Result<Response<pb::GreetResponse>, Status> {
        let caller = self.node.peers.member(request.extensions().get::<Peer>())?;
        let pb::GreetRequest { from, to } = request.get_ref();
        let gossip = self.gossip.as_ref().ok_or_else(|| Status::from(&refusal::NO_GOSSIP))?;
        if *to != self.node.me() {
            return Err(Status::from(&refusal::MEMBER_NOT_FOUND));
        }
        let member = self.node.member(*from)?;
        // the key is the caller's own: whoever asks for another's would read what it is sent
        if caller.is_some_and(|caller| caller != member.info.name) {
            return Err(refusal::denied(format!(
                "chainfire: this certificate is not that of member {}",
                member.info.name
            )));
        }
        let given = gossip.sealer.give(*from).map_err(|_| Status::from(&refusal::MISMATCH))?;
        Ok(Response::new(pb::GreetResponse {
            session: given.session,
            key: Bytes::copy_from_slice(&given.key),
            counter: given.counter,
            about: Some(pb::About::from(gossip.about.as_ref())),
        }))
    }
}

/// For clients.
pub(crate) struct GossipService {
    node: Arc<Node>,
    gossip: Option<Gossip>,
}

impl GossipService {
    pub(crate) fn new(node: Arc<Node>, gossip: Option<Gossip>) -> GossipService {
        GossipService { node, gossip }
    }

    fn gossip(&self) -> Result<&Gossip, Status> {
        self.gossip.as_ref().ok_or_else(|| Status::from(&refusal::NO_GOSSIP))
    }
}

#[tonic::async_trait]
impl gossip_server::Gossip for GossipService {
    async fn nodes(
        &self,
        request: Request<pb::NodesRequest>,
    ) -> Result<Response<pb::NodesResponse>, Status> {
        self.node.allow_known(&self.node.caller(&request).await?)?;
        let nodes = self.gossip()?.nodes.borrow().clone();
        let nodes = nodes.nodes.iter().map(pb::Node::from).collect();
        Ok(Response::new(pb::NodesResponse { asked: self.node.me(), nodes }))
    }

    type WatchNodesStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchNodesResponse, Status>> + Send>>;

    async fn watch_nodes(
        &self,
        request: Request<pb::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        self.node.allow_known(&self.node.caller(&request).await?)?;
        let mut nodes = self.gossip()?.nodes.clone();
        let stop = self.node.stop.clone();
        // one answer waits at most: a slow watcher is told the sum of what it missed
        let (tell, told) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut before = Nodes::default();
            loop {
                let now = nodes.borrow_and_update().clone();
                let (changed, gone) = now.since(&before);
                before = (*now).clone();
                let changed = changed.iter().map(pb::Node::from).collect();
                let answer = pb::WatchNodesResponse { changed, gone };
                tokio::select! {
                    () = stop.cancelled() => return,
                    sent = tell.send(Ok(answer)) => if sent.is_err() { return },
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tell.closed() => return,
                    changed = nodes.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}
