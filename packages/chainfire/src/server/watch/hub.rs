//! Hands what each log entry changed to the streams that want it.
//!
//! What must stay true: under the hub's lock, a stream that has joined gets every matching change
//! above the `published` it was told, in order, each once, or it finds itself `lost`. A lost
//! stream gets nothing until it rejoins; meanwhile it reads history. So a slow reader costs no
//! memory: its queue is dropped, not kept.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::mvccpb::KeyValue;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::interest::{Interest, Wanted};
use crate::store::Changes;

/// Bounds on what may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    /// Log entries for one stream.
    pub(crate) entries: usize,
    /// Bytes for one stream.
    pub(crate) stream_bytes: usize,
    /// Bytes for all streams; what several streams wait for counts several times.
    pub(crate) all_bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { entries: 4096, stream_bytes: 2 << 20, all_bytes: 64 << 20 }
    }
}

/// A stream at the hub.
pub(crate) type StreamId = u64;

pub(crate) struct Hub {
    inner: Mutex<Inner>,
    limits: QueueLimits,
    queued: Arc<AtomicUsize>,
}

struct Inner {
    /// Everything up to here was handed out.
    published: i64,
    interest: Interest<StreamId>,
    seats: HashMap<StreamId, Seat>,
    next: StreamId,
    watches: usize,
    lost: u64,
    touched: Vec<StreamId>,
}

struct Seat {
    queue: Arc<Queue>,
    /// The revision of the last changes that matched, so that none are queued twice.
    matched: i64,
}

/// What waits for one stream.
pub(crate) struct Queue {
    state: Mutex<Waiting>,
    pub(crate) wake: Notify,
    queued: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Waiting {
    changes: VecDeque<Arc<Changes>>,
    bytes: usize,
    lost: bool,
}

/// What a stream finds in its queue.
pub(crate) struct Taken {
    pub(crate) changes: VecDeque<Arc<Changes>>,
    pub(crate) lost: bool,
}

impl Queue {
    /// Takes all that waits.
    pub(crate) fn take(&self) -> Taken {
        let mut waiting = self.state.lock();
        self.queued.fetch_sub(waiting.bytes, Ordering::Relaxed);
        waiting.bytes = 0;
        Taken { changes: std::mem::take(&mut waiting.changes), lost: waiting.lost }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.queued.fetch_sub(self.state.get_mut().bytes, Ordering::Relaxed);
    }
}

/// Figures for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HubStats {
    pub(crate) streams: usize,
    pub(crate) watches: usize,
    pub(crate) queued_bytes: usize,
    /// Streams that are lost and read history now.
    pub(crate) slow: usize,
    /// How often a stream was too slow for its queue.
    pub(crate) lost: u64,
}

impl Hub {
    /// A hub of a store that is at this revision.
    pub(crate) fn new(revision: i64, limits: QueueLimits) -> Hub {
        let inner = Inner {
            published: revision,
            interest: Interest::default(),
            seats: HashMap::new(),
            next: 0,
            watches: 0,
            lost: 0,
            touched: Vec::new(),
        };
        Hub { inner: Mutex::new(inner), limits, queued: Arc::default() }
    }

    /// Hands out changes, in the order of revisions.
    pub(crate) fn publish(&self, changes: &[Arc<Changes>]) {
        let mut inner = self.inner.lock();
        let Inner { published, interest, seats, lost, touched, .. } = &mut *inner;
        for changes in changes {
            if changes.revision <= *published {
                continue;
            }
            *published = changes.revision;
            let bytes = weight(changes);
            for kv in changes.events.iter().filter_map(|event| event.kv.as_ref()) {
                interest.each(&kv.key, |stream| {
                    let Some(seat) = seats.get_mut(&stream) else { return };
                    if seat.matched == changes.revision {
                        return;
                    }
                    seat.matched = changes.revision;
                    match self.push(&seat.queue, changes, bytes) {
                        Pushed::First => touched.push(stream),
                        Pushed::More => {}
                        Pushed::Lost => {
                            *lost += 1;
                            touched.push(stream);
                        }
                    }
                });
            }
        }
        // One wake-up a stream, however much it got.
        for stream in touched.drain(..) {
            if let Some(seat) = seats.get(&stream) {
                seat.queue.wake.notify_one();
            }
        }
    }

