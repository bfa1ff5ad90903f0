//! The cluster's members, and how they are.

use crate::endpoints::Repeat;
use crate::{Client, Error};
use api::etcdserverpb as pb;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use std::time::Duration;

/// A member reads all that it holds for its hash.
const HASH_MAX: Duration = Duration::from_secs(600);

/// A member as the cluster lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Never reused.
    pub id: u64,
    /// Empty until it has started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// It does not vote.
    pub learner: bool,
}

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Member {
        Member {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_ur_ls,
            client_urls: member.client_ur_ls,
            learner: member.is_learner,
        }
    }
}

/// What one member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// The endpoint that was asked.
    pub endpoint: String,
    /// The member behind it.
    pub member: u64,
    /// The leader it knows; 0: none.
    pub leader: u64,
    /// It does not vote.
    pub learner: bool,
    /// Its version.
    pub version: String,
    /// Its applied revision.
    pub revision: i64,
    /// Raft's term, last and applied index.
    pub raft_term: u64,
    /// Last index of its log.
    pub raft_index: u64,
    /// Last index it has applied.
    pub raft_applied: u64,
    /// Bytes of its store.
    pub db_size: i64,
    /// What is wrong with it, in its words.
    pub errors: Vec<String>,
}

impl Client {
    /// The members, as a majority sees them.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        let answer = self
            .endpoints
            .call(Repeat::Freely, |channel| async move {
                let request = pb::MemberListRequest { linearizable: true };
                ClusterClient::new(channel).member_list(request).await
            })
            .await?;
        Ok(answer.members.into_iter().map(Member::from).collect())
    }

    /// Adds a voting member that will be reached at these URLs.
    pub async fn member_add(&self, peer_urls: Vec<String>) -> Result<Member, Error> {
        self.add(peer_urls, false).await
    }

    /// Adds a member that copies and does not vote until it is promoted.
    pub async fn member_add_learner(&self, peer_urls: Vec<String>) -> Result<Member, Error> {
        self.add(peer_urls, true).await
    }

    async fn add(&self, peer_urls: Vec<String>, is_learner: bool) -> Result<Member, Error> {
        let answer = self
            .endpoints
            .call(Repeat::IfNothingDone, |channel| {
                let request = pb::MemberAddRequest { peer_ur_ls: peer_urls.clone(), is_learner };
                async move { ClusterClient::new(channel).member_add(request).await }
            })
            .await?;
        let member = answer.member.map(Member::from);
        member.ok_or_else(|| Error::Protocol("a member add without member".to_owned()))
    }

    /// Lets a learner that has caught up vote.
    pub async fn member_promote(&self, id: u64) -> Result<(), Error> {
        self.endpoints
            .call(Repeat::IfNothingDone, |channel| async move {
                ClusterClient::new(channel).member_promote(pb::MemberPromoteRequest { id }).await
            })
            .await
            .map(|_| ())
    }

    /// Removes a member.
    pub async fn member_remove(&self, id: u64) -> Result<(), Error> {
        self.endpoints
            .call(Repeat::IfNothingDone, |channel| async move {
                ClusterClient::new(channel).member_remove(pb::MemberRemoveRequest { id }).await
            })
            .await
            .map(|_| ())
    }

    /// Changes where a member is reached by its peers.
    pub async fn member_update(&self, id: u64, peer_urls: Vec<String>) -> Result<(), Error> {
        self.endpoints
            .call(Repeat::IfNothingDone, |channel| {
                let request = pb::MemberUpdateRequest { id, peer_ur_ls: peer_urls.clone() };
                async move { ClusterClient::new(channel).member_update(request).await }
            })
            .await
            .map(|_| ())
    }

    /// Asks every endpoint how it is, all at once.
    pub async fn status(&self) -> Vec<(String, Result<EndpointStatus, Error>)> {
        let asked = (0..self.endpoints().len()).map(|place| async move {
            (self.endpoints()[place].clone(), self.status_of(place).await)
        });
        futures::future::join_all(asked).await
    }

    async fn status_of(&self, place: usize) -> Result<EndpointStatus, Error> {
        let endpoint = self.endpoints()[place].clone();
        let patience = self.endpoints.options().read_attempt;
        let call = |channel| async move {
            MaintenanceClient::new(channel).status(pb::StatusRequest::default()).await
        };
        let answer = self.endpoints.call_one(place, patience, call).await?;
        let header = answer.header.unwrap_or_default();
        Ok(EndpointStatus {
            endpoint,
            member: header.member_id,
            leader: answer.leader,
            learner: answer.is_learner,
            version: answer.version,
            revision: header.revision,
            raft_term: answer.raft_term,
            raft_index: answer.raft_index,
            raft_applied: answer.raft_applied_index,
            db_size: answer.db_size,
            errors: answer.errors,
        })
    }

    /// Asks every endpoint for the hash of its keys and history at a revision: members that are
    /// the same give the same.
    pub async fn hashes(&self, revision: i64) -> Vec<(String, Result<u32, Error>)> {
        let asked = (0..self.endpoints().len()).map(|place| async move {
            let call = |channel| async move {
                MaintenanceClient::new(channel).hash_kv(pb::HashKvRequest { revision }).await
            };
            let hash = self.endpoints.call_one(place, HASH_MAX, call).await;
            let hash = hash.map(|answer| answer.hash);
            (self.endpoints()[place].clone(), hash)
        });
        futures::future::join_all(asked).await
    }

    /// Forgets history up to and with this revision.
    pub async fn compact(&self, revision: i64) -> Result<(), Error> {
        self.endpoints
            .call(Repeat::IfNothingDone, |channel| async move {
                let request = pb::CompactionRequest { revision, physical: false };
                KvClient::new(channel).compact(request).await
            })
            .await
            .map(|_| ())
    }

    /// Hands leadership of the cluster to another voter. `leader` is the endpoint's place in
    /// [`Client::endpoints`]: etcd takes this call on the leader only.
    pub async fn move_leader(&self, leader: usize, target: u64) -> Result<(), Error> {
        let patience = self.endpoints.options().deadline;
        let call = |channel| async move {
            let request = pb::MoveLeaderRequest { target_id: target };
            MaintenanceClient::new(channel).move_leader(request).await
        };
        match self.endpoints.call_one(leader % self.endpoints().len(), patience, call).await {
            Ok(_) => Ok(()),
            Err(Error::Unreachable { last, .. }) => Err(Error::FateUnknown { last }),
            Err(error) => Err(error),
        }
    }
}
