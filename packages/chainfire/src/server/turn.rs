//! Taking turns under a name: what locks and elections have in common.
//!
//! Each waiter has the key `<name>/<lease in hexadecimal>`. Of the keys that live, the one with the
//! lowest create revision has its turn; each waiter watches the one before it, so that an ending
//! turn wakes one waiter and not all. The create revision is the fencing token: a write that
//! compares it cannot come from a holder whose lease has ended.

use std::sync::Arc;
use std::time::Duration;

use api::chainfire_internal::command::Request as Command;
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::request_op::Request as Op;
use api::etcdserverpb::response_op::Response as Answer;
use api::etcdserverpb::watch_create_request::FilterType;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use api::mvccpb::KeyValue;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::auth::Caller;
use super::node::{Node, mismatch};
use super::refusal;
use super::watch::{Answer as Told, Session, Sessions};
use crate::store::{Reader, Reply, StoreError, check};

/// The lease of a waiter that brought none; it ends so long after the call, in seconds.
const OWN_LEASE_SECONDS: i64 = 60;

/// One member's line of waiters, under any name.
#[derive(Clone)]
pub(crate) struct Turns {
    pub(crate) node: Arc<Node>,
    pub(crate) sessions: Sessions<Reader>,
    /// In whose name.
    pub(crate) caller: Caller,
}

/// A waiter's place in the line.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: Bytes,
    /// Create revision of the key: the fencing token.
    pub(crate) rev: i64,
    pub(crate) lease: i64,
}

impl Turns {
    /// In the name of whoever makes a call, which may take long.
    ///
    /// # Errors
    /// Nobody leads, and the call would rather fail; its token is not believed.
    pub(crate) async fn of<T>(&self, request: &Request<T>) -> Result<Turns, Status> {
        self.node.demand_leader(request.metadata())?;
        // it is one call, however often it looks
        let caller = self.node.stream_caller(request).await?.lasting();
        Ok(Turns { caller, ..self.clone() })
    }

    /// Counts a call to the namespaces that a key lies in. What the call does on the way, and after
    /// a caller went away, is part of it.
    ///
    /// # Errors
    /// One of them has had its requests for now; the caller may not even read the key.
    pub(crate) async fn admit(&self, key: &Bytes) -> Result<(), Status> {
        let read = one(key);
        self.node.admit(&self.caller, |guard| guard.range(&read), |see| see(key)).await
    }

    /// As [`Turns::admit`], for the keys under a name.
    pub(crate) async fn admit_under(&self, name: &Bytes) -> Result<(), Status> {
        self.admit(&prefix(name)).await
    }

    /// Stands in line and waits for the turn. A caller that goes away leaves the line.
    ///
    /// # Errors
    /// The lease is not there, or ended meanwhile; nobody leads.
    pub(crate) async fn take(
        &self,
        name: &Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<(Place, Option<ResponseHeader>), Status> {
        let own = if lease == 0 { Some(self.own_lease().await?) } else { None };
        let lease = own.as_ref().map_or(lease, |own| own.id);
        let place = self.line_up(name, lease, value).await?;
        let leaving = Leaving(Some((self.clone(), place.clone())));
        let header = self.wait(name, &place).await?;
        leaving.disarm();
        Ok((place, header))
    }

    /// The holder of the turn.
    pub(crate) async fn holder(&self, name: &Bytes) -> Result<RangeResponse, Status> {
        self.first(by_age(name, SortOrder::Ascend)).await
    }

    /// Writes for the holder of a place; false when it is not there any more.
    pub(crate) async fn write(
        &self,
        key: &Bytes,
        rev: i64,
        op: Op,
    ) -> Result<(bool, Option<ResponseHeader>), Status> {
        let txn = TxnRequest {
            compare: vec![created(key, rev)],
            success: vec![RequestOp { request: Some(op) }],
            failure: Vec::new(),
        };
        let answer = self.txn(txn).await?;
        Ok((answer.succeeded, answer.header))
    }

    /// Leaves the line, or gives the turn up.
    pub(crate) async fn leave(&self, place: &Place) -> Result<Option<ResponseHeader>, Status> {
        let delete = DeleteRangeRequest { key: place.key.clone(), ..Default::default() };
        let (_, header) = self.write(&place.key, place.rev, Op::RequestDeleteRange(delete)).await?;
        Ok(header)
    }

    /// Events from a revision on, as a client that watches gets them.
    pub(crate) fn watch(
        &self,
        create: WatchCreateRequest,
    ) -> impl Stream<Item = Result<WatchResponse, Status>> + Send + Unpin + 'static {
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = futures::stream::iter([Ok(request)]).chain(futures::stream::pending());
        let quorum = Some(self.node.quorum.clone());
        let (sessions, caller) = (self.sessions.clone(), self.caller.clone());
        let answers = Session::new(sessions, Box::pin(requests), quorum, caller).answers();
        Box::pin(answers.map_ok(Told::into_response))
    }

    async fn line_up(&self, name: &Bytes, lease: i64, value: Bytes) -> Result<Place, Status> {
        let mut key = BytesMut::from(prefix(name).as_ref());
        key.put_slice(format!("{lease:x}").as_bytes());
        let key = key.freeze();
        let put =
            PutRequest { key: key.clone(), value: value.clone(), lease, ..Default::default() };
        let txn = TxnRequest {
            compare: vec![created(&key, 0)],
            success: vec![RequestOp { request: Some(Op::RequestPut(put.clone())) }],
            failure: vec![RequestOp { request: Some(Op::RequestRange(one(&key))) }],
        };
        check::txn(&txn, self.node.limits.txn_ops).map_err(refusal::store)?;
        self.node.allow(&self.caller, |guard| guard.txn(&txn)).await?;
        self.node.demand_room()?;
        let answer = self.txn(txn).await?;
        if answer.succeeded {
            let rev = answer.header.map_or(0, |header| header.revision);
            return Ok(Place { key, rev, lease });
        }
        // the same lease stands in line already: that is its place
        let there = match answer.responses.into_iter().next().and_then(|one| one.response) {
            Some(Answer::ResponseRange(mut range)) if !range.kvs.is_empty() => range.kvs.remove(0),
            _ => return Err(mismatch()),
        };
        let place = Place { key, rev: there.create_revision, lease };
        if there.value != value && !self.write(&place.key, place.rev, Op::RequestPut(put)).await?.0
        {
            return Err(Status::from(&refusal::SESSION_EXPIRED));
        }
        Ok(place)
    }

