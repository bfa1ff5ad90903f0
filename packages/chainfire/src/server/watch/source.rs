//! What a watch stream needs of the store, so that its logic can be tested without one.

use std::sync::Arc;

use api::mvccpb::{Event, KeyValue};
use tokio::sync::watch;

use crate::store::{Auth, Changes, History, KeyRange, Reader, StoreError};

/// The past, and the pairs before.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// The present revision.
    fn revision(&self) -> i64;
    /// Below it there is no history.
    fn compacted(&self) -> i64;
    /// As [`Reader::events`].
    fn events(
        &self,
        from: i64,
        to: i64,
        ranges: &[KeyRange],
        limit: usize,
    ) -> Result<History, StoreError>;
    /// As [`Reader::prev`].
    fn prev(&self, event: &Event) -> Result<Option<KeyValue>, StoreError>;
    /// As [`Reader::prev_of`].
    fn prev_of(&self, changes: &Changes, at: usize) -> Result<Option<KeyValue>, StoreError>;
    /// As [`Reader::auth`].
    fn auth(&self) -> Arc<Auth>;
    /// As [`Reader::auth_epoch`].
    fn auth_epoch(&self) -> u64;
    /// As [`Reader::watch_auth`].
    fn watch_auth(&self) -> watch::Receiver<u64>;
}

impl Source for Reader {
    fn revision(&self) -> i64 {
        Reader::revision(self)
    }

    fn compacted(&self) -> i64 {
        Reader::compacted(self)
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        ranges: &[KeyRange],
        limit: usize,
    ) -> Result<History, StoreError> {
        Reader::events(self, from, to, ranges, limit)
    }

    fn prev(&self, event: &Event) -> Result<Option<KeyValue>, StoreError> {
        Reader::prev(self, event)
    }

    fn prev_of(&self, changes: &Changes, at: usize) -> Result<Option<KeyValue>, StoreError> {
        Reader::prev_of(self, changes, at)
    }

    fn auth(&self) -> Arc<Auth> {
        Reader::auth(self)
    }

    fn auth_epoch(&self) -> u64 {
        Reader::auth_epoch(self)
    }

    fn watch_auth(&self) -> watch::Receiver<u64> {
        Reader::watch_auth(self)
    }
}
