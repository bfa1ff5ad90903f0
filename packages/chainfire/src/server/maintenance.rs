//! The Maintenance service.

use std::pin::Pin;
use std::sync::Arc;

use api::chainfire_internal::command::Request as Command;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::downgrade_request::DowngradeAction;
use api::etcdserverpb::maintenance_server::Maintenance;
use api::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use bytes::Bytes;
use consensus::SnapshotSource;
use futures::Stream;
use ring::digest;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::node::{Node, mismatch};
use super::refusal;
use super::version::{self, VERSION};
use crate::store::{Pack, Reader, Reply, StoreError};

/// Chunks of a snapshot that wait for a slow client.
const CHUNKS: usize = 4;
/// etcd's clients take a snapshot for whole if what precedes the checksum is a multiple of this.
const BLOCK: u64 = 512;

pub(crate) struct MaintenanceService(pub(crate) Arc<Node>);

impl MaintenanceService {
    /// Reads everything, on a thread of its own.
    async fn long_read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let reader = self.0.reader.clone();
        match consensus::blocking(move || read(reader)).await {
            Ok(answer) => answer.map_err(refusal::store),
            Err(_) => Err(Status::from(&refusal::STOPPED)),
        }
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let node = &self.0;
        let caller = node.stream_caller(&request).await?;
        let request = request.into_inner();
        if request.action == AlarmAction::Get as i32 {
            node.allow_known(&caller)?;
            node.barrier().await?;
            let mut alarms = node.reader.alarms();
            if request.alarm != AlarmType::None as i32 {
                alarms.retain(|member| member.alarm == request.alarm);
            }
            let header = node.headers.at(node.reader.revision());
            return Ok(Response::new(AlarmResponse { header, alarms }));
        }
        node.allow_root(&caller).await?;
        match node.propose(Command::Alarm(request)).await? {
            Reply::Alarm(mut answer) => {
                node.headers.complete(&mut answer.header);
                Ok(Response::new(answer))
            }
            _ => Err(mismatch()),
        }
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let node = &self.0;
        node.allow_known(&node.caller(&request).await?)?;
        let status = node.group.status();
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(status.failure.clone());
        for alarm in node.reader.alarms() {
            let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |a| a.as_str_name());
            errors.push(format!("memberID:{} alarm:{kind} ", alarm.member_id));
        }
        let in_use = node.reader.db_size_in_use();
        Ok(Response::new(StatusResponse {
            header: node.headers.at(node.reader.revision()),
            version: VERSION.into(),
            // what is in use counts before compression: clients divide by the size, and take it for
            // what the quota is held against
            db_size: node.reader.db_size().max(in_use).max(1) as i64,
            leader: status.leader.unwrap_or(0),
            raft_index: status.last_index,
            raft_term: status.term,
            raft_applied_index: status.applied,
            errors,
            db_size_in_use: in_use as i64,
            is_learner: status.member(status.me).is_some_and(|me| !me.voter),
            storage_version: VERSION.into(),
            db_size_quota: node.quota_bytes as i64,
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    /// Space is given back in the background: there is nothing to do.
    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.0.allow_root_here(&self.0.caller(&request).await?).await?;
        let header = self.0.headers.at(self.0.reader.revision());
        Ok(Response::new(DefragmentResponse { header }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.0.allow_root_here(&self.0.caller(&request).await?).await?;
        let hash = self.long_read(|reader| reader.hash()).await?;
        let header = self.0.headers.at(self.0.reader.revision());
        Ok(Response::new(HashResponse { header, hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        self.0.allow_root_here(&self.0.caller(&request).await?).await?;
        let revision = request.into_inner().revision;
        let found = self.long_read(move |reader| reader.hash_kv(revision)).await?;
        Ok(Response::new(HashKvResponse {
            header: self.0.headers.at(found.revision),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.hash_revision,
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let node = self.0.clone();
        node.allow_root_here(&node.caller(&request).await?).await?;
        let revision = node.reader.revision();
        let pack = node.reader.snapshot().map_err(refusal::store)?;
        let (send, receive) = tokio::sync::mpsc::channel(CHUNKS);
        let expected = node.reader.db_size_in_use();
        let answer = move |(blob, remaining_bytes)| SnapshotResponse {
            header: node.headers.at(revision),
            remaining_bytes,
            blob,
            version: VERSION.into(),
        };
        // Ends when the client is gone: then sending fails.
        let copy = Copy::new(pack, expected).map(move |piece| piece.map(&answer));
        consensus::pump(copy, send);
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let node = &self.0;
        node.allow_root(&node.stream_caller(&request).await?).await?;
        if !node.leads() {
            return Err(Status::from(&refusal::NOT_LEADER));
        }
        let target = node
            .member(request.into_inner().target_id)
            .map_err(|_| Status::from(&refusal::BAD_TRANSFEREE))?;
        if target.id != node.me() {
            node.group.transfer_leader(target.id).await.map_err(refusal::membership)?;
        }
        // as etcd answers it
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        self.0.allow_root_here(&self.0.caller(&request).await?).await?;
        let request = request.into_inner();
        Err(match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
                version::downgrade(&request.version)
            }
            Ok(DowngradeAction::Cancel) => Status::from(&refusal::NOT_DOWNGRADING),
            Err(_) => Status::from(&refusal::UNKNOWN_METHOD),
        })
    }
}

/// A snapshot as etcd's clients save it: the chunks, zeros up to a whole block, and the SHA-256 of
/// all that as the last message. Beside each, the bytes that follow: estimated, since the size is
/// known at the end only, but 0 exactly from the last block on, which some clients take for the end.
struct Copy {
    pack: Pack,
    expected: u64,
    digest: Option<digest::Context>,
    bytes: u64,
    padded: bool,
}

impl Copy {
    fn new(pack: Pack, expected: u64) -> Copy {
        let digest = Some(digest::Context::new(&digest::SHA256));
        Copy { pack, expected, digest, bytes: 0, padded: false }
    }
}

impl Iterator for Copy {
    type Item = Result<(Bytes, u64), Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let digest = self.digest.as_mut()?;
        let chunk = match self.pack.next() {
            Ok(chunk) => chunk,
            Err(error) => {
                self.digest = None;
                return Some(Err(refusal::store(StoreError::Engine(error.to_string()))));
            }
        };
        let blob = match chunk {
            Some(chunk) => chunk,
            None if !self.padded => {
                self.padded = true;
                let missing = (BLOCK - self.bytes % BLOCK) % BLOCK;
                Bytes::from(vec![0; missing as usize])
            }
            None => {
                let whole = self.digest.take()?.finish();
                return Some(Ok((Bytes::copy_from_slice(whole.as_ref()), 0)));
            }
        };
        digest.update(&blob);
        self.bytes += blob.len() as u64;
        let left = if self.padded { 0 } else { self.expected.saturating_sub(self.bytes).max(1) };
        Some(Ok((blob, left)))
    }
}
