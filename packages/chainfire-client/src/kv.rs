//! Reading and writing keys.

use crate::auth::Channel;
use crate::endpoints::Repeat;
use crate::{Client, Compare, Error, KeyValue, Op, OpResult, prefix_end};
use api::chainfire::LocalRangeRequest;
use api::chainfire::local_client::LocalClient;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse};
use bytes::Bytes;

/// Largest answer taken from a server.
const MAX_ANSWER: usize = 256 << 20;
/// Keys asked for at a time when listing.
const PAGE: i64 = 500;

pub(crate) fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MAX_ANSWER)
}

/// What a compare-and-swap expects to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last changed at this revision.
    Revision(i64),
    /// The key has this value.
    Value(Bytes),
}

/// How a compare-and-swap ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Swap {
    /// The new value was written at this revision.
    Swapped {
        /// The revision of the write.
        revision: i64,
    },
    /// Nothing was written; this is what the key holds.
    Conflict {
        /// The key as it is; none where it does not exist.
        current: Option<KeyValue>,
    },
}

/// What a deletion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Keys that were deleted.
    pub count: i64,
    /// Revision of the store after it.
    pub revision: i64,
}

/// All keys of a range at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The revision at which all of it was true; a watch from the next one misses nothing.
    pub revision: i64,
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
}

/// What a read promises, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began. Needs a leader and a majority.
    #[default]
    Linearizable,
    /// What the asked member has applied: some past state, all of one revision. Needs no leader. If
    /// the member fails the next one is asked, and its state may be older.
    Serializable,
    /// What the asked member has applied, and no other is asked in its place. Needs no leader. Read
    /// after read sees states that do not grow older while that member's process lives.
    Local,
}

/// The answer to a local read.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalRange {
    /// What was read; its header has the revision of the member's state.
    pub range: RangeResponse,
    /// Whether the member can reach a leader and a majority at the moment.
    pub in_quorum: bool,
    /// Entries that the member knows to be committed and has not applied.
    pub known_behind: u64,
}

impl Client {
    /// The key, read as told.
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<KeyValue>, Error> {
        let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
        Ok(self.range_with(request, consistency).await?.kvs.into_iter().next())
    }

    /// Any Range request as etcd defines it, read as told, whatever its own `serializable` says.
    pub async fn range_with(
        &self,
        mut request: RangeRequest,
        consistency: Consistency,
    ) -> Result<RangeResponse, Error> {
        request.serializable = consistency != Consistency::Linearizable;
        match consistency {
            Consistency::Local => Ok(self.local_range(request, 0).await?.range),
            _ => self.range(request).await,
        }
    }

    /// A range over what the asked member alone has applied, which is the first endpoint that did
    /// not fail. It waits until the member has applied revision `at_least`: who gives the revision
    /// that a write answered reads that write, on any member.
    ///
    /// # Errors
    /// The member does not answer, or did not reach the revision in time.
    pub async fn local_range(
        &self,
        request: RangeRequest,
        at_least: i64,
    ) -> Result<LocalRange, Error> {
        let (place, _) = self.endpoints.current();
        let request = LocalRangeRequest { range: Some(request), at_least_revision: at_least };
        let patience = self.endpoints.options().deadline;
        let call = |channel| {
            let request = request.clone();
            let mut client = LocalClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            async move { client.range(request).await }
        };
        let answer = self.endpoints.call_one(place, patience, call).await?;
        Ok(LocalRange {
            range: answer
                .range
                .ok_or_else(|| Error::Protocol("a local range without a range".to_owned()))?,
            in_quorum: answer.in_quorum,
            known_behind: answer.committed_index.saturating_sub(answer.applied_index),
        })
    }

    /// The key as it is now (linearizable).
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Error> {
        let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
        Ok(self.range(request).await?.kvs.into_iter().next())
    }

