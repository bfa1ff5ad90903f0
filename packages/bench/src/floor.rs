//! Servers that do next to nothing, to know what any server must cost with this client and disk.
//!
//! One answers at once. The other appends every put to a log on a thread of its own, which calls
//! fdatasync once for all that wait. Neither keeps any data: a get is answered with a value made
//! from its key, as the load expects it.

use crate::keys;
use anyhow::{Context, Result};
use api::etcdserverpb::kv_server::{Kv, KvServer};
use api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
    TxnResponse,
};
use api::mvccpb::KeyValue;
use bytes::Bytes;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// How a floor server is started; the benchmark runs itself.
#[derive(clap::Args, Debug)]
pub(crate) struct FloorArgs {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Bytes of a value
    #[arg(long)]
    value: usize,
    /// Append puts to this file and sync it before answering
    #[arg(long)]
    log: Option<PathBuf>,
}

/// A put on its way to the log.
type Waiting = (Bytes, Bytes, oneshot::Sender<()>);

struct Floor {
    revision: AtomicI64,
    filler: Arc<Vec<u8>>,
    log: Option<mpsc::Sender<Waiting>>,
}

/// Serves until it is killed.
pub(crate) async fn serve(args: FloorArgs) -> Result<()> {
    let log = args.log.map(|path| open_log(&path)).transpose()?;
    let filler = Arc::new(keys::filler(args.value));
    let floor = Floor { revision: AtomicI64::new(1), filler, log };
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .add_service(KvServer::new(floor))
        .serve(args.listen)
        .await
        .context("serve")
}

fn open_log(path: &std::path::Path) -> Result<mpsc::Sender<Waiting>> {
    let mut file = File::create(path)?;
    let (sender, queue) = mpsc::channel::<Waiting>();
    std::thread::Builder::new().name("log".into()).spawn(move || {
        let (mut buffer, mut waiting) = (Vec::new(), Vec::new());
        while let Ok(first) = queue.recv() {
            for (key, value, answer) in std::iter::once(first).chain(queue.try_iter()) {
                buffer.extend_from_slice(&key);
                buffer.extend_from_slice(&value);
                waiting.push(answer);
            }
            if file.write_all(&buffer).and_then(|()| file.sync_data()).is_err() {
                return; // whoever waits learns it from the dropped channel
            }
            buffer.clear();
            for answer in waiting.drain(..) {
                let _ = answer.send(());
            }
        }
    })?;
    Ok(sender)
}

impl Floor {
    fn header(&self, step: i64) -> Option<ResponseHeader> {
        let revision = self.revision.fetch_add(step, Ordering::Relaxed) + step;
        Some(ResponseHeader { revision, ..Default::default() })
    }
}

#[tonic::async_trait]
impl Kv for Floor {
    type RangeStreamStream = tokio_stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("a floor only puts and gets"))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = request.into_inner();
        if let Some(log) = &self.log {
            let (answer, synced) = oneshot::channel();
            let stopped = |_| Status::unavailable("the log has failed");
            log.send((request.key, request.value, answer))
                .map_err(|_| Status::unavailable("the log has failed"))?;
            synced.await.map_err(stopped)?;
        }
        Ok(Response::new(PutResponse { header: self.header(1), ..Default::default() }))
    }

    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        let header = self.header(0);
        if request.count_only {
            return Ok(Response::new(RangeResponse { header, ..Default::default() }));
        }
        let value = keys::with_filler(&request.key, &self.filler);
        let kvs = vec![KeyValue {
            key: request.key,
            value,
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            lease: 0,
        }];
        Ok(Response::new(RangeResponse { header, kvs, count: 1, ..Default::default() }))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("a floor only puts and gets"))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(Status::unimplemented("a floor only puts and gets"))
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        Err(Status::unimplemented("a floor only puts and gets"))
    }
}
