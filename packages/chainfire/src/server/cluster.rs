//! The Cluster service.

use std::sync::Arc;

use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::cluster_server::Cluster;
use api::etcdserverpb::{
    Member as Shown, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use bytes::Bytes;
use consensus::{Member, NodeId, NodeInfo};
use tonic::{Request, Response, Status};

use super::node::{Leader, Node, forwarded};
use super::refusal;

/// URLs of one member, and characters of one.
const URLS_MAX: usize = 16;
const URL_MAX: usize = 256;

pub(crate) struct ClusterService(pub(crate) Arc<Node>);

impl Node {
    /// The members as the wire shows them.
    pub(crate) fn members(&self) -> Vec<Shown> {
        self.group.watch_status().borrow().members.iter().map(shown).collect()
    }

    /// A member by its id.
    pub(crate) fn member(&self, id: NodeId) -> Result<Member, Status> {
        let status = self.group.watch_status();
        let found = status.borrow().member(id).cloned();
        found.ok_or_else(|| Status::from(&refusal::MEMBER_NOT_FOUND))
    }

    /// Refuses URLs that are malformed or another member's.
    pub(crate) fn check_urls(&self, urls: &[String], but: Option<NodeId>) -> Result<(), Status> {
        if urls.is_empty() || !urls.iter().all(|url| is_url(url)) || urls.len() > URLS_MAX {
            return Err(Status::from(&refusal::BAD_URLS));
        }
        let status = self.group.watch_status();
        let taken = status.borrow().members.iter().any(|member| {
            Some(member.id) != but && member.info.peer_urls.iter().any(|url| urls.contains(url))
        });
        if taken { Err(Status::from(&refusal::PEER_URL_EXISTS)) } else { Ok(()) }
    }
}

/// Ids are never used again: 63 random bits make sure of it without a register.
pub(crate) fn new_id() -> NodeId {
    rand::random_range(1..=i64::MAX as u64)
}

pub(crate) fn is_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    url.len() <= URL_MAX
        && matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.port_u16().is_some()
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
}

pub(crate) fn shown(member: &Member) -> Shown {
    Shown {
        id: member.id,
        name: member.info.name.clone(),
        peer_ur_ls: member.info.peer_urls.clone(),
        client_ur_ls: member.info.client_urls.clone(),
        is_learner: !member.voter,
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    /// A member added as a voter becomes one by itself when it has caught up: an unstarted voter
    /// would count against the quorum.
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        node.allow_root(&node.stream_caller(&request).await?).await?;
        let request = request.into_inner();
        node.check_urls(&request.peer_ur_ls, None)?;
        let id = new_id();
        let info = NodeInfo {
            name: String::new(),
            peer_urls: request.peer_ur_ls,
            client_urls: Vec::new(),
            nonce: Bytes::new(),
            auto_promote: !request.is_learner,
        };
        node.group.add_learner(id, info.clone()).await.map_err(refusal::membership)?;
        Ok(Response::new(MemberAddResponse {
            header: node.headers.at(node.reader.revision()),
            member: Some(Shown {
                id,
                peer_ur_ls: info.peer_urls,
                is_learner: true,
                ..Default::default()
            }),
            members: node.members(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        node.allow_root(&node.stream_caller(&request).await?).await?;
        let id = node.member(request.into_inner().id)?.id;
        node.group.remove(id).await.map_err(refusal::membership)?;
        let header = node.headers.at(node.reader.revision());
        Ok(Response::new(MemberRemoveResponse { header, members: node.members() }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        node.allow_root(&node.stream_caller(&request).await?).await?;
        let request = request.into_inner();
        let member = node.member(request.id)?;
        node.check_urls(&request.peer_ur_ls, Some(request.id))?;
        let info = NodeInfo { peer_urls: request.peer_ur_ls, ..member.info };
        node.group.update(request.id, info).await.map_err(refusal::membership)?;
        let header = node.headers.at(node.reader.revision());
        Ok(Response::new(MemberUpdateResponse { header, members: node.members() }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        if request.get_ref().linearizable {
            node.barrier().await?;
        }
        node.allow_known(&node.caller(&request).await?)?;
        let header = node.headers.at(node.reader.revision());
        Ok(Response::new(MemberListResponse { header, members: node.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        node.allow_root(&node.stream_caller(&request).await?).await?;
        let (metadata, _, request) = request.into_parts();
        // Only the leader knows how far the learner is.
        if let Leader::There(channel) = node.leader(&metadata).await? {
            let request = forwarded(request, node.timeout());
            let mut answer = ClusterClient::new(channel).member_promote(request).await?;
            node.headers.complete(&mut answer.get_mut().header);
            return Ok(answer);
        }
        node.member(request.id)?;
        node.group.promote(request.id).await.map_err(refusal::membership)?;
        let header = node.headers.at(node.reader.revision());
        Ok(Response::new(MemberPromoteResponse { header, members: node.members() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_origins() {
        for good in ["https://127.0.1.1:2380", "http://[::1]:1", "https://node01:2380/"] {
            assert!(is_url(good), "{good}");
        }
        let long = format!("https://{}:1", "a".repeat(300));
        for bad in ["", "node01:2380", "https://a", "ftp://a:1", "https://a:1/x", &long] {
            assert!(!is_url(bad), "{bad}");
        }
    }
}
