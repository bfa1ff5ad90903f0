//! Leases that keep themselves alive, and say when they are lost.
//!
//! Must stay true: the deadline counts from *before* the request was sent, on the monotonic clock,
//! so the holder gives up no later than the cluster does.

use crate::auth::Channel;
use crate::endpoints::Repeat;
use crate::verdict::{Verdict, describe, judge};
use crate::{Client, Error};
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use rpc::Backoff;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Held, and surely alive until then.
    Until(Instant),
    Lost,
}

/// Sees a lease from somewhere else.
#[derive(Debug, Clone)]
pub(crate) struct LeaseWatch {
    state: watch::Receiver<State>,
    margin: Duration,
}

impl LeaseWatch {
    pub(crate) fn is_safe(&self) -> bool {
        match *self.state.borrow() {
            State::Until(until) => until.saturating_duration_since(Instant::now()) > self.margin,
            State::Lost => false,
        }
    }
}

/// What a guarded write is sent under.
#[derive(Debug, Clone)]
pub(crate) struct Safety {
    pub(crate) lease: LeaseWatch,
    pub(crate) name: String,
}

#[cfg(test)]
impl Safety {
    /// Of a lease that is safe for so long and that nobody keeps alive.
    pub(crate) fn lasting(time: Duration, name: &str) -> Safety {
        let (_, state) = watch::channel(State::Until(Instant::now() + time));
        let lease = LeaseWatch { state, margin: Duration::ZERO };
        Safety { lease, name: name.to_owned() }
    }
}

/// A lease that is kept alive as long as this exists. Dropping it gives it up in the background;
/// [`Lease::revoke`] waits for that.
#[derive(Debug)]
pub struct Lease {
    id: i64,
    ttl: Duration,
    client: Client,
    state: watch::Receiver<State>,
    keeper: JoinHandle<()>,
    revoked: bool,
}