    /// The key as the asked member knows it: fast, served without a leader, possibly old.
    pub async fn get_serializable(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, Error> {
        let request =
            RangeRequest { key: key.into(), serializable: true, ..RangeRequest::default() };
        Ok(self.range(request).await?.kvs.into_iter().next())
    }

    /// The key as it was at a revision.
    pub async fn get_at(
        &self,
        key: impl Into<Bytes>,
        revision: i64,
    ) -> Result<Option<KeyValue>, Error> {
        let request = RangeRequest { key: key.into(), revision, ..RangeRequest::default() };
        Ok(self.range(request).await?.kvs.into_iter().next())
    }

    /// All keys that start with `prefix`, read in pages at one revision.
    pub async fn prefix(&self, prefix: impl Into<Bytes>) -> Result<Listing, Error> {
        let prefix = prefix.into();
        let range_end = prefix_end(&prefix);
        // etcd takes an empty key for a missing one; a zero byte is the first key there can be.
        let mut key = if prefix.is_empty() { Bytes::from_static(&[0]) } else { prefix };
        let mut listing = Listing { revision: 0, kvs: Vec::new() };
        loop {
            let page = self
                .range(RangeRequest {
                    key: key.clone(),
                    range_end: range_end.clone(),
                    limit: PAGE,
                    revision: listing.revision,
                    ..RangeRequest::default()
                })
                .await?;
            if listing.revision == 0 {
                listing.revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            let Some(last) = page.kvs.last() else { return Ok(listing) };
            let mut next = last.key.to_vec();
            next.push(0);
            key = next.into();
            listing.kvs.extend(page.kvs);
            if !page.more {
                return Ok(listing);
            }
        }
    }

    /// Any Range request as etcd defines it.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.endpoints
            .call(Repeat::Freely, |channel| {
                let request = request.clone();
                async move { kv(channel).range(request).await }
            })
            .await
    }

    /// The revision of the store now (linearizable).
    pub async fn revision(&self) -> Result<i64, Error> {
        let request = RangeRequest {
            key: Bytes::from_static(&[0]),
            count_only: true,
            ..RangeRequest::default()
        };
        let answer = self.range(request).await?;
        answer
            .header
            .map(|header| header.revision)
            .ok_or_else(|| Error::Protocol("an answer without header".to_owned()))
    }

    /// Writes a key; returns the revision of the write.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<i64, Error> {
        self.put_with_lease(key, value, 0).await
    }

    /// Writes a key that goes when the lease goes (0: no lease).
    pub async fn put_with_lease(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        lease: i64,
    ) -> Result<i64, Error> {
        let request =
            PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() };
        let answer = self
            .endpoints
            .call(Repeat::IfNothingDone, |channel| {
                let request = request.clone();
                async move { kv(channel).put(request).await }
            })
            .await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Deletes a key.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Deleted, Error> {
        self.delete_range(key.into(), Bytes::new()).await
    }

    /// Deletes all keys that start with `prefix`, in one revision.
    pub async fn delete_prefix(&self, prefix: impl Into<Bytes>) -> Result<Deleted, Error> {
        let prefix = prefix.into();
        let end = prefix_end(&prefix);
        let key = if prefix.is_empty() { Bytes::from_static(&[0]) } else { prefix };
        self.delete_range(key, end).await
    }

    async fn delete_range(&self, key: Bytes, range_end: Bytes) -> Result<Deleted, Error> {
        let request = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
        let answer = self
            .endpoints
            .call(Repeat::IfNothingDone, |channel| {
                let request = request.clone();
                async move { kv(channel).delete_range(request).await }
            })
            .await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(Deleted { count: answer.deleted, revision })
    }

    /// Writes `value` if the key is as expected. After [`Error::FateUnknown`] read the key: with a
    /// value that only this caller writes, what it holds tells whether the swap happened.
    pub async fn cas(
        &self,
        key: impl Into<Bytes>,
        expect: Expect,
        value: impl Into<Bytes>,
    ) -> Result<Swap, Error> {
        let key = key.into();
        let compare = match expect {
            Expect::Absent => Compare::absent(key.clone()),
            Expect::Revision(revision) => Compare::mod_revision(key.clone(), revision),
            Expect::Value(value) => Compare::value(key.clone(), value),
        };
        let done = self
            .txn()
            .when(compare)
            .then(Op::put(key.clone(), value))
            .otherwise(Op::get(key))
            .commit()
            .await?;
        if done.succeeded {
            return Ok(Swap::Swapped { revision: done.revision });
        }
        let current = match done.results.into_iter().next() {
            Some(OpResult::Range(kvs)) => kvs.into_iter().next(),
            _ => return Err(Error::Protocol("a txn without the answer of its get".to_owned())),
        };
        Ok(Swap::Conflict { current })
    }
}
