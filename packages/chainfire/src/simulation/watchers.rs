//! Watches that outlive nodes: each takes up where its last stream ended.

use std::sync::Arc;
use std::time::Duration;

use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use api::mvccpb::Event;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::chance::Dice;
use super::clients::{Doors, patient};
use super::trace::note;
use super::truth::Truth;

/// What a watch has seen.
pub(super) struct Watched {
    id: usize,
    from: Bytes,
    end: Bytes,
    prev_kv: bool,
    /// Where it began.
    first: i64,
    /// Everything before has been seen.
    pub(super) next: i64,
    events: Vec<Event>,
    /// From, and up to before: not seen since it was compacted.
    gaps: Vec<(i64, i64)>,
}

pub(super) struct Watcher {
    pub(super) seen: Arc<Mutex<Watched>>,
    pub(super) dice: Dice,
    pub(super) doors: Doors,
    pub(super) truth: Arc<Mutex<Truth>>,
}

impl Watcher {
    pub(super) fn new(
        id: usize,
        mut dice: Dice,
        doors: &Doors,
        truth: &Arc<Mutex<Truth>>,
    ) -> Watcher {
        let ranges = [("k/", "k0"), ("k/1", ""), ("\0", "\0"), ("t/", "t0"), ("k/2", "k/5")];
        let (from, end) = dice.pick(&ranges);
        let watched = Watched {
            id,
            from: Bytes::from_static(from.as_bytes()),
            end: Bytes::from_static(end.as_bytes()),
            prev_kv: dice.one_in(2),
            first: 2,
            next: 2,
            events: Vec::new(),
            gaps: Vec::new(),
        };
        let (doors, truth) = (doors.clone(), truth.clone());
        Watcher { seen: Arc::new(Mutex::new(watched)), dice, doors, truth }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let pause = self.dice.between(5, 150);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let Some(node) = self.doors.any() else { continue };
            let Some(life) = self.doors.life(node) else { continue };
            // Some streams are short, so that many begin in the past.
            let time = if self.dice.one_in(2) { self.dice.between(50, 1500) } else { 60_000 };
            let id = self.seen.lock().id;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = life.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(time)) => {}
                ended = self.stream(node) => if let Err(status) = ended {
                    note!("w{id} {node}: {:?} {}", status.code(), status.message());
                },
            }
        }
    }

    async fn stream(&self, node: u64) -> Result<(), Status> {
        let (id, create) = {
            let seen = self.seen.lock();
            let create = WatchCreateRequest {
                key: seen.from.clone(),
                range_end: seen.end.clone(),
                start_revision: seen.next,
                prev_kv: seen.prev_kv,
                progress_notify: true,
                ..Default::default()
            };
            (seen.id, create)
        };
        note!("w{id} {node}: from {}", create.start_revision);
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The requests' side stays open as long as this lives.
        let requests =
            tokio_stream::StreamExt::chain(tokio_stream::iter([request]), tokio_stream::pending());
        let mut client = WatchClient::new(self.doors.to(node));
        let mut answers: Streaming<WatchResponse> = patient(client.watch(requests)).await?;
        while let Some(answer) = answers.message().await? {
            if !self.take(node, answer) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn wrong(&self, what: String) {
        self.truth.lock().violated(what);
    }

    /// Whether the stream goes on.
    fn take(&self, node: u64, answer: WatchResponse) -> bool {
        let seen = &mut *self.seen.lock();
        let id = seen.id;
        let revision = answer.header.map_or(0, |header| header.revision);
        if answer.canceled {
            note!("w{id} {node}: canceled, {} {}", answer.compact_revision, answer.cancel_reason);
            if answer.compact_revision > seen.next {
                seen.gaps.push((seen.next, answer.compact_revision));
                seen.next = answer.compact_revision;
            } else if answer.compact_revision > 0 {
                let at = answer.compact_revision;
                self.wrong(format!("w{id}: compacted at {at}, but it wanted {}", seen.next));
            }
            return false;
        }
        let progress = !answer.created && answer.events.is_empty();
        for event in answer.events {
            let at = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if at < seen.next || at > revision {
                self.wrong(format!("w{id} {node}: {at} after {}, header {revision}", seen.next));
            }
            seen.events.push(event);
        }
        let last =
            seen.events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
        seen.next = seen.next.max(last + 1);
        if progress {
            // It says that everything up to there was sent.
            seen.next = seen.next.max(revision + 1);
        }
        true
    }
}

impl Watched {
    pub(super) fn judge(&self, truth: &mut Truth) {
        let id = self.id;
        let inside = |at: i64| self.gaps.iter().any(|(from, to)| (*from..*to).contains(&at));
        let wanted: Vec<&Event> = truth
            .events
            .iter()
            .filter(|event| {
                let Some(kv) = &event.kv else { return false };
                let at = kv.mod_revision;
                let hit = match &self.end[..] {
                    [] => kv.key == self.from,
                    [0] => kv.key >= self.from,
                    end => kv.key >= self.from && kv.key[..] < *end,
                };
                hit && (self.first..self.next).contains(&at) && !inside(at)
            })
            .collect();
        let mut wrong = Vec::new();
        if wanted.len() != self.events.len() {
            wrong.push(format!("w{id}: {} events of {}", self.events.len(), wanted.len()));
        }
        for (saw, is) in self.events.iter().zip(wanted) {
            if (saw.r#type, &saw.kv) != (is.r#type, &is.kv) {
                wrong.push(format!("w{id}: saw {saw:?}, but there was {is:?}"));
                break;
            }
            let Some(kv) = &is.kv else { continue };
            let before = truth.at(&kv.key, kv.mod_revision - 1);
            // The pair before may be compacted.
            let told = saw.prev_kv.as_ref();
            if (self.prev_kv && told.is_some() && told != before)
                || (!self.prev_kv && told.is_some())
            {
                wrong.push(format!("w{id}: {told:?} before {kv:?}, but it was {before:?}"));
            }
        }
        wrong.into_iter().for_each(|what| truth.violated(what));
    }
}
