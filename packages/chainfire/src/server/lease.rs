//! The Lease service.

use std::pin::Pin;
use std::sync::Arc;

use api::chainfire_internal::command::Request as Command;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::lease_server::Lease;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::auth::Caller;
use super::node::{Leader, Node, forwarded, mismatch};
use super::refusal;
use crate::store::auth::guard::Guard;
use crate::store::{Access, KeyRange, Reply, StoreError};

/// Renewals of one stream that are answered together.
const TOGETHER: usize = 256;

pub(crate) struct LeaseService {
    pub(crate) node: Arc<Node>,
    /// Shorter ones are made this long: a leader change must not end them, in seconds.
    pub(crate) least_ttl: i64,
}

impl Node {
    /// Whoever renews leases must be able to write their keys, as in etcd.
    async fn allow_renewal(&self, caller: &Caller, ids: &[i64]) -> Result<(), Status> {
        self.allow(caller, |guard| {
            guard.auth.check_user(guard.who)?;
            ids.iter().try_for_each(|id| guard.lease(*id, Access::Write))
        })
        .await
    }

    /// Whoever is told the keys of a lease must be able to read them.
    fn allow_reading(&self, caller: &Caller, keys: &[Bytes]) -> Result<(), Status> {
        let readable = |guard: Guard<'_>| {
            keys.iter().try_for_each(|key| {
                let key = KeyRange::new(key, &Bytes::new());
                guard.auth.check(guard.who, Access::Read, &key)
            })
        };
        self.allows(caller, readable).map_err(refusal::auth)
    }

    /// Renews leases, here or at the leader.
    pub(super) async fn renew(
        self: &Arc<Self>,
        metadata: &MetadataMap,
        ids: Vec<i64>,
    ) -> Result<Vec<LeaseKeepAliveResponse>, Status> {
        match self.leader(metadata).await? {
            Leader::Here => self.renew_here(&ids).await,
            Leader::There(_) => {
                let node = self.clone();
                let renew = move |ids| node.clone().renew_anywhere(ids);
                let renewed = self.renewals.ask(ids, renew);
                let in_time = tokio::time::timeout(self.timeout(), renewed).await;
                in_time.unwrap_or_else(|_| Err(Status::from(&refusal::TIMED_OUT)))
            }
        }
    }

    /// For all who wait at a follower, or did when this member was one.
    async fn renew_anywhere(
        self: Arc<Self>,
        ids: Vec<i64>,
    ) -> Result<Vec<LeaseKeepAliveResponse>, Status> {
        match self.leader(&MetadataMap::new()).await? {
            Leader::Here => self.renew_here(&ids).await,
            Leader::There(channel) => self.renew_there(channel, &ids).await,
        }
    }

    async fn renew_here(&self, ids: &[i64]) -> Result<Vec<LeaseKeepAliveResponse>, Status> {
        let times = self.lessor.renew(self, ids).await?;
        let revision = self.reader.revision();
        let answer = |(id, ttl): (&i64, i64)| LeaseKeepAliveResponse {
            header: self.headers.at(revision),
            id: *id,
            ttl,
        };
        Ok(ids.iter().zip(times).map(answer).collect())
    }

    async fn renew_there(
        &self,
        channel: Channel,
        ids: &[i64],
    ) -> Result<Vec<LeaseKeepAliveResponse>, Status> {
        let requests: Vec<LeaseKeepAliveRequest> =
            ids.iter().map(|id| LeaseKeepAliveRequest { id: *id }).collect();
        let request = forwarded(futures::stream::iter(requests), self.timeout());
        let mut client = LeaseClient::new(channel);
        let mut answers = client.lease_keep_alive(request).await?.into_inner();
        let mut all = Vec::with_capacity(ids.len());
        while all.len() < ids.len() {
            let Some(mut answer) = answers.message().await? else {
                return Err(Status::from(&refusal::NO_LEADER));
            };
            self.headers.complete(&mut answer.header);
            all.push(answer);
        }
        Ok(all)
    }
}

