//! What happened, in the order of revisions: the newest from memory, the rest from the engine.
//!
//! The ring is bounded by bytes. A subscriber that falls out of it is told so, and goes on from the
//! history by revision; nothing is kept for it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use api::mvccpb::event::EventType;
use api::mvccpb::{Event, KeyValue};
use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::watch;

use super::lease::LeaseChange;

/// All that one applied log entry changed: whole revisions, in order.
#[derive(Debug)]
pub struct Changes {
    /// The revision before.
    pub after: i64,
    /// The revision now. Everything up to it has been published.
    pub revision: i64,
    /// Events in order; those of one revision (`kv.mod_revision`) stand together.
    pub events: Events,
    /// The pair before each event, as far as it was at hand.
    pub before: Box<[Before]>,
    /// What happened to leases, in order.
    pub leases: Box<[LeaseChange]>,
    /// The compaction revision, if it moved.
    pub compacted: Option<i64>,
    /// Whether the alarms changed.
    pub alarms: bool,
}

/// Events, and once somebody has asked for them, their bytes.
#[derive(Debug, Default)]
pub struct Events {
    events: Box<[Event]>,
    encoded: OnceLock<Box<[Bytes]>>,
}

impl Events {
    /// The event at this place, encoded.
    ///
    /// # Panics
    /// As an index, if there is none.
    pub fn encoded(&self, at: usize) -> &Bytes {
        &self.encoded.get_or_init(|| encode(&self.events))[at]
    }
}

/// All into one piece of memory.
fn encode(events: &[Event]) -> Box<[Bytes]> {
    let mut all = BytesMut::with_capacity(events.iter().map(Event::encoded_len).sum());
    let each = events.iter().map(|event| {
        event.encode_raw(&mut all);
        all.split().freeze()
    });
    each.collect()
}

impl Deref for Events {
    type Target = [Event];

    fn deref(&self) -> &[Event] {
        &self.events
    }
}

impl From<Vec<Event>> for Events {
    fn from(events: Vec<Event>) -> Events {
        Events { events: events.into(), encoded: OnceLock::new() }
    }
}

impl FromIterator<Event> for Events {
    fn from_iter<I: IntoIterator<Item = Event>>(events: I) -> Events {
        events.into_iter().collect::<Vec<Event>>().into()
    }
}

/// The pair that an event replaced.
#[derive(Debug, Clone)]
pub enum Before {
    /// There was none.
    Absent,
    /// This one.
    Known(KeyValue),
    /// Not in memory: ask [`super::Reader::prev`].
    Fetch,
}

impl Changes {
    fn weight(&self) -> usize {
        let pair = |pair: &KeyValue| pair.key.len() + pair.value.len() + 256;
        // Twice: once somebody watches them, their bytes are kept too.
        let events = self.events.iter().filter_map(|event| event.kv.as_ref());
        let events = events.map(|kv| pair(kv) + kv.key.len() + kv.value.len());
        let before = self.before.iter().map(|before| match before {
            Before::Known(before) => pair(before),
            Before::Absent | Before::Fetch => 0,
        });
        128 + events.sum::<usize>() + before.sum::<usize>() + 32 * self.leases.len()
    }
}

/// The newest changes.
pub(super) struct Ring {
    budget: usize,
    slots: RwLock<Slots>,
    next: watch::Sender<u64>,
}

#[derive(Default)]
struct Slots {
    first: u64,
    slots: VecDeque<(Arc<Changes>, usize)>,
    bytes: usize,
}

impl Slots {
    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }
}

impl Ring {
    pub(super) fn new(budget: usize) -> Ring {
        Ring { budget, slots: RwLock::default(), next: watch::Sender::new(0) }
    }

    pub(super) fn push(&self, changes: Arc<Changes>) {
        let weight = changes.weight();
        let next = {
            let mut slots = self.slots.write();
            slots.slots.push_back((changes, weight));
            slots.bytes += weight;
            // The newest always stays, whatever it weighs.
            while slots.bytes > self.budget && slots.slots.len() > 1 {
                if let Some((_, weight)) = slots.slots.pop_front() {
                    slots.bytes -= weight;
                    slots.first += 1;
                }
            }
            slots.next()
        };
        self.next.send_replace(next);
    }

    /// Everything before was replaced: every subscriber lags.
    pub(super) fn clear(&self) {
        let next = {
            let mut slots = self.slots.write();
            slots.first = slots.next() + 1;
            slots.slots.clear();
            slots.bytes = 0;
            slots.next()
        };
        self.next.send_replace(next);
    }

    pub(super) fn subscribe(self: &Ring, ring: Arc<super::state::Shared>) -> Subscription {
        let wake = self.next.subscribe();
        let next = self.slots.read().next();
        Subscription { shared: ring, next, wake }
    }

    /// The changes from the revision after `after` on, if all of them are still here.
    pub(super) fn since(&self, after: i64) -> Option<Vec<Arc<Changes>>> {
        let slots = self.slots.read();
        let oldest = slots.slots.front()?;
        if oldest.0.after > after {
            return None;
        }
        let from = slots.slots.partition_point(|(changes, _)| changes.revision <= after);
        Some(slots.slots.range(from..).map(|(changes, _)| changes.clone()).collect())
    }
}

/// Follows the changes as they are published. Drop it to stop.
pub struct Subscription {
    shared: Arc<super::state::Shared>,
    next: u64,
    wake: watch::Receiver<u64>,
}

/// The subscriber was too slow, or a snapshot replaced everything: read the history from the last
/// revision seen, then go on receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("changes were passed over")]
pub struct Lagged;

impl Subscription {
    /// The next changes, once there are some. After [`Lagged`] it goes on with the newest.
    /// Cancel-safe. Pends for ever when the store is gone.
    pub async fn next(&mut self) -> Result<Arc<Changes>, Lagged> {
        loop {
            if let Some(changes) = self.poll()? {
                return Ok(changes);
            }
            if self.wake.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next changes if there are some already.
    pub fn poll(&mut self) -> Result<Option<Arc<Changes>>, Lagged> {
        self.wake.borrow_and_update();
        let slots = self.shared.ring.slots.read();
        let Some(at) = self.next.checked_sub(slots.first) else {
            self.next = slots.next();
            return Err(Lagged);
        };
        let found = slots.slots.get(at as usize).map(|(changes, _)| changes.clone());
        self.next += u64::from(found.is_some());
        Ok(found)
    }
}

/// An event as the wire shows it, without the pair before.
pub(super) fn event(deleted: bool, kv: KeyValue) -> Event {
    let kind = if deleted { EventType::Delete } else { EventType::Put };
    Event { r#type: kind as i32, kv: Some(kv), prev_kv: None }
}

/// What a deleting event carries.
pub(super) fn grave(key: bytes::Bytes, revision: i64) -> KeyValue {
    KeyValue { key, mod_revision: revision, ..Default::default() }
}
