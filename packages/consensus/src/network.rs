//! How the Raft library reaches a peer.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::raft as pb;
use api::raft::raft_client::RaftClient;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::figures::Transfers;
use crate::log::Log;
use crate::machine::SnapshotSource;
use crate::peers::{Peers, address};
use crate::raft::{Snapshot, Types, Vote};
use crate::spool::{Body, MAX_CHUNK};
use crate::threads;
use crate::types::{GroupId, NodeId, NodeInfo};
use crate::wire;

type RpcError = RPCError<Types>;
type Appended = Result<StreamAppendResult<Types>, RpcError>;

/// An answer that takes longer than this breaks a pipeline, which is then built anew.
const STALL: Duration = Duration::from_secs(3);
/// So long may a snapshot make no progress on its way …
const SNAPSHOT_STALL: Duration = Duration::from_secs(30);
/// … and so long may the receiver take to install it.
const SNAPSHOT_INSTALL: Duration = Duration::from_secs(900);

/// Makes links to members of one group.
pub(crate) struct Network {
    pub(crate) group: GroupId,
    pub(crate) me: NodeId,
    pub(crate) peers: Arc<Peers>,
    pub(crate) log: Log,
}

impl Network {
    fn link(&self, target: NodeId, node: &NodeInfo, heartbeat: bool) -> Link {
        self.peers.learn(target, node);
        let Self { group, me, ref peers, ref log } = *self;
        Link { group, me, target, peers: peers.clone(), log: log.clone(), heartbeat }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &NodeInfo) -> Link {
        self.link(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &NodeInfo) -> Link {
        self.link(target, node, true)
    }
}

/// The way to one member of one group.
pub(crate) struct Link {
    group: GroupId,
    me: NodeId,
    target: NodeId,
    peers: Arc<Peers>,
    log: Log,
    /// Heartbeats are single calls: a stream for each would cost more.
    heartbeat: bool,
}

impl Link {
    fn client(&self) -> Result<RaftClient<Channel>, Unreachable<Types>> {
        self.peers
            .client(self.target)
            .ok_or_else(|| Unreachable::from_string(format!("member {:#x} unknown", self.target)))
    }

    fn address(&self) -> pb::Address {
        address(self.group, self.me, self.target)
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<Types> {
        Timeout { action, id: self.me, target: self.target, timeout }
    }

    /// One call with a deadline.
    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RpcError> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Err(_) => Err(self.timeout(action, limit).into()),
        }
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<Types>,
        pre: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let request = pb::VoteRequest {
            address: Some(self.address()),
            vote: Some(wire::vote(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(wire::log_id),
            transfer: rpc.leadership_transfer,
            pre,
        };
        let mut client = self.client()?;
        let response = self.call(RPCTypes::Vote, option.soft_ttl(), client.vote(request)).await?;
        let vote = response.vote.ok_or(wire::Malformed("vote response")).map_err(malformed)?;
        Ok(VoteResponse {
            vote: wire::from_vote(&vote).map_err(malformed)?,
            vote_granted: response.granted,
            last_log_id: wire::from_log_id_of(response.last.as_ref()).map_err(malformed)?,
        })
    }

    async fn open_pipeline<S>(&self, input: S) -> Result<BoxStream<'static, Appended>, RpcError>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        // While a snapshot is on its way, the library's task for the log may take up the last
        // command again, whose entries are purged. It would ask for nothing for ever and hear of no
        // newer command; when the pipeline ends it looks for one, and until then waits in between.
        let log = self.log.clone();
        let mut input = input.take_while(move |request| {
            let next = crate::raft::count_of(request.prev_log_id.as_ref());
            std::future::ready(!log.is_purged(next))
        });
        // The library waits before it gives out the first request after a failure: so this must
        // come before the connection is tried, or an absent peer would be tried without a pause.
        let Some(first) = input.next().await else {
            return Ok(Box::pin(stream::empty()));
        };
        let input = stream::iter([first]).chain(input);
        let mut client = self.client()?;
        let address = self.address();
        let flow = Arc::new(Flow::default());
        let sent = flow.clone();
        let requests = input.map(move |request| {
            sent.sent.fetch_add(1, Ordering::Relaxed);
            wire::append_request(address, &request)
        });
        // The server answers the headers at once, so this waits for no entry.
        let open = client.append(requests);
        let responses = match tokio::time::timeout(STALL, open).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(rpc_error(&status)),
            Err(_) => return Err(self.timeout(RPCTypes::AppendEntries, STALL).into()),
        };
        let stalled = self.timeout(RPCTypes::AppendEntries, STALL);
        let state = Some((responses, flow, stalled));
        Ok(Box::pin(stream::unfold(state, |state| async move {
            let (mut responses, flow, stalled) = state?;
            let next = loop {
                let before = flow.sent.load(Ordering::Relaxed);
                match tokio::time::timeout(STALL, responses.message()).await {
                    Ok(next) => break next,
                    // Quiet is fine, unless an answer was due since the last look.
                    Err(_) if before > flow.received.load(Ordering::Relaxed) => {
                        return Some((Err(stalled.into()), None));
                    }
                    Err(_) => {}
                }
            };
            flow.received.fetch_add(1, Ordering::Relaxed);
            match next {
                Ok(Some(response)) => match wire::from_append_response(response) {
                    Ok(result) => {
                        let more = result.is_ok().then_some((responses, flow, stalled));
                        Some((Ok(result), more))
                    }
                    Err(e) => Some((Err(malformed(e)), None)),
                },
                Ok(None) => None,
                Err(status) => Some((Err(rpc_error(&status)), None)),
            }
        })))
    }
}

