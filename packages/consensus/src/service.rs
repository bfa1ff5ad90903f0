//! The gRPC service that peers call: who may call, for which group, then on to that group.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::raft as pb;
use api::raft::raft_server::{Raft as RaftService, RaftServer};
use fault::{Fault, Kind};
use futures::{Stream, StreamExt, stream};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::codes;
use crate::machine::Machine;
use crate::options::Admit;
use crate::raft::{LogId, Snapshot, SnapshotMeta, Types, Vote};
use crate::shared::Shared;
use crate::spool::{self, Body, MAX_CHUNK, Part, Spool};
use crate::threads;
use crate::types::{GroupId, NodeId};
use crate::unbroken::{drained, unbroken};
use crate::wire;

/// A snapshot that stops arriving is given up after this.
const STALL: Duration = Duration::from_secs(20);

type Appends = Pin<Box<dyn Stream<Item = AppendEntriesRequest<Types>> + Send>>;
type Responses = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

/// A group behind the service, whatever its machine is.
#[tonic::async_trait]
pub(crate) trait Port: Send + Sync + 'static {
    fn me(&self) -> NodeId;
    fn append(&self, requests: Appends) -> Responses;
    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> Result<pb::AppendResponse, Status>;
    async fn vote(&self, request: pb::VoteRequest) -> Result<pb::VoteResponse, Status>;
    /// This node's vote if it is higher, which makes a snapshot useless.
    fn refuses(&self, vote: &Vote) -> Option<Vote>;
    /// Whether a snapshot can be what that leader says; what cannot would end the group.
    fn fits(&self, vote: &Vote, meta: &SnapshotMeta) -> Result<(), Status>;
    async fn install(&self, vote: Vote, meta: SnapshotMeta, part: Part) -> Result<Vote, Status>;
    async fn transfer(&self, request: pb::TransferRequest) -> Result<pb::TransferResponse, Status>;
    async fn propose(&self, batch: pb::Batch) -> pb::ProposeResponse;
    async fn read_index(&self) -> pb::ReadIndexResponse;
    async fn change(&self, change: pb::change_request::Change) -> pb::ChangeResponse;
    fn standing(&self, from: NodeId, members: Option<LogId>) -> pb::StandingResponse;
    /// Takes the only permit to receive a snapshot.
    fn receive(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Status>;
    fn max_batch(&self) -> usize;
}

/// The groups that can be called.
#[derive(Clone)]
pub(crate) struct Service {
    groups: Arc<RwLock<HashMap<GroupId, Arc<dyn Port>>>>,
    admit: Admit,
    spool: Spool,
    max_message: usize,
}

fn malformed(e: wire::Malformed) -> Status {
    Fault::new(codes::MALFORMED, Kind::Invalid, e.to_string(), "").into()
}

fn stopped() -> Status {
    Fault::new(codes::STOPPED, Kind::Unavailable, "the group has stopped here", "").into()
}

fn snapshot_failed(why: impl std::fmt::Display) -> Status {
    Fault::new(codes::SNAPSHOT, Kind::Unavailable, format!("snapshot: {why}"), "").into()
}

impl Service {
    pub(crate) fn new(admit: Admit, spool: Spool, max_message: usize) -> Self {
        Self { groups: Arc::default(), admit, spool, max_message }
    }

    pub(crate) fn routes(&self) -> tonic::service::Routes {
        let server = RaftServer::new(self.clone())
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message);
        tonic::service::Routes::new(server)
    }

    pub(crate) fn add(&self, group: GroupId, port: Arc<dyn Port>) {
        self.groups.write().insert(group, port);
    }

    pub(crate) fn remove(&self, group: GroupId) {
        self.groups.write().remove(&group);
    }

    fn admit(&self, extensions: &Extensions) -> Result<(), Status> {
        (self.admit)(extensions).map_err(|why| {
            tracing::warn!(why, code = codes::NOT_A_PEER.0, "refused a caller on the peer port");
            let what = "only members of the cluster may call this";
            Fault::new(codes::NOT_A_PEER, Kind::Denied, what, "use a service certificate").into()
        })
    }

    /// The group that a message is for. A wrong node id means that an address was used again.
    fn port(&self, address: Option<pb::Address>) -> Result<(Arc<dyn Port>, pb::Address), Status> {
        let address = address.ok_or(wire::Malformed("address")).map_err(malformed)?;
        let wrong = |what: String| {
            Status::from(Fault::new(codes::WRONG_ADDRESS, Kind::Precondition, what, "try later"))
        };
        let port = self.groups.read().get(&address.group).cloned();
        let port = port.ok_or_else(|| wrong(format!("group {} is not here", address.group)))?;
        if port.me() != address.to {
            return Err(wrong(format!("this is member {:#x}, not {:#x}", port.me(), address.to)));
        }
        Ok((port, address))
    }
}

