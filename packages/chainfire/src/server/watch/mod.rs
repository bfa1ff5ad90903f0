//! The Watch service.
//!
//! ```text
//! Store ─► Subscription ─► Hub (who wants what) ─► a queue a stream ─► Session ─► answers
//!                                    too slow: dropped ─► history in pages ─┘
//! ```

mod answer;
mod batch;
mod hub;
mod interest;
mod session;
mod source;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::etcdserverpb::WatchRequest;
use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

pub(crate) use answer::Answer;
pub(crate) use hub::{Hub, HubStats, QueueLimits};
pub(crate) use session::{Session, Sessions};

use super::node::{Node, wants_leader};
use super::refusal;
use crate::store::{Reader, Subscription};

/// Changes handed to the hub at once.
const TOGETHER: usize = 256;
const SERVICE: &str = "etcdserverpb.Watch";
const METHOD: &str = "/etcdserverpb.Watch/Watch";

/// The service by itself, not the generated one: that would encode an event for each watch anew.
#[derive(Clone)]
pub(crate) struct WatchService {
    pub(crate) node: Arc<Node>,
    pub(crate) sessions: Sessions<Reader>,
    /// The largest request, in bytes.
    pub(crate) limit: usize,
}

type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;
type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;

impl NamedService for WatchService {
    const NAME: &'static str = SERVICE;
}

impl tower::Service<http::Request<tonic::body::Body>> for WatchService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Future<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::from(&refusal::NO_METHOD).into_http());
            }
            let mut grpc = Grpc::new(answer::WatchCodec)
                .apply_max_message_size_config(Some(service.limit), Some(usize::MAX));
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl StreamingService<WatchRequest> for WatchService {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = Future<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        let Self { node, sessions, .. } = self.clone();
        Box::pin(async move {
            node.demand_leader(request.metadata())?;
            let quorum = wants_leader(request.metadata()).then(|| node.quorum.clone());
            let caller = node.stream_caller(&request).await?;
            let session = Session::new(sessions, request.into_inner(), quorum, caller);
            let answers: Answers = Box::pin(session.answers());
            Ok(Response::new(answers))
        })
    }
}

/// Hands what the store publishes to the hub, until `stop`.
pub(crate) async fn feed(
    hub: Arc<Hub>,
    reader: Reader,
    mut changes: Subscription,
    stop: CancellationToken,
) {
    let mut together = Vec::new();
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = changes.next() => next,
        };
        let mut lagged = match next {
            Ok(next) => {
                together.push(next);
                false
            }
            Err(_) => true,
        };
        while together.len() < TOGETHER && !lagged {
            match changes.poll() {
                Ok(Some(next)) => together.push(next),
                Ok(None) => break,
                Err(_) => lagged = true,
            }
        }
        hub.publish(&together);
        together.clear();
        if lagged {
            hub.skip_to(reader.revision());
        }
    }
}