    fn push(&self, queue: &Queue, changes: &Arc<Changes>, bytes: usize) -> Pushed {
        let mut waiting = queue.state.lock();
        if waiting.lost {
            return Pushed::More;
        }
        // One large entry passes: it is in memory anyway.
        let first = waiting.changes.is_empty();
        let over = waiting.changes.len() >= self.limits.entries
            || (!first && waiting.bytes + bytes > self.limits.stream_bytes)
            || self.queued.load(Ordering::Relaxed) > self.limits.all_bytes;
        if over {
            self.queued.fetch_sub(waiting.bytes, Ordering::Relaxed);
            *waiting = Waiting { lost: true, ..Waiting::default() };
            return Pushed::Lost;
        }
        waiting.bytes += bytes;
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        waiting.changes.push_back(changes.clone());
        if first { Pushed::First } else { Pushed::More }
    }

    /// Some revisions could not be handed out: everybody must look into history up to here.
    pub(crate) fn skip_to(&self, revision: i64) {
        let mut inner = self.inner.lock();
        inner.published = inner.published.max(revision);
        let inner = &mut *inner;
        for seat in inner.seats.values() {
            let mut waiting = seat.queue.state.lock();
            self.queued.fetch_sub(waiting.bytes, Ordering::Relaxed);
            *waiting = Waiting { lost: true, ..Waiting::default() };
            drop(waiting);
            inner.lost += 1;
            seat.queue.wake.notify_one();
        }
    }

    /// A new stream, without interests.
    pub(crate) fn open(&self) -> (StreamId, Arc<Queue>) {
        let mut inner = self.inner.lock();
        let stream = inner.next;
        inner.next += 1;
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            wake: Notify::new(),
            queued: self.queued.clone(),
        });
        inner.seats.insert(stream, Seat { queue: queue.clone(), matched: 0 });
        (stream, queue)
    }

    /// The stream is gone; its interests were taken back before.
    pub(crate) fn close(&self, stream: StreamId) {
        self.inner.lock().seats.remove(&stream);
    }

    /// From above the answered revision on, matching changes go to the stream.
    pub(crate) fn join(&self, stream: StreamId, wanted: &Wanted) -> i64 {
        let mut inner = self.inner.lock();
        inner.interest.add(wanted, stream);
        inner.watches += 1;
        inner.published
    }

    /// Takes a [`Hub::join`] back.
    pub(crate) fn leave(&self, stream: StreamId, wanted: &Wanted) {
        let mut inner = self.inner.lock();
        inner.interest.remove(wanted, stream);
        inner.watches -= 1;
    }

    /// A lost stream gets changes again, from above the answered revision on.
    pub(crate) fn rejoin(&self, stream: StreamId) -> i64 {
        let inner = self.inner.lock();
        if let Some(seat) = inner.seats.get(&stream) {
            seat.queue.state.lock().lost = false;
        }
        inner.published
    }

    /// The revision up to which the stream has taken all that matches; none if something waits.
    pub(crate) fn taken_up_to(&self, stream: StreamId) -> Option<i64> {
        let inner = self.inner.lock();
        let waiting = inner.seats.get(&stream)?.queue.state.lock();
        (waiting.changes.is_empty() && !waiting.lost).then_some(inner.published)
    }

    pub(crate) fn stats(&self) -> HubStats {
        let inner = self.inner.lock();
        HubStats {
            streams: inner.seats.len(),
            watches: inner.watches,
            queued_bytes: self.queued.load(Ordering::Relaxed),
            slow: inner.seats.values().filter(|seat| seat.queue.state.lock().lost).count(),
            lost: inner.lost,
        }
    }
}