impl Client {
    /// Grants a lease and keeps it alive.
    pub async fn lease(&self, ttl: Duration) -> Result<Lease, Error> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        // Granting twice leaves a lease that nobody keeps; it ends by itself.
        let (granted, asked) = self
            .endpoints
            .call(Repeat::Freely, |channel| async move {
                let asked = Instant::now();
                let request = LeaseGrantRequest { ttl: seconds, ..LeaseGrantRequest::default() };
                let response = LeaseClient::new(channel).lease_grant(request).await?;
                Ok(tonic::Response::new((response.into_inner(), asked)))
            })
            .await?;
        let ttl = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0).max(1));
        let (sender, state) = watch::channel(State::Until(asked + ttl));
        let keeper =
            Keeper { client: self.clone(), id: granted.id, ttl, until: asked + ttl, sender };
        Ok(Lease {
            id: granted.id,
            ttl,
            client: self.clone(),
            state,
            keeper: tokio::spawn(keeper.run()),
            revoked: false,
        })
    }

    /// What is left of a lease, by the cluster; none where it does not exist.
    pub async fn lease_remaining(&self, id: i64) -> Result<Option<Duration>, Error> {
        let answer = self
            .endpoints
            .call(Repeat::Freely, |channel| async move {
                let request = LeaseTimeToLiveRequest { id, ..LeaseTimeToLiveRequest::default() };
                LeaseClient::new(channel).lease_time_to_live(request).await
            })
            .await?;
        Ok(u64::try_from(answer.ttl).ok().map(Duration::from_secs))
    }

    /// Ends a lease; its keys are deleted. A lease that is already gone is no error.
    pub async fn revoke(&self, id: i64) -> Result<(), Error> {
        let ended = self
            .endpoints
            .call(Repeat::Freely, |channel| async move {
                LeaseClient::new(channel).lease_revoke(LeaseRevokeRequest { id }).await
            })
            .await;
        match ended {
            Err(Error::Refused { status: tonic::Code::NotFound, .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

impl Lease {
    /// The id to give to puts.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The time to live that the cluster granted.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long it surely lives without another keep-alive; zero where it is lost.
    pub fn remaining(&self) -> Duration {
        match *self.state.borrow() {
            State::Until(until) => until.saturating_duration_since(Instant::now()),
            State::Lost => Duration::ZERO,
        }
    }

    /// True once it may no longer be relied on.
    pub fn is_lost(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Whether it is within its safe time, by the monotonic clock of this process: the time to live
    /// less a tenth, counted from when the last answered keep-alive was *sent*. The cluster ends it
    /// a tenth of its time to live after that at the earliest, however long answers take.
    ///
    /// It turns true again when a keep-alive is answered. The clock stands still while the whole
    /// machine sleeps, so what must hold then, too, needs the fencing token.
    pub fn is_safe(&self) -> bool {
        self.watch().is_safe()
    }

    pub(crate) fn watch(&self) -> LeaseWatch {
        LeaseWatch { state: self.state.clone(), margin: self.ttl / 10 }
    }

    /// Returns when it is lost.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        loop {
            let until = match *state.borrow_and_update() {
                State::Until(until) if until > Instant::now() => until,
                _ => return,
            };
            tokio::select! {
                () = sleep_until(until) => {}
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Gives it up now; its keys are deleted.
    pub async fn revoke(mut self) -> Result<(), Error> {
        self.revoked = true;
        self.keeper.abort();
        self.client.revoke(self.id).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
        if self.revoked || self.is_lost() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, id) = (self.client.clone(), self.id);
            runtime.spawn(async move { client.revoke(id).await });
        }
    }
}

struct Keeper {
    client: Client,
    id: i64,
    ttl: Duration,
    until: Instant,
    sender: watch::Sender<State>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), self.ttl / 6);
        // The grant itself was the first sign of life.
        tokio::time::sleep(self.ttl / 3).await;
        while Instant::now() < self.until {
            let (place, channel) = self.client.endpoints.current();
            let before = self.until;
            let carried = self.client.endpoints.ready(place).await;
            let (gone, reason) = self.keep(channel).await;
            if gone {
                break;
            }
            self.client.endpoints.renewed(&reason, carried, place).await;
            tracing::debug!(lease = self.id, reason, "lease is kept alive elsewhere");
            self.client.endpoints.leave(place);
            if self.until > before {
                backoff.reset();
            }
            sleep_until(self.until.min(Instant::now() + backoff.next())).await;
        }
        tracing::warn!(lease = self.id, "lease is lost");
        let _ = self.sender.send(State::Lost);
    }

    /// One stream on one member, until it breaks. True: the lease is surely gone.
    async fn keep(&mut self, channel: Channel) -> (bool, String) {
        let patience = self.client.endpoints.options().read_attempt.min(self.ttl / 3);
        let (requests, outbound) = mpsc::channel(1);
        let mut sent = Instant::now();
        let request = LeaseKeepAliveRequest { id: self.id };
        if requests.send(request).await.is_err() {
            return (false, "request stream closed".to_owned());
        }
        let mut client = LeaseClient::new(channel);
        let open = client.lease_keep_alive(ReceiverStream::new(outbound));
        let mut answers = match timeout_at(self.until.min(sent + patience), open).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return ended(&status),
            Err(_) => return (false, "no answer to opening the stream".to_owned()),
        };
        loop {
            let answer = timeout_at(self.until.min(sent + patience), answers.message()).await;
            match answer {
                Ok(Ok(Some(answer))) if answer.ttl <= 0 => return (true, String::new()),
                Ok(Ok(Some(answer))) => {
                    let granted = Duration::from_secs(answer.ttl.unsigned_abs());
                    self.until = self.until.max(sent + granted.min(self.ttl));
                    let _ = self.sender.send(State::Until(self.until));
                }
                Ok(Ok(None)) => return (false, "stream closed by the member".to_owned()),
                Ok(Err(status)) => return ended(&status),
                Err(_) => return (false, "no answer to a keep-alive".to_owned()),
            }
            sleep_until(sent + self.ttl / 3).await;
            sent = Instant::now();
            if requests.try_send(LeaseKeepAliveRequest { id: self.id }).is_err() {
                return (false, "the member does not read".to_owned());
            }
        }
    }
}

fn ended(status: &tonic::Status) -> (bool, String) {
    let gone = matches!(
        judge(status),
        Verdict::Refused(Error::Refused { status: tonic::Code::NotFound, .. })
    );
    (gone, describe(status))
}
