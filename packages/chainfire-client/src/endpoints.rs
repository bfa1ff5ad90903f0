//! The endpoints and the retry loop.
//!
//! States: one endpoint is current; a failure moves on to the next. Reads are sent again freely;
//! a write is sent again only after [`Verdict::NothingDone`].

use crate::auth::{Carried, Channel, Login};
use crate::verdict::{Verdict, describe, judge};
use crate::{Error, Options};
use rpc::{Backoff, Tls};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::{Response, Status};

/// Whether a request may be sent twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Sending it twice is harmless.
    Freely,
    /// Only when the first surely did nothing.
    IfNothingDone,
}

/// So often at most one call logs in anew: whoever is refused right after a login is refused.
const LOGINS: usize = 2;

/// What failed of a call.
enum Failed {
    Login(Verdict),
    Call(Status),
}

pub(crate) struct Endpoints {
    urls: Vec<String>,
    channels: Vec<Channel>,
    /// The same connections, on which nobody says who calls.
    plain: Vec<tonic::transport::Channel>,
    login: Login,
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
        let plain = urls
            .iter()
            .map(|url| rpc::channel(url, tls).map_err(Error::Invalid))
            .collect::<Result<Vec<_>, _>>()?;
        let login = Login::new(options.credentials.clone());
        let named =
            |channel: &tonic::transport::Channel| Channel::new(channel.clone(), login.bearer());
        let channels = plain.iter().map(named).collect();
        Ok(Endpoints { urls, channels, plain, login, current: AtomicUsize::new(0), options })
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

    /// Logs in at the endpoint of this place, if there are credentials and nobody has since `seen`.
    pub(crate) async fn log_in(&self, seen: u64, place: usize) -> Result<(), Verdict> {
        self.login.renew(seen, self.plain[place % self.plain.len()].clone()).await
    }

    /// Before a stream is opened: logs in where that was not done yet. One that fails shows when the
    /// stream is refused.
    pub(crate) async fn ready(&self, place: usize) -> Carried {
        if self.login.is_due() {
            let _ = self.log_in(0, place).await;
        }
        self.login.carried()
    }

    /// Whether a refusal in these words came from a token that is not believed any more; if so,
    /// there is a new one afterwards, or the next try tells why not.
    pub(crate) async fn renewed(&self, words: &str, carried: Carried, place: usize) -> bool {
        let helps = self.login.helps(words, carried);
        if helps {
            let _ = self.log_in(carried.login, place).await;
        }
        helps
    }

    /// Calls this endpoint and no other; once more where the token was not believed any more.
    pub(crate) async fn call_one<T, F, Fut>(
        &self,
        place: usize,
        patience: Duration,
        call: F,
    ) -> Result<T, Error>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let until = Instant::now() + patience;
        if self.login.is_due() {
            // a member without a majority gives no token, and may answer who has a certificate
            let _ = tokio::time::timeout(patience / 2, self.log_in(0, place)).await;
        }
        let mut again = true;
        loop {
            let carried = self.login.carried();
            let last = match timeout_at(until, call(self.at(place))).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) if again && self.login.helps(status.message(), carried) => {
                    again = false;
                    match timeout_at(until, self.log_in(carried.login, place)).await {
                        Ok(Err(Verdict::Refused(error))) => return Err(error),
                        Ok(_) => continue,
                        Err(_) => describe(&status),
                    }
                }
                Ok(Err(status)) => match judge(&status) {
                    Verdict::Refused(error) => return Err(error),
                    _ => describe(&status),
                },
                Err(_) => "no answer in time".to_owned(),
            };
            return Err(Error::Unreachable { endpoints: self.urls[place].clone(), last });
        }
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
        let (mut failures, mut logins) = (0usize, 0usize);
        loop {
            let (place, channel) = self.current();
            let until = deadline.min(Instant::now() + patience);
            let carried = self.login.carried();
            let answered = async {
                if self.login.is_due() {
                    self.log_in(carried.login, place).await.map_err(Failed::Login)?;
                }
                call(channel).await.map_err(Failed::Call)
            };
            let (verdict, words) = match timeout_at(until, answered).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(Failed::Login(verdict))) => (verdict, "not logged in".to_owned()),
                Ok(Err(Failed::Call(status)))
                    if logins < LOGINS && self.login.helps(status.message(), carried) =>
                {
                    logins += 1;
                    match timeout_at(until, self.log_in(carried.login, place)).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(verdict)) => (verdict, describe(&status)),
                        Err(_) => (Verdict::NothingDone { no_leader: false }, describe(&status)),
                    }
                }
                Ok(Err(Failed::Call(status))) => (judge(&status), describe(&status)),
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
