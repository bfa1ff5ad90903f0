//! Every change under a prefix, in order.

use std::future::Future;

use api::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::store::{KeyRange, Reader, StoreError};

/// How many bytes of history are read at once, about.
const PAGE: usize = 512 << 10;

/// From where on a handler is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// What this member applies after its start. After a crash that can be the last changes once
    /// more, those that the journal had and the engine had not.
    Now,
    /// Every change from this revision on: one more than the last one that was handled.
    Revision(i64),
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum KvChange {
    /// The key was written.
    Put(KeyValue),
    /// The key was deleted, by a call or with its lease.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// All that one revision changed under the prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct KvRevision {
    /// The revision. Keep it beside what was made of the changes, and go on from the next.
    pub revision: i64,
    /// In the order in which they were made; never empty.
    pub changes: Vec<KvChange>,
}

/// Revisions that are gone: they were compacted before the handler came to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first revision that is missing.
    pub from: i64,
    /// The revision from which on changes are told again. Read the prefix as it is at the revision
    /// before, to have all that is missing.
    pub to: i64,
}

/// Is told every change of the keys under a prefix.
pub trait KvEventHandler: Send + 'static {
    /// Called with one revision after the other, each once and in order.
    fn handle(&mut self, revision: KvRevision) -> impl Future<Output = ()> + Send;

    /// Called in place of revisions that are gone. What was made of earlier changes is out of date.
    fn gap(&mut self, gap: Gap) -> impl Future<Output = ()> + Send;
}

/// Tells a handler until `stop`. Reads history at the handler's pace.
pub(super) async fn tell(
    mut handler: impl KvEventHandler,
    reader: Reader,
    range: KeyRange,
    from: i64,
    stop: CancellationToken,
) {
    let mut next = from;
    let mut news = reader.subscribe();
    loop {
        // all that is told by now is in the history that is read next
        while !matches!(news.poll(), Ok(None)) {}
        let (page, range) = (reader.clone(), range.clone());
        let read = move || page.events(next, i64::MAX, &[range], PAGE);
        let Ok(read) = consensus::blocking(read).await else { return };
        let history = match read {
            Ok(history) => history,
            Err(StoreError::Compacted) => {
                // the compaction revision itself is still told
                let to = reader.compacted().max(next + 1);
                handler.gap(Gap { from: next, to }).await;
                next = to;
                continue;
            }
            Err(error) => {
                // the store has failed, and the member ends with it
                tracing::error!(%error, "changes cannot be read");
                return;
            }
        };
        let is_end = history.next == next || history.next > reader.revision();
        next = history.next;
        for revision in by_revision(history.events) {
            handler.handle(revision).await;
            if stop.is_cancelled() {
                return;
            }
        }
        if is_end {
            tokio::select! {
                () = stop.cancelled() => return,
                // whatever it says: the next page has it
                _ = news.next() => {}
            }
        }
    }
}

fn by_revision(events: Vec<Event>) -> Vec<KvRevision> {
    let mut revisions: Vec<KvRevision> = Vec::new();
    for event in events {
        let deleted = event.r#type() == api::mvccpb::event::EventType::Delete;
        let Some(kv) = event.kv else { continue };
        let revision = kv.mod_revision;
        let change = if deleted { KvChange::Delete { key: kv.key } } else { KvChange::Put(kv) };
        match revisions.last_mut() {
            Some(last) if last.revision == revision => last.changes.push(change),
            _ => revisions.push(KvRevision { revision, changes: vec![change] }),
        }
    }
    revisions
}
