//! Watches that outlive connections, members and leaders.
//!
//! States of the task behind a [`Watcher`]: *open* (events flow), *broken* (looking for another
//! member, with the revision to go on from), *ended* (compacted, refused, or dropped by its owner).
//!
//! Must stay true: `delivered` only grows and nothing at or below it is yielded again; a new
//! stream asks for the first revision that was not delivered or announced as empty.

use crate::auth::Channel;
use crate::verdict::{Verdict, describe, judge};
use crate::{Client, Error, KeyValue, prefix_end};
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, watch_create_request,
};
use api::mvccpb;
use bytes::Bytes;
use futures::Stream;
use rpc::Backoff;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

/// Revisions that wait for a slow owner before the stream is no longer read.
const WAITING: usize = 256;
const MAX_ANSWER: usize = 256 << 20;

/// A watch that is refused right after so many logins is refused.
const LOGINS: usize = 2;

/// What to watch.
#[derive(Debug, Clone)]
pub struct Watch {
    key: Bytes,
    range_end: Bytes,
    from: i64,
    prev_kv: bool,
    filters: Vec<i32>,
}

impl Watch {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Watch {
        let (key, range_end) = (key.into(), Bytes::new());
        Watch { key, range_end, from: 0, prev_kv: false, filters: Vec::new() }
    }

    /// All keys that start with a prefix; all keys where it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Watch {
        let prefix = prefix.into();
        let range_end = prefix_end(&prefix);
        let key = if prefix.is_empty() { Bytes::from_static(&[0]) } else { prefix };
        Watch { range_end, ..Watch::key(key) }
    }

    /// Begins with this revision instead of with what comes after now.
    pub fn from(mut self, revision: i64) -> Watch {
        self.from = revision;
        self
    }

    /// Each event also brings the key as it was before.
    pub fn prev_kv(mut self) -> Watch {
        self.prev_kv = true;
        self
    }

    /// Leaves out deletions.
    pub fn no_deletes(mut self) -> Watch {
        self.filters.push(watch_create_request::FilterType::Nodelete as i32);
        self
    }

    /// Leaves out puts.
    pub fn no_puts(mut self) -> Watch {
        self.filters.push(watch_create_request::FilterType::Noput as i32);
        self
    }
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, or its lease ended.
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after it; of a deletion only key and revision are set.
    pub kv: KeyValue,
    /// The key before it, where asked for, and not yet compacted.
    pub prev: Option<KeyValue>,
}

/// All watched changes of one revision: they happened together.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The revision.
    pub revision: i64,
    /// Its changes.
    pub events: Vec<Event>,
}

/// The receiving end of a watch; dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {
    items: mpsc::Receiver<Result<Changes, Error>>,
    from: i64,
}

impl Watcher {
    /// The next revision with changes. An error is the end of the watch:
    /// [`Error::Compacted`] where history is gone, a refusal, or [`Error::Closed`].
    pub async fn next(&mut self) -> Result<Changes, Error> {
        self.items.recv().await.unwrap_or(Err(Error::Closed))
    }

    /// The first revision that this watch reports.
    pub fn from(&self) -> i64 {
        self.from
    }
}

impl Stream for Watcher {
    type Item = Result<Changes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(context)
    }
}

impl Client {
    /// Watches. Without [`Watch::from`] it begins right after the present revision, so that it
    /// sees every change that was begun after this call returned.
    pub async fn watch(&self, mut watch: Watch) -> Result<Watcher, Error> {
        if watch.from <= 0 {
            watch.from = self.revision().await? + 1;
        }
        let (sender, items) = mpsc::channel(WAITING);
        let from = watch.from;
        let pump = Pump {
            client: self.clone(),
            resume: from,
            delivered: from - 1,
            watch,
            owner: sender.clone(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = pump.run() => {}
            }
        });
        Ok(Watcher { items, from })
    }
}

/// Why a stream is over.
enum End {
    /// Try another member.
    Broken(String),
    /// The watch is over, and this is why.
    Final(Error),
    /// Nobody listens any more.
    Unwanted,
}

struct Pump {
    client: Client,
    watch: Watch,
    /// First revision to ask a new stream for.
    resume: i64,
    /// Last revision that was yielded.
    delivered: i64,
    owner: mpsc::Sender<Result<Changes, Error>>,
}

