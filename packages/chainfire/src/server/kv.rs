//! The KV service.

use std::sync::Arc;

use api::chainfire_internal::command::Request as Command;
use api::etcdserverpb::kv_server::Kv;
use api::etcdserverpb::request_op;
use api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use tonic::{Request, Response, Status};

use super::auth::Caller;
use super::node::{Node, mismatch};
use super::quota::each_key;
use super::refusal;
use crate::store::auth::guard::Guard;
use crate::store::{Auth, AuthError, Reader, Reply, StoreError, check};

/// A read of more keys than this goes to a thread where it may take its time.
const QUICK_KEYS: i64 = 1000;

pub(crate) struct KvService(pub(crate) Arc<Node>);

impl KvService {
    /// Runs a read here if it is short, else on a thread for long ones. The caller must be allowed
    /// to all the time.
    pub(super) async fn read<R: Send + 'static, T: Send + 'static>(
        &self,
        quick: bool,
        caller: Caller,
        request: R,
        check: fn(Guard<'_>, &R) -> Result<(), AuthError>,
        read: fn(&Reader, &R) -> Result<T, StoreError>,
    ) -> Result<T, Status> {
        let read = move |reader: &Reader| {
            let held = |guard: Guard<'_>| check(guard, &request);
            let check = |auth: &Auth| caller.check(auth, &|_| Vec::new(), held);
            reader.guarded(check, || read(reader, &request))
        };
        if quick {
            return read(&self.0.reader).map_err(refusal::store);
        }
        let reader = self.0.reader.clone();
        match consensus::blocking(move || read(&reader)).await {
            Ok(answer) => answer.map_err(refusal::store),
            Err(_) => Err(Status::from(&refusal::STOPPED)),
        }
    }
}

/// Whether a range is surely short.
pub(super) fn is_quick(request: &RangeRequest) -> bool {
    let is_natural = request.sort_target == 0 && request.sort_order == 0;
    request.revision <= 0
        && (request.range_end.is_empty()
            || request.count_only
            || (is_natural && (1..=QUICK_KEYS).contains(&request.limit)))
}

fn is_quick_txn(request: &TxnRequest) -> bool {
    request.compare.iter().all(|compare| compare.range_end.is_empty())
        && request.success.iter().chain(&request.failure).all(|op| match &op.request {
            Some(request_op::Request::RequestRange(range)) => is_quick(range),
            Some(request_op::Request::RequestTxn(txn)) => is_quick_txn(txn),
            _ => true,
        })
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let request = request.into_inner();
        check::range(&request).map_err(refusal::store)?;
        node.admit(&caller, |guard| guard.range(&request), |see| see(&request.key)).await?;
        node.metrics.range.inc();
        if !request.serializable {
            node.barrier().await?;
        }
        let quick = is_quick(&request);
        let check = |guard: Guard<'_>, request: &RangeRequest| guard.range(request);
        let mut answer = self.read(quick, caller, request, check, Reader::range).await?;
        node.headers.complete(&mut answer.header);
        Ok(Response::new(answer))
    }

    type RangeStreamStream = super::range_stream::Answers;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        super::range_stream::answer(self, request).await
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let request = request.into_inner();
        check::put(&request).map_err(refusal::store)?;
        node.allow(&caller, |guard| guard.put(&request)).await?;
        node.admit_allowed(|see| see(&request.key))?;
        node.demand_room()?;
        node.metrics.put.inc();
        match node.propose_as(&caller, Command::Put(request)).await? {
            Reply::Put(mut answer) => {
                node.headers.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            _ => Err(mismatch()),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let request = request.into_inner();
        check::delete_range(&request).map_err(refusal::store)?;
        node.allow(&caller, |guard| guard.delete_range(&request)).await?;
        node.admit_allowed(|see| see(&request.key))?;
        node.metrics.delete_range.inc();
        match node.propose_as(&caller, Command::DeleteRange(request)).await? {
            Reply::DeleteRange(mut answer) => {
                node.headers.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            _ => Err(mismatch()),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let request = request.into_inner();
        check::txn(&request, node.limits.txn_ops).map_err(refusal::store)?;
        node.admit(&caller, |guard| guard.txn(&request), |see| each_key(&request, see)).await?;
        node.metrics.txn.inc();
        let mut answer = if check::is_read_only(&request) {
            if !check::is_serializable(&request) {
                node.barrier().await?;
            }
            let quick = is_quick_txn(&request);
            let check = |guard: Guard<'_>, request: &TxnRequest| guard.txn(request);
            self.read(quick, caller, request, check, Reader::txn).await?
        } else {
            node.allow(&caller, |guard| guard.txn(&request)).await?;
            if check::has_put(&request) {
                node.demand_room()?;
            }
            match node.propose_as(&caller, Command::Txn(request)).await? {
                Reply::Txn(answer) => answer,
                _ => return Err(mismatch()),
            }
        };
        node.headers.complete(&mut answer.header);
        Ok(Response::new(answer))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let node = &self.0;
        node.demand_leader(request.metadata())?;
        let caller = node.caller(&request).await?;
        let request = request.into_inner();
        node.allow(&caller, |guard| guard.auth.check_user(guard.who)).await?;
        match node.propose_as(&caller, Command::Compact(request)).await? {
            Reply::Compact(mut answer) => {
                if request.physical {
                    node.reader.removed(request.revision).await;
                }
                node.headers.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            _ => Err(mismatch()),
        }
    }
}
