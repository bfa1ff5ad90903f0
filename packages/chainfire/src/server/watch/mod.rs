//! The Watch service.
//!
//! ```text
//! Store ─► Subscription ─► Hub (who wants what) ─► a queue a stream ─► Session ─► answers
//!                                    too slow: dropped ─► history in pages ─┘
//! ```

mod batch;
mod hub;
mod interest;
mod session;
mod source;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;

use api::etcdserverpb::watch_server::Watch;
use api::etcdserverpb::{WatchRequest, WatchResponse};
use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use hub::{Hub, HubStats, QueueLimits};
pub(crate) use session::{Session, Sessions};

use super::node::{Node, wants_leader};
use crate::store::{Reader, Subscription};

/// Changes handed to the hub at once.
const TOGETHER: usize = 256;

pub(crate) struct WatchService {
    pub(crate) node: Arc<Node>,
    pub(crate) sessions: Sessions<Reader>,
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.node.demand_leader(request.metadata())?;
        let quorum = wants_leader(request.metadata()).then(|| self.node.quorum.clone());
        let caller = self.node.stream_caller(&request).await?;
        let session = Session::new(self.sessions.clone(), request.into_inner(), quorum, caller);
        Ok(Response::new(Box::pin(session.answers())))
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