    /// Until nobody stands before this place. A place is lost with its lease.
    async fn wait(&self, name: &Bytes, place: &Place) -> Result<Option<ResponseHeader>, Status> {
        let before =
            RangeRequest { max_create_revision: place.rev - 1, ..by_age(name, SortOrder::Descend) };
        loop {
            // the line first: who is still in it afterwards was in it then
            let line = self.first(before.clone()).await?;
            let own = self.first(one(&place.key)).await?;
            if !own.kvs.iter().any(|kv| kv.create_revision == place.rev) {
                return Err(Status::from(&refusal::SESSION_EXPIRED));
            }
            let Some(KeyValue { key, .. }) = line.kvs.into_iter().next() else {
                return Ok(own.header);
            };
            let after = |header: Option<ResponseHeader>| header.map_or(0, |it| it.revision) + 1;
            tokio::select! {
                gone = self.deleted(key, after(line.header)) => gone?,
                gone = self.deleted(place.key.clone(), after(own.header)) => gone?,
            }
        }
    }

    /// Until a key may be gone.
    async fn deleted(&self, key: Bytes, from: i64) -> Result<(), Status> {
        let create = WatchCreateRequest {
            key,
            start_revision: from,
            filters: vec![FilterType::Noput as i32],
            ..Default::default()
        };
        let mut events = self.watch(create);
        while let Some(answer) = events.next().await {
            let answer = answer?;
            // canceled: the start was compacted, so much time has passed, or permissions have
            // changed; look anew
            if !answer.events.is_empty() || answer.canceled {
                return Ok(());
            }
        }
        Err(Status::from(&refusal::STOPPED))
    }

    async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Status> {
        match self.node.propose_as(&self.caller, Command::Txn(txn)).await? {
            Reply::Txn(mut answer) => {
                self.node.headers.complete(&mut answer.header);
                Ok(answer)
            }
            _ => Err(mismatch()),
        }
    }

    /// A linearizable read of at most one key.
    async fn first(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        check::range(&request).map_err(refusal::store)?;
        self.node.barrier().await?;
        let (reader, caller) = (self.node.reader.clone(), self.caller.clone());
        let read = move || {
            let check =
                |auth: &_| caller.check(auth, &|_| Vec::new(), |guard| guard.range(&request));
            reader.guarded(check, || reader.range(&request))
        };
        // waiters under one name may be many
        let read = consensus::blocking(read).await;
        let mut answer =
            read.map_err(|_| Status::from(&refusal::STOPPED))?.map_err(refusal::store)?;
        self.node.headers.complete(&mut answer.header);
        Ok(answer)
    }

    /// A lease for a caller without one, kept alive while it waits.
    async fn own_lease(&self) -> Result<OwnLease, Status> {
        let id = loop {
            let id = rand::random_range(1..=i64::MAX);
            let grant = LeaseGrantRequest { id, ttl: OWN_LEASE_SECONDS };
            match self.node.propose_as(&self.caller, Command::LeaseGrant(grant)).await {
                Ok(_) => break id,
                Err(error) if error.message() == StoreError::LeaseExists.to_string() => {}
                Err(error) => return Err(error),
            }
        };
        let node = self.node.clone();
        let task = tokio::spawn(async move {
            let mut ticks =
                tokio::time::interval(Duration::from_secs(OWN_LEASE_SECONDS as u64 / 3));
            loop {
                ticks.tick().await;
                if let Err(error) = node.renew(&MetadataMap::new(), vec![id]).await {
                    tracing::debug!(%error, lease = id, "a waiter's lease was not renewed");
                }
            }
        });
        Ok(OwnLease { id, task })
    }
}

/// Renews while it lives.
struct OwnLease {
    id: i64,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for OwnLease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes a waiter out of the line whose call ended before its turn.
struct Leaving(Option<(Turns, Place)>);

impl Leaving {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some((turns, place)) = self.0.take() else { return };
        // outside of a runtime there is no server any more; the lease's end does the same
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = turns.leave(&place).await {
                tracing::debug!(%error, "a waiter that went away stays until its lease ends");
            }
        });
    }
}

fn prefix(name: &Bytes) -> Bytes {
    let mut prefix = BytesMut::with_capacity(name.len() + 1);
    prefix.put_slice(name);
    prefix.put_u8(b'/');
    prefix.freeze()
}

/// All keys under a name, the first by create revision.
pub(crate) fn by_age(name: &Bytes, order: SortOrder) -> RangeRequest {
    let (key, range_end) = under(name);
    RangeRequest {
        key,
        range_end,
        limit: 1,
        sort_order: order as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// The range of all keys under a name.
pub(crate) fn under(name: &Bytes) -> (Bytes, Bytes) {
    let start = prefix(name);
    let mut end = BytesMut::from(start.as_ref());
    let last = end.len() - 1;
    end[last] = b'/' + 1;
    (start, end.freeze())
}

fn one(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), ..Default::default() }
}

fn created(key: &Bytes, rev: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(rev)),
        ..Default::default()
    }
}
