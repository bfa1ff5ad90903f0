//! Edges that misbehave: messages that come twice, and disks that lie.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use journal::lossy::LossyDisk;
use journal::{Disk, DiskFile};
use parking_lot::Mutex;
use tonic::body::Body;
use tower::Service;

use super::chance::Dice;

/// Lets some calls of Raft that may come twice come twice, the second one late.
#[derive(Clone)]
pub(super) struct Twice<S> {
    pub(super) inner: S,
    pub(super) dice: Arc<Mutex<Dice>>,
}

impl<S> Service<http::Request<Body>> for Twice<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let harmless = ["/Heartbeat", "/Vote", "/ReadIndex", "/Standing"];
        let may = harmless.iter().any(|end| path.ends_with(end));
        let (twice, late) = {
            let mut dice = self.dice.lock();
            (dice.one_in(12), Duration::from_millis(dice.below(400)))
        };
        let mut inner = self.inner.clone();
        Box::pin(async move {
            if !(may && twice) {
                return inner.call(request).await;
            }
            let (head, body) = request.into_parts();
            let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let again =
                |bytes| http::Request::from_parts(head.clone(), Body::new(Full::new(bytes)));
            let answer = inner.call(again(bytes.clone())).await;
            let second = inner.call(again(bytes));
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                let _ = second.await;
            });
            answer
        })
    }
}

/// A disk that says it has synced, and has not.
pub(super) struct Liar(pub(super) LossyDisk);

struct LyingFile(Arc<dyn DiskFile>);

impl Disk for Liar {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.create(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile(self.0.open(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for LyingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
