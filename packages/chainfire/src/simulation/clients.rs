//! Clients: they reach nodes through gRPC, but without a socket, and lose requests and answers.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use consensus::NodeId;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::chance::Dice;

/// The way into a running node.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) routes: Routes,
    /// Ends when the node does.
    pub(super) life: CancellationToken,
}

/// The ways into all running nodes.
#[derive(Clone)]
pub(super) struct Doors(Arc<Mutex<Inner>>);

struct Inner {
    open: BTreeMap<NodeId, (usize, Door)>,
    /// How many lives there were.
    lives: usize,
    dice: Dice,
    /// One in so many requests, and answers, is lost.
    lost: u64,
}

/// A request that surely reached nobody.
pub(super) const NOT_SENT: &str = "simulated: it was not sent";

impl Doors {
    pub(super) fn new(dice: Dice) -> Doors {
        Doors(Arc::new(Mutex::new(Inner { open: BTreeMap::new(), lives: 0, dice, lost: 60 })))
    }

    pub(super) fn open(&self, node: NodeId, door: Door) {
        let mut inner = self.0.lock();
        inner.lives += 1;
        let life = inner.lives;
        inner.open.insert(node, (life, door));
    }

    pub(super) fn close(&self, node: NodeId) {
        if let Some((_, door)) = self.0.lock().open.remove(&node) {
            door.life.cancel();
        }
    }

    /// From now on nothing is lost on the way.
    pub(super) fn calm(&self) {
        self.0.lock().lost = u64::MAX;
    }

    /// Any node that runs.
    pub(super) fn any(&self) -> Option<NodeId> {
        let inner = &mut *self.0.lock();
        let nodes: Vec<NodeId> = inner.open.keys().copied().collect();
        (!nodes.is_empty()).then(|| inner.dice.pick(&nodes))
    }

    pub(super) fn life(&self, node: NodeId) -> Option<CancellationToken> {
        self.0.lock().open.get(&node).map(|(_, door)| door.life.clone())
    }

    /// Tells a node's lives apart.
    pub(super) fn number(&self, node: NodeId) -> Option<usize> {
        self.0.lock().open.get(&node).map(|(life, _)| *life)
    }

    pub(super) fn routes(&self, node: NodeId) -> Option<Routes> {
        self.0.lock().open.get(&node).map(|(_, door)| door.routes.clone())
    }

    pub(super) fn to(&self, node: NodeId) -> Call {
        Call { doors: self.clone(), node }
    }

    fn fate(&self) -> (Duration, bool) {
        let Inner { dice, lost, .. } = &mut *self.0.lock();
        let slow = if dice.one_in(40) { 400_000 } else { 3000 };
        (Duration::from_micros(dice.between(100, slow)), dice.one_in(*lost))
    }
}

/// Calls of a client to one node.
#[derive(Clone)]
pub(super) struct Call {
    doors: Doors,
    node: NodeId,
}

impl Service<http::Request<Body>> for Call {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Call { doors, node } = self.clone();
        Box::pin(async move {
            let (delay, lost) = doors.fate();
            tokio::time::sleep(delay).await;
            let door = doors.0.lock().open.get(&node).map(|(_, door)| door.clone());
            let Some(mut door) = door.filter(|_| !lost) else {
                return Err(Status::unavailable(NOT_SENT));
            };
            let request = request.map(Body::new);
            let answer = tokio::select! {
                biased;
                () = door.life.cancelled() => None,
                answer = door.routes.call(request) => answer.ok(),
            };
            let (delay, lost) = doors.fate();
            tokio::time::sleep(delay).await;
            answer.filter(|_| !lost).ok_or_else(|| Status::unavailable("simulated: no answer"))
        })
    }
}

/// A call that is given up after a while.
pub(super) async fn patient<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(Duration::from_secs(3), Pin::from(Box::new(call))).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("simulated: given up")),
    }
}
