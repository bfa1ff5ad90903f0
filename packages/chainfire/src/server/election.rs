//! The Election service.

use std::pin::Pin;

use api::etcdserverpb::request_op::Request as Op;
use api::etcdserverpb::{PutRequest, WatchCreateRequest};
use api::mvccpb::KeyValue;
use api::mvccpb::event::EventType;
use api::v3electionpb::election_server::Election;
use api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::refusal;
use super::turn::{Place, Turns, under};

/// Leaders that an observer may be behind before it is waited for.
const OBSERVED: usize = 64;

pub(crate) struct ElectionService(pub(crate) Turns);

fn leader(key: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    key.ok_or_else(|| Status::from(&refusal::NO_LEADER_KEY))
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let turns = self.0.of(&request).await?;
        let CampaignRequest { name, lease, value } = request.into_inner();
        turns.admit_under(&name).await?;
        let (Place { key, rev, lease }, header) = turns.take(&name, lease, value).await?;
        let leader = Some(LeaderKey { name, key, rev, lease });
        Ok(Response::new(CampaignResponse { header, leader }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let turns = self.0.of(&request).await?;
        let ProclaimRequest { leader: key, value } = request.into_inner();
        let LeaderKey { key, rev, lease, .. } = leader(key)?;
        turns.admit(&key).await?;
        self.0.node.demand_room()?;
        let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
        match turns.write(&key, rev, Op::RequestPut(put)).await? {
            (true, header) => Ok(Response::new(ProclaimResponse { header })),
            (false, _) => Err(Status::from(&refusal::NOT_ELECTED)),
        }
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let turns = self.0.of(&request).await?;
        let name = request.into_inner().name;
        turns.admit_under(&name).await?;
        let holder = turns.holder(&name).await?;
        let header = holder.header;
        match holder.kvs.into_iter().next() {
            Some(kv) => Ok(Response::new(LeaderResponse { header, kv: Some(kv) })),
            None => Err(Status::from(&refusal::NOBODY_ELECTED)),
        }
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let turns = self.0.of(&request).await?;
        let name = request.into_inner().name;
        turns.admit_under(&name).await?;
        let (tell, told) = mpsc::channel(OBSERVED);
        tokio::spawn(async move {
            let done = tell.clone();
            tokio::select! {
                // the observer is gone
                () = done.closed() => {}
                () = turns.node.stop.cancelled() => {}
                Err(error) = observe(&turns, &name, &tell) => {
                    let _ = tell.send(Err(error)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let turns = self.0.of(&request).await?;
        let LeaderKey { key, rev, lease, .. } = leader(request.into_inner().leader)?;
        turns.admit(&key).await?;
        // one that has lost its place already has nothing to resign from
        let header = turns.leave(&Place { key, rev, lease }).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

/// Tells every leader and each of its values, in order. Ends with an error alone.
async fn observe(
    turns: &Turns,
    name: &Bytes,
    tell: &mpsc::Sender<Result<LeaderResponse, Status>>,
) -> Result<(), Status> {
    let send = async |header, kv: KeyValue| {
        let _ = tell.send(Ok(LeaderResponse { header, kv: Some(kv) })).await;
    };
    loop {
        let holder = turns.holder(name).await?;
        let header = holder.header;
        let from = header.as_ref().map_or(0, |header| header.revision) + 1;
        let Some(now) = holder.kvs.into_iter().next() else {
            // a first candidate has nobody before it, so its key's creation elects it
            let (key, range_end) = under(name);
            changed(turns, key, range_end, from).await?;
            continue;
        };
        let (key, created) = (now.key.clone(), now.create_revision);
        send(header, now).await;
        // up to the end of this leader, each value that it proclaims
        let create = WatchCreateRequest { key, start_revision: from, ..Default::default() };
        let mut events = turns.watch(create);
        'reign: loop {
            let answer = match events.next().await {
                Some(answer) => answer?,
                None => return Err(Status::from(&refusal::STOPPED)),
            };
            if answer.canceled {
                break;
            }
            for event in answer.events {
                match event.kv {
                    Some(kv)
                        if event.r#type == EventType::Put as i32
                            && kv.create_revision == created =>
                    {
                        send(answer.header, kv).await;
                    }
                    _ => break 'reign,
                }
            }
        }
    }
}

/// Until anything under the range changes.
async fn changed(turns: &Turns, key: Bytes, range_end: Bytes, from: i64) -> Result<(), Status> {
    let create = WatchCreateRequest { key, range_end, start_revision: from, ..Default::default() };
    let mut events = turns.watch(create);
    while let Some(answer) = events.next().await {
        let answer = answer?;
        if !answer.events.is_empty() || answer.canceled {
            return Ok(());
        }
    }
    Err(Status::from(&refusal::STOPPED))
}