impl Pump {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut logins = 0;
        loop {
            let (place, channel) = self.client.endpoints.current();
            let before = self.resume;
            let carried = self.client.endpoints.ready(place).await;
            match self.follow(channel).await {
                End::Unwanted => return,
                End::Final(Error::Refused { message, .. })
                    if logins < LOGINS
                        && self.client.endpoints.renewed(&message, carried, place).await =>
                {
                    logins += 1;
                    continue;
                }
                End::Final(error) => {
                    let _ = self.owner.send(Err(error)).await;
                    return;
                }
                End::Broken(reason) => {
                    tracing::debug!(reason, resume = self.resume, "watch goes on elsewhere");
                    self.client.endpoints.leave(place);
                }
            }
            if self.resume > before {
                logins = 0;
                backoff.reset();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    fn create(&self) -> WatchRequest {
        WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: self.watch.key.clone(),
                range_end: self.watch.range_end.clone(),
                start_revision: self.resume,
                prev_kv: self.watch.prev_kv,
                filters: self.watch.filters.clone(),
                ..WatchCreateRequest::default()
            })),
        }
    }

    /// One stream on one member, until it ends.
    async fn follow(&mut self, channel: Channel) -> End {
        let idle = self.client.endpoints.options().watch_idle;
        let (requests, outbound) = mpsc::channel(4);
        if requests.send(self.create()).await.is_err() {
            return End::Broken("request stream closed".to_owned());
        }
        let mut request = tonic::Request::new(ReceiverStream::new(outbound));
        // The member cuts the stream while it sees no leader, instead of being silently old.
        request
            .metadata_mut()
            .insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        let mut stream = match timeout(idle * 2, client.watch(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return ended(&status),
            Err(_) => return End::Broken("no answer to opening the stream".to_owned()),
        };
        let mut asked = false;
        loop {
            match timeout(idle, stream.message()).await {
                Ok(Ok(Some(response))) => {
                    asked = false;
                    if let Some(end) = self.take(response).await {
                        return end;
                    }
                }
                Ok(Ok(None)) => return End::Broken("stream closed by the member".to_owned()),
                Ok(Err(status)) => return ended(&status),
                Err(_) if asked => return End::Broken("the member is silent".to_owned()),
                Err(_) => {
                    asked = true;
                    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    let request = WatchRequest { request_union: Some(progress) };
                    if requests.try_send(request).is_err() {
                        return End::Broken("the member does not read".to_owned());
                    }
                }
            }
        }
    }

    /// Yields what a response holds.
    async fn take(&mut self, response: WatchResponse) -> Option<End> {
        if response.compact_revision > 0 {
            return Some(End::Final(Error::Compacted { compacted: response.compact_revision }));
        }
        if response.canceled {
            return Some(cancelled(&response.cancel_reason));
        }
        if response.events.is_empty() {
            // A progress notice: everything up to this revision has been sent. Not the answer to
            // the creation, which may be sent before history.
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            if !response.created {
                self.resume = self.resume.max(revision + 1);
            }
            return None;
        }
        for changes in by_revision(response.events) {
            if changes.revision <= self.delivered {
                tracing::warn!(revision = changes.revision, "member sent an old event again");
                continue;
            }
            self.delivered = changes.revision;
            self.resume = self.resume.max(changes.revision + 1);
            if self.owner.send(Ok(changes)).await.is_err() {
                return Some(End::Unwanted);
            }
        }
        None
    }
}

fn ended(status: &tonic::Status) -> End {
    match judge(status) {
        Verdict::Refused(error) => End::Final(error),
        Verdict::NothingDone { .. } | Verdict::Lost => End::Broken(describe(status)),
    }
}

fn cancelled(reason: &str) -> End {
    let passing = reason.is_empty() || reason.contains("no leader") || reason.contains("stopped");
    if passing {
        return End::Broken(reason.to_owned());
    }
    End::Final(Error::Refused {
        status: tonic::Code::PermissionDenied,
        message: reason.to_owned(),
        fault: None,
    })
}

/// Cuts a response at its revisions, which it holds in order.
fn by_revision(events: Vec<mvccpb::Event>) -> Vec<Changes> {
    let mut all: Vec<Changes> = Vec::new();
    for event in events {
        let kind = match event.r#type() {
            mvccpb::event::EventType::Put => EventKind::Put,
            mvccpb::event::EventType::Delete => EventKind::Delete,
        };
        let kv = event.kv.unwrap_or_default();
        let revision = kv.mod_revision;
        let event = Event { kind, kv, prev: event.prev_kv };
        match all.last_mut() {
            Some(last) if last.revision == revision => last.events.push(event),
            _ => all.push(Changes { revision, events: vec![event] }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: i64, key: &'static str) -> mvccpb::Event {
        let kv = KeyValue { key: key.into(), mod_revision: revision, ..KeyValue::default() };
        mvccpb::Event { kv: Some(kv), ..mvccpb::Event::default() }
    }

    #[test]
    fn a_revision_is_never_split() {
        let cut = by_revision(vec![event(3, "a"), event(3, "b"), event(4, "a")]);
        let shape: Vec<_> = cut.iter().map(|c| (c.revision, c.events.len())).collect();
        assert_eq!(shape, [(3, 2), (4, 1)]);
    }
}
