//! The endpoints and the retry loop.
//!
//! States: one endpoint is current; a failure moves on to the next. Reads are sent again freely;
//! a write is sent again only after [`Verdict::NothingDone`].

use crate::verdict::{Verdict, describe, judge};
use crate::{Error, Options};
use rpc::{Backoff, Tls};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Whether a request may be sent twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Sending it twice is harmless.
    Freely,
    /// Only when the first surely did nothing.
    IfNothingDone,
}

pub(crate) struct Endpoints {
    urls: Vec<String>,
    channels: Vec<Channel>,
    current: AtomicUsize,
    options: Options,
}

impl Endpoints {
    pub(crate) fn new(
        urls: Vec<String>,
        tls: Option<&Tls>,
        options: Options,
    ) -> Result<Endpoints, Error> {
        if urls.is_empty() {
            return Err(Error::invalid("no endpoint given", "name at least one https://host:port"));
        }
        let channels = urls
            .iter()
            .map(|url| rpc::channel(url, tls).map_err(Error::Invalid))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Endpoints { urls, channels, current: AtomicUsize::new(0), options })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The channel to the endpoint at this place of the list.
    pub(crate) fn at(&self, place: usize) -> Channel {
        self.channels[place % self.channels.len()].clone()
    }

    /// The endpoint to use now, and its place for [`Endpoints::leave`].
    pub(crate) fn current(&self) -> (usize, Channel) {
        let place = self.current.load(Ordering::Relaxed) % self.channels.len();
        (place, self.channels[place].clone())
    }

    /// Moves on from a failed endpoint, unless someone else already has.
    pub(crate) fn leave(&self, place: usize) {
        let next = (place + 1) % self.channels.len();
        let _ = self.current.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn unreachable(&self, last: String) -> Error {
        Error::Unreachable { endpoints: self.urls.join(","), last }
    }

    /// Calls until an answer, a refusal, a lost write, or the deadline.
    pub(crate) async fn call<T, F, Fut>(&self, repeat: Repeat, call: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.options.deadline;
        let patience = match repeat {
            Repeat::Freely => self.options.read_attempt,
            Repeat::IfNothingDone => self.options.deadline,
        };
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        let mut failures = 0usize;
        loop {
            let (place, channel) = self.current();
            let until = deadline.min(Instant::now() + patience);
            let (verdict, words) = match timeout_at(until, call(channel)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => (judge(&status), describe(&status)),
                Err(_) => (Verdict::Lost, format!("no answer from {} in time", self.urls[place])),
            };
            let failed = match verdict {
                Verdict::Refused(error) => return Err(error),
                Verdict::Lost if repeat == Repeat::IfNothingDone => {
                    self.leave(place);
                    return Err(Error::FateUnknown { last: words });
                }
                Verdict::NothingDone { no_leader: true } => Error::NoLeader { last: words },
                Verdict::NothingDone { no_leader: false } | Verdict::Lost => {
                    self.unreachable(words)
                }
            };
            self.leave(place);
            failures += 1;
            // All endpoints are tried at once first; only then is there something to wait for.
            let pause = match failures < self.channels.len() {
                true => Duration::ZERO,
                false => backoff.next(),
            };
            if Instant::now() + pause >= deadline {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
        }
    }
}