#[derive(Default)]
struct Flow {
    sent: AtomicU64,
    received: AtomicU64,
}

fn malformed(e: wire::Malformed) -> RpcError {
    NetworkError::new(&e).into()
}

fn rpc_error(status: &tonic::Status) -> RpcError {
    let text = format!("{}: {}", status.code(), status.message());
    match status.code() {
        tonic::Code::Unavailable | tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
            Unreachable::from_string(text).into()
        }
        tonic::Code::FailedPrecondition => Unreachable::from_string(text).into(),
        _ => NetworkError::from_string(text).into(),
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Body;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        let mut client = self.client()?;
        let request = wire::append_request(self.address(), &rpc);
        let call = client.heartbeat(request);
        let begun = std::time::Instant::now();
        let response = self.call(RPCTypes::AppendEntries, option.hard_ttl(), call).await;
        if response.is_ok() {
            self.peers.figures.round_trip(self.target, begun.elapsed().as_secs_f64());
        }
        self.peers.answers(self.target, !matches!(response, Err(RPCError::Unreachable(_))));
        let response = response?;
        Ok(match wire::from_append_response(response).map_err(malformed)? {
            // All of the request matched, or the receiver would have said conflict.
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Appended>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if self.heartbeat {
            return openraft::network::stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let responses: BoxStream<'s, Appended> = self.open_pipeline(input).await?;
            Ok(responses)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_vote(rpc, false, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        self.ask_vote(rpc, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Body::View(view) = snapshot.snapshot else {
            return Err(NetworkError::from_string("nothing to send").into());
        };
        let mut client = self.client()?;
        let head = pb::SnapshotHead {
            address: Some(self.address()),
            vote: Some(wire::vote(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(wire::log_id),
            members: Some(wire::stored_membership(&snapshot.meta.last_membership)),
        };
        let sending = self.peers.figures.sent.begin();
        let (parts, queue) = mpsc::channel(4);
        let progress = Arc::new(AtomicU64::new(0));
        let read_out = ReadOut {
            view,
            head: Some(head),
            chunk: Bytes::new(),
            sequence: 0,
            bytes: 0,
            ended: false,
            progress: progress.clone(),
            sent: self.peers.figures.sent.clone(),
        };
        threads::pump(read_out, parts);
        let call = client.snapshot(ReceiverStream::new(queue));
        tokio::pin!(call, cancel);
        let mut seen = 0;
        let mut quiet = Duration::ZERO;
        loop {
            tokio::select! {
                closed = &mut cancel => return Err(closed.into()),
                response = &mut call => {
                    let response = response.map_err(|status| rpc_error(&status))?.into_inner();
                    let vote = response.vote.ok_or(wire::Malformed("snapshot response"));
                    let vote = vote.and_then(|vote| wire::from_vote(&vote)).map_err(malformed)?;
                    sending.done();
                    return Ok(SnapshotResponse::new(vote));
                }
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            let now = progress.load(Ordering::Relaxed);
            quiet = if now == seen { quiet + Duration::from_secs(1) } else { Duration::ZERO };
            seen = now;
            let limit = if now == DONE { SNAPSHOT_INSTALL } else { SNAPSHOT_STALL };
            if quiet > limit {
                return Err(self.timeout(RPCTypes::InstallSnapshot, limit).into());
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let mut client = self.client()?;
        let request = pb::TransferRequest {
            address: Some(self.address()),
            leader: Some(wire::vote(req.from_leader())),
            target: *req.to_node_id(),
            last: req.last_log_id().map(wire::log_id),
        };
        let call = client.transfer_leader(request);
        let limit = option.hard_ttl().max(STALL);
        let response = self.call(RPCTypes::TransferLeader, limit, call).await?;
        if response.refused.is_empty() {
            return Ok(Ok(()));
        }
        tracing::warn!(target = self.target, why = response.refused, "leader transfer refused");
        Ok(Err(TransferLeaderError::LogNotFlushed {
            expected: req.last_log_id().copied(),
            actual: None,
        }))
    }
}

/// The progress of a snapshot that has been read out to its end.
const DONE: u64 = u64::MAX;

/// Reads a view out in chunks. Without an end the receiver throws everything away.
struct ReadOut {
    view: Box<dyn SnapshotSource>,
    head: Option<pb::SnapshotHead>,
    /// What is left of the last chunk.
    chunk: Bytes,
    sequence: u64,
    bytes: u64,
    ended: bool,
    /// How many parts were taken before the last one.
    progress: Arc<AtomicU64>,
    sent: Transfers,
}

impl Iterator for ReadOut {
    type Item = pb::SnapshotPart;

    fn next(&mut self) -> Option<pb::SnapshotPart> {
        let part = self.part()?;
        Some(pb::SnapshotPart { part: Some(part) })
    }
}

impl ReadOut {
    fn part(&mut self) -> Option<pb::snapshot_part::Part> {
        use pb::snapshot_part::Part;
        if let Some(head) = self.head.take() {
            return Some(Part::Head(head));
        }
        // Who asks for the next part has taken the one before.
        self.progress.store(if self.ended { DONE } else { self.sequence }, Ordering::Relaxed);
        if self.ended {
            return None;
        }
        while self.chunk.is_empty() {
            match self.view.next() {
                Ok(Some(chunk)) => self.chunk = chunk,
                Ok(None) => {
                    self.ended = true;
                    let (chunks, bytes) = (self.sequence, self.bytes);
                    return Some(Part::End(pb::SnapshotEnd { chunks, bytes }));
                }
                Err(error) => {
                    tracing::error!(%error, code = crate::codes::MACHINE.0, "cannot read a snapshot");
                    return None;
                }
            }
        }
        let data = self.chunk.split_to(self.chunk.len().min(MAX_CHUNK));
        self.bytes += data.len() as u64;
        self.sent.count(data.len());
        let (sequence, crc) = (self.sequence, crc32c::crc32c(&data));
        self.sequence += 1;
        Some(Part::Chunk(pb::SnapshotChunk { sequence, crc, data }))
    }
}
