//! The Lock service.

use api::chainfire_internal::command::Request as Command;
use api::etcdserverpb::DeleteRangeRequest;
use api::v3lockpb::lock_server::Lock;
use api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::node::mismatch;
use super::refusal;
use super::turn::Turns;
use crate::store::{Reply, check};

pub(crate) struct LockService(pub(crate) Turns);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let turns = self.0.of(&request).await?;
        let LockRequest { name, lease } = request.into_inner();
        turns.admit_under(&name).await?;
        let (place, header) = turns.take(&name, lease, Bytes::new()).await?;
        Ok(Response::new(LockResponse { header, key: place.key }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let node = &self.0.node;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let key = request.into_inner().key;
        let delete = DeleteRangeRequest { key, ..Default::default() };
        check::delete_range(&delete).map_err(refusal::store)?;
        node.allow(&caller, |guard| guard.delete_range(&delete)).await?;
        node.admit_allowed(|see| see(&delete.key))?;
        match node.propose_as(&caller, Command::DeleteRange(delete)).await? {
            Reply::DeleteRange(mut answer) => {
                node.headers.complete(&mut answer.header);
                Ok(Response::new(UnlockResponse { header: answer.header }))
            }
            _ => Err(mismatch()),
        }
    }
}