type KeepAlives = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let node = &self.node;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let mut request = request.into_inner();
        node.allow(&caller, |guard| guard.auth.check_user(guard.who)).await?;
        node.demand_room()?;
        let chosen = request.id == 0;
        request.ttl = request.ttl.max(self.least_ttl);
        loop {
            if chosen {
                request.id = rand::random_range(1..=i64::MAX);
            }
            match node.propose_as(&caller, Command::LeaseGrant(request)).await {
                Ok(Reply::LeaseGrant(mut answer)) => {
                    node.headers.complete(&mut answer.header);
                    return Ok(Response::new(answer));
                }
                Ok(_) => return Err(mismatch()),
                Err(error) if chosen && error.message() == StoreError::LeaseExists.to_string() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let node = &self.node;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let request = request.into_inner();
        node.allow_renewal(&caller, &[request.id]).await?;
        match node.propose_as(&caller, Command::LeaseRevoke(request)).await? {
            Reply::LeaseRevoke(mut answer) => {
                node.headers.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            _ => Err(mismatch()),
        }
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        self.node.demand_leader(request.metadata())?;
        let caller = self.node.stream_caller(&request).await?;
        let (metadata, _, requests) = request.into_parts();
        let node = self.node.clone();
        let answers = requests.ready_chunks(TOGETHER).then(move |requests| {
            let (node, metadata, caller) = (node.clone(), metadata.clone(), caller.clone());
            async move {
                let mut ids = Vec::with_capacity(requests.len());
                for request in requests {
                    match request {
                        Ok(request) => ids.push(request.id),
                        Err(error) => return vec![Err(error)],
                    }
                }
                if let Err(error) = node.allow_renewal(&caller, &ids).await {
                    return vec![Err(error)];
                }
                node.metrics.keep_alive.inc_by(ids.len() as u64);
                match node.renew(&metadata, ids).await {
                    Ok(answers) => answers.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                }
            }
        });
        let stop = self.node.stop.clone();
        let answers = answers.flat_map(futures::stream::iter);
        Ok(Response::new(Box::pin(answers.take_until(stop.cancelled_owned()))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let node = &self.node;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let (metadata, _, request) = request.into_parts();
        node.allow(&caller, |guard| guard.auth.check_user(guard.who)).await?;
        if let Leader::There(channel) = node.leader(&metadata).await? {
            let request = forwarded(request, node.timeout());
            let mut answer = LeaseClient::new(channel).lease_time_to_live(request).await?;
            node.headers.complete(&mut answer.get_mut().header);
            // The keys are those of a moment ago: whoever may not read them sees no answer.
            node.allow_reading(&caller, &answer.get_ref().keys)?;
            return Ok(answer);
        }
        let mut answer = LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..Default::default() };
        if let Some((left, granted)) = node.lessor.left(node, request.id).await? {
            (answer.ttl, answer.granted_ttl) = (left, granted);
            if request.keys {
                answer.keys = node.reader.lease_keys(request.id).unwrap_or_default();
                node.allow_reading(&caller, &answer.keys)?;
            }
        }
        answer.header = node.headers.at(node.reader.revision());
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let node = &self.node;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        node.barrier().await?;
        if node.reader.auth_enabled() {
            let all = node.reader.leases();
            let readable = |guard: Guard<'_>| {
                guard.auth.check_user(guard.who)?;
                all.iter().try_for_each(|info| guard.lease(info.id, Access::Read))
            };
            node.allows(&caller, readable).map_err(refusal::auth)?;
        }
        let leases = node.reader.leases().into_iter().map(|info| LeaseStatus { id: info.id });
        Ok(Response::new(LeaseLeasesResponse {
            leases: leases.collect(),
            header: node.headers.at(node.reader.revision()),
        }))
    }
}