#[tonic::async_trait]
impl RaftService for Service {
    type AppendStream = Responses;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Responses>, Status> {
        self.admit(request.extensions())?;
        let mut input = request.into_inner();
        let service = self.clone();
        // The first message says for which group. It is awaited inside of the answer, so that the
        // caller has its stream at once.
        let responses = stream::once(async move {
            let first = match input.message().await {
                Ok(Some(first)) => first,
                Ok(None) => return stream::empty().boxed(),
                Err(status) => return stream::iter([Err(status)]).boxed(),
            };
            let opened = service.port(first.address).and_then(|(port, address)| {
                let first = wire::from_append_request(first).map_err(malformed)?;
                let rest = stream::unfold(input, move |mut input| async move {
                    let next = input.message().await.ok().flatten()?;
                    if next.address != Some(address) {
                        return None;
                    }
                    wire::from_append_request(next).ok().map(|request| (request, input))
                });
                Ok(port.append(Box::pin(stream::iter([first]).chain(rest))))
            });
            opened.unwrap_or_else(|status| stream::iter([Err(status)]).boxed())
        });
        Ok(Response::new(responses.flatten().boxed()))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        self.admit(request.extensions())?;
        let request = request.into_inner();
        let (port, _) = self.port(request.address)?;
        let request = wire::from_append_request(request).map_err(malformed)?;
        port.heartbeat(request).await.map(Response::new)
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        self.admit(request.extensions())?;
        let request = request.into_inner();
        let (port, _) = self.port(request.address)?;
        port.vote(request).await.map(Response::new)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        use pb::snapshot_part::Part as P;
        self.admit(request.extensions())?;
        let mut input = request.into_inner();
        let Some(P::Head(head)) = next_part(&mut input).await? else {
            return Err(malformed(wire::Malformed("snapshot without a head")));
        };
        let (port, address) = self.port(head.address)?;
        let vote = wire::from_leader(head.vote.as_ref(), address.from).map_err(malformed)?;
        if let Some(higher) = port.refuses(&vote) {
            return Ok(Response::new(pb::SnapshotResponse { vote: Some(wire::vote(&higher)) }));
        }
        let _one = port.receive()?;
        let meta = spool::meta_of(&head).map_err(malformed)?;
        port.fits(&vote, &meta)?;
        let part = self.gather(address.group, &meta, &mut input).await?;
        let vote = port.install(vote, meta, part).await?;
        Ok(Response::new(pb::SnapshotResponse { vote: Some(wire::vote(&vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferResponse>, Status> {
        self.admit(request.extensions())?;
        let request = request.into_inner();
        let (port, _) = self.port(request.address)?;
        port.transfer(request).await.map(Response::new)
    }

    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeResponse>, Status> {
        self.admit(request.extensions())?;
        let request = request.into_inner();
        let (port, address) = self.port(request.address)?;
        let batch = request.batch.ok_or(wire::Malformed("batch")).map_err(malformed)?;
        let size = batch.encoded_len();
        if batch.origin != address.from || batch.requests.is_empty() || size > port.max_batch() {
            return Err(malformed(wire::Malformed("batch")));
        }
        Ok(Response::new(port.propose(batch).await))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.admit(request.extensions())?;
        let (port, _) = self.port(request.into_inner().address)?;
        Ok(Response::new(port.read_index().await))
    }

    async fn change(
        &self,
        request: Request<pb::ChangeRequest>,
    ) -> Result<Response<pb::ChangeResponse>, Status> {
        self.admit(request.extensions())?;
        let request = request.into_inner();
        let (port, _) = self.port(request.address)?;
        let change = request.change.ok_or(wire::Malformed("change")).map_err(malformed)?;
        Ok(Response::new(port.change(change).await))
    }

    async fn standing(
        &self,
        request: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        self.admit(request.extensions())?;
        let request = request.into_inner();
        let (port, address) = self.port(request.address)?;
        let members = wire::from_log_id_of(request.members.as_ref()).map_err(malformed)?;
        Ok(Response::new(port.standing(address.from, members)))
    }
}

async fn next_part(
    input: &mut Streaming<pb::SnapshotPart>,
) -> Result<Option<pb::snapshot_part::Part>, Status> {
    match tokio::time::timeout(STALL, input.message()).await {
        Ok(Ok(part)) => Ok(part.and_then(|p| p.part)),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(snapshot_failed("it stopped arriving")),
    }
}

impl Service {
    /// Gathers and verifies a snapshot in a file.
    async fn gather(
        &self,
        group: GroupId,
        meta: &SnapshotMeta,
        input: &mut Streaming<pb::SnapshotPart>,
    ) -> Result<Part, Status> {
        use pb::snapshot_part::Part as P;
        let (chunks, queue) = mpsc::channel::<bytes::Bytes>(4);
        let (spool, meta) = (self.spool.clone(), meta.clone());
        let begin = move || spool.begin(group, &meta);
        let writing = threads::gather(queue, begin, |writer, chunk| writer.chunk(&chunk));
        let mut expected = 0;
        let end = loop {
            match next_part(input).await? {
                Some(P::Chunk(chunk)) => {
                    let whole = chunk.sequence == expected
                        && chunk.data.len() <= MAX_CHUNK
                        && crc32c::crc32c(&chunk.data) == chunk.crc;
                    if !whole {
                        return Err(snapshot_failed(format!("chunk {expected} is damaged")));
                    }
                    expected += 1;
                    if chunks.send(chunk.data).await.is_err() {
                        break None;
                    }
                }
                Some(P::End(end)) => break Some(end),
                Some(P::Head(_)) => return Err(malformed(wire::Malformed("second head"))),
                None => return Err(snapshot_failed("it was cut")),
            }
        };
        drop(chunks);
        let local = |e: std::io::Error| {
            tracing::error!(error = %e, code = codes::SNAPSHOT.0, "cannot spool a snapshot");
            snapshot_failed("the receiver cannot store it")
        };
        let writer = writing.await.map_err(|_| stopped())?.map_err(local)?;
        let end = end.ok_or_else(stopped)?;
        if (end.chunks, end.bytes) != (writer.chunks(), writer.bytes()) {
            return Err(snapshot_failed("it is not whole"));
        }
        let part = threads::blocking(move || writer.finish()).await;
        part.map_err(|_| stopped())?.map_err(local)
    }
}

#[tonic::async_trait]
impl<M: Machine> Port for Shared<M> {
    fn me(&self) -> NodeId {
        self.me
    }

    fn append(&self, requests: Appends) -> Responses {
        self.hear();
        let heard = self.heard.clone();
        let requests = requests.inspect(move |_| *heard.lock() = tokio::time::Instant::now());
        let responses = drained(self.raft.stream_append(requests));
        Box::pin(responses.map(|result| match result {
            Ok(result) => Ok(wire::append_response(&result)),
            Err(_) => Err(stopped()),
        }))
    }

    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> Result<pb::AppendResponse, Status> {
        use openraft::raft::AppendEntriesResponse as R;
        self.hear();
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|e| e.id).or(previous);
        let raft = self.raft.clone();
        let response = unbroken(async move { raft.append_entries(request).await }).await;
        let response = response.map_err(|_| stopped())?;
        let result = match response {
            R::Conflict if previous.is_none() => return Err(stopped()),
            other => other.into_stream_result(previous, last),
        };
        Ok(wire::append_response(&result))
    }

    async fn vote(&self, request: pb::VoteRequest) -> Result<pb::VoteResponse, Status> {
        let vote = request.vote.as_ref().ok_or(wire::Malformed("vote request"));
        let vote = vote.and_then(wire::from_vote).map_err(malformed)?;
        let last = wire::from_log_id_of(request.last.as_ref()).map_err(malformed)?;
        let rpc =
            VoteRequest { leadership_transfer: request.transfer, ..VoteRequest::new(vote, last) };
        let raft = self.raft.clone();
        let response = unbroken(async move {
            if request.pre { raft.pre_vote(rpc).await } else { raft.vote(rpc).await }
        });
        let response = response.await.map_err(|_| stopped())?;
        Ok(pb::VoteResponse {
            vote: Some(wire::vote(&response.vote)),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(wire::log_id),
        })
    }

    fn refuses(&self, vote: &Vote) -> Option<Vote> {
        use openraft::async_runtime::watch::WatchReceiver;
        let mine = self.raft.server_metrics().borrow_watched().vote;
        (mine > *vote).then_some(mine)
    }

    fn fits(&self, vote: &Vote, meta: &SnapshotMeta) -> Result<(), Status> {
        use openraft::async_runtime::watch::WatchReceiver;
        let wrong = |what| Err(malformed(wire::Malformed(what)));
        let Some(last) = meta.last_log_id else {
            return wrong("snapshot: it has nothing");
        };
        if last.leader_id > vote.leader_id || *meta.last_membership.log_id() > Some(last) {
            return wrong("snapshot: it is newer than its leader, or its members than it");
        }
        match self.raft.metrics().borrow_watched().local_committed {
            // The library takes one that is behind for installed. But this one says otherwise
            // about an entry that is committed.
            Some(known) if last > known && last.index <= known.index => {
                wrong("snapshot: it contradicts what is committed")
            }
            _ => Ok(()),
        }
    }

    async fn install(&self, vote: Vote, meta: SnapshotMeta, part: Part) -> Result<Vote, Status> {
        let receiving = self.peers.figures.received.begin();
        self.peers.figures.received.count(part.bytes());
        self.fits(&vote, &meta)?;
        self.hear();
        let snapshot = Snapshot { meta, snapshot: Body::File(part) };
        let raft = self.raft.clone();
        let response = unbroken(async move { raft.install_full_snapshot(vote, snapshot).await });
        let response = response.await.map_err(|_| stopped())?;
        receiving.done();
        Ok(response.vote)
    }

    async fn transfer(&self, request: pb::TransferRequest) -> Result<pb::TransferResponse, Status> {
        let from = request.address.map_or(0, |address| address.from);
        let leader = wire::from_leader(request.leader.as_ref(), from).map_err(malformed)?;
        let last = wire::from_log_id_of(request.last.as_ref()).map_err(malformed)?;
        let rpc = TransferLeaderRequest::new(leader, request.target, last);
        let raft = self.raft.clone();
        let taken = unbroken(async move { raft.handle_transfer_leader(rpc).await }).await;
        let taken = taken.map_err(|_| stopped())?;
        let refused = taken.err().map(|e| e.to_string()).unwrap_or_default();
        Ok(pb::TransferResponse { refused })
    }

    async fn propose(&self, batch: pb::Batch) -> pb::ProposeResponse {
        self.serve_propose(batch).await
    }

    async fn read_index(&self) -> pb::ReadIndexResponse {
        self.serve_read_index().await
    }

    async fn change(&self, change: pb::change_request::Change) -> pb::ChangeResponse {
        self.serve_change(change).await
    }

    fn standing(&self, from: NodeId, members: Option<LogId>) -> pb::StandingResponse {
        self.serve_standing(from, members)
    }

    fn receive(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
        let permit = self.receiving.clone().try_acquire_owned();
        permit.map_err(|_| snapshot_failed("another one is being received"))
    }

    fn max_batch(&self) -> usize {
        // Less by what the entry adds around it.
        self.options.largest_entry() - 64
    }
}