/// About the memory that changes hold on to.
fn weight(changes: &Changes) -> usize {
    let pair = |kv: &KeyValue| kv.key.len() + kv.value.len() + 128;
    let events = changes.events.iter().filter_map(|event| event.kv.as_ref());
    events.map(pair).sum::<usize>() + 64
}

enum Pushed {
    First,
    More,
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::mvccpb::Event;
    use bytes::Bytes;

    fn revision(revision: i64, key: &'static str) -> Arc<Changes> {
        let kv = KeyValue { key: key.into(), mod_revision: revision, ..Default::default() };
        let event = Event { kv: Some(kv), ..Default::default() };
        Arc::new(Changes {
            after: revision - 1,
            revision,
            events: vec![event.clone(), event].into(),
            before: Box::default(),
            leases: Box::default(),
            compacted: None,
            alarms: false,
        })
    }

    fn wanted(key: &'static str) -> Wanted {
        Wanted::new(&Bytes::from(key), &Bytes::new())
    }

    fn revisions(taken: &Taken) -> Vec<i64> {
        taken.changes.iter().map(|r| r.revision).collect()
    }

    #[test]
    fn each_stream_gets_what_it_wants_once() {
        let hub = Hub::new(5, QueueLimits::default());
        let (stream, queue) = hub.open();
        assert_eq!(hub.join(stream, &wanted("a")), 5);
        hub.join(stream, &Wanted::new(&"a".into(), &"b".into()));
        hub.publish(&[revision(5, "a"), revision(6, "a"), revision(7, "x"), revision(8, "a")]);
        assert_eq!(hub.taken_up_to(stream), None);
        assert_eq!(revisions(&queue.take()), [6, 8]);
        assert_eq!(hub.taken_up_to(stream), Some(8));
        hub.leave(stream, &wanted("a"));
        hub.publish(&[revision(9, "a")]);
        assert_eq!(revisions(&queue.take()), [9], "the other interest is still there");
        assert_eq!(hub.stats(), HubStats { streams: 1, watches: 1, ..HubStats::default() });
    }

    #[test]
    fn a_slow_stream_is_dropped_whole_and_rejoins() {
        let hub = Hub::new(0, QueueLimits { entries: 2, ..QueueLimits::default() });
        let (stream, queue) = hub.open();
        hub.join(stream, &wanted("a"));
        hub.publish(&[revision(1, "a"), revision(2, "a"), revision(3, "a"), revision(4, "a")]);
        let taken = queue.take();
        assert!(taken.lost && taken.changes.is_empty());
        assert_eq!(hub.stats().queued_bytes, 0);
        assert_eq!(hub.taken_up_to(stream), None);
        assert_eq!(hub.rejoin(stream), 4);
        hub.publish(&[revision(5, "a")]);
        assert_eq!(revisions(&queue.take()), [5]);
    }

    #[test]
    fn bytes_are_bounded_but_one_large_revision_passes() {
        let limits = QueueLimits { stream_bytes: 50, ..QueueLimits::default() };
        let hub = Hub::new(0, limits);
        let (stream, queue) = hub.open();
        hub.join(stream, &wanted("a"));
        hub.publish(&[revision(1, "a")]);
        assert_eq!(revisions(&queue.take()), [1]);
        hub.publish(&[revision(2, "a"), revision(3, "a")]);
        assert!(queue.take().lost);
    }

    #[test]
    fn skipping_loses_everybody() {
        let hub = Hub::new(0, QueueLimits::default());
        let (stream, queue) = hub.open();
        hub.join(stream, &wanted("a"));
        hub.publish(&[revision(1, "a")]);
        hub.skip_to(10);
        assert!(queue.take().lost);
        assert_eq!(hub.rejoin(stream), 10);
        hub.publish(&[revision(9, "a"), revision(11, "a")]);
        assert_eq!(revisions(&queue.take()), [11]);
        drop(queue);
        hub.close(stream);
        assert_eq!(hub.stats().streams, 0);
    }
}
