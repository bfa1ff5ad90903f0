//! A place in a line of waiters, with a fencing token: what [`crate::Lock`] and
//! [`crate::Leadership`] have in common.
//!
//! A waiter writes `<name>/<lease in hex>` under its lease; of the keys that live, the oldest has
//! its turn. That is the layout of etcd's own locks and elections, so they can be mixed. The create
//! revision of the key is the fencing token. A guarded write is refused twice over:
//!
//! - here, without being sent, once the lease's safe time is over ([`crate::Lease::is_safe`]): a
//!   holder that slept too long knows it from its own clock;
//! - by the cluster, which compares the token in the same transaction: a holder whose clock lies,
//!   or whose write was on its way for long, cannot write over its successor.

use crate::lease::Safety;
use crate::{Client, Compare, Done, Error, Lease, Op, OpResult, Txn, Watch};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use bytes::Bytes;
use std::time::Duration;

/// What a holder has: of a lock, or of leadership. Dropping it leaves the line in the background.
#[derive(Debug)]
pub struct Turn {
    client: Client,
    lease: Lease,
    name: String,
    key: Bytes,
    token: i64,
}

/// The folder of the line's keys.
pub(crate) fn folder(name: &str) -> String {
    format!("{}/", name.trim_end_matches('/'))
}

impl Client {
    /// Stands in line under a lease of its own.
    pub(crate) async fn line_up(
        &self,
        name: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Turn, Error> {
        let lease = self.lease(ttl).await?;
        let key = Bytes::from(format!("{}{:x}", folder(name), lease.id()));
        let token = self.stand(&lease, key.clone(), value).await?;
        Ok(Turn { client: self.clone(), lease, name: name.to_owned(), key, token })
    }

    /// Writes the waiter's key; repeating it is harmless, since the key holds its own lease.
    async fn stand(&self, lease: &Lease, key: Bytes, value: Bytes) -> Result<i64, Error> {
        loop {
            let done = self
                .txn()
                .when(Compare::absent(key.clone()))
                .then(Op::put_with_lease(key.clone(), value.clone(), lease.id()))
                .otherwise(Op::get(key.clone()))
                .commit()
                .await;
            match done {
                Ok(Done { succeeded: true, revision, .. }) => return Ok(revision),
                Ok(Done { results, .. }) => {
                    return match results.into_iter().next() {
                        Some(OpResult::Range(kvs)) => match kvs.first() {
                            Some(kv) => Ok(kv.create_revision),
                            None => Err(Error::LeaseLost { id: lease.id() }),
                        },
                        _ => Err(Error::LeaseLost { id: lease.id() }),
                    };
                }
                Err(error) if error.fate_unknown() && !lease.is_lost() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Turn {
    /// Waits until nobody stands before.
    pub(crate) async fn wait(&self) -> Result<(), Error> {
        tokio::select! {
            first = self.first() => first,
            () = self.lease.lost() => Err(Error::LeaseLost { id: self.lease.id() }),
        }
    }

    async fn first(&self) -> Result<(), Error> {
        while let Some((key, revision)) = self.before().await? {
            // Only the next older one is watched, so that one end wakes one waiter.
            let watch = Watch::key(key).from(revision + 1).no_puts();
            match self.client.watch(watch).await?.next().await {
                Ok(_) | Err(Error::Compacted { .. } | Error::Closed) => {}
                Err(error) => return Err(error),
            }
        }
        self.still_stands().await
    }

    /// The key that stands before this one, and the revision at which it did.
    pub(crate) async fn before(&self) -> Result<Option<(Bytes, i64)>, Error> {
        let prefix = Bytes::from(folder(&self.name));
        let answer = self
            .client
            .range(RangeRequest {
                range_end: crate::prefix_end(&prefix),
                key: prefix,
                limit: 1,
                sort_order: SortOrder::Descend as i32,
                sort_target: SortTarget::Create as i32,
                max_create_revision: self.token - 1,
                ..RangeRequest::default()
            })
            .await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(answer.kvs.into_iter().next().map(|kv| (kv.key, revision)))
    }

    async fn still_stands(&self) -> Result<(), Error> {
        match self.client.get(self.key.clone()).await? {
            Some(kv) if kv.create_revision == self.token => Ok(()),
            _ => Err(Error::LeaseLost { id: self.lease.id() }),
        }
    }

    /// The name of the lock or the election.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fencing token: the create revision of the holder's key. It grows with every holder.
    pub fn token(&self) -> i64 {
        self.token
    }

    /// The key that stands for this holder.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The lease under it.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The condition that makes a transaction safe against having lost one's turn unnoticed.
    pub fn guard(&self) -> Compare {
        Compare::create_revision(self.key.clone(), self.token)
    }

    /// A transaction that holds the guard already, and is not even sent once the lease's safe time
    /// is over. It did nothing for a former holder, or for another condition that did not hold.
    pub fn txn(&self) -> Txn {
        let safety = Safety { lease: self.lease.watch(), name: self.name.clone() };
        self.client.txn().when(self.guard()).while_safe(safety)
    }

    /// Writes a key as the holder.
    ///
    /// # Errors
    /// [`Error::Unsafe`] if the lease's safe time is over, [`Error::Deposed`] if another may have
    /// its turn: nothing was written in either case.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<i64, Error> {
        self.guarded(Op::put(key, value)).await
    }

    /// Deletes a key as the holder; errors as of [`Turn::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<i64, Error> {
        self.guarded(Op::delete(key)).await
    }

    /// Whether the holder may still rely on it, by its own clock: [`Lease::is_safe`].
    pub fn is_safe(&self) -> bool {
        self.lease.is_safe()
    }

    /// Returns when it may no longer be relied on.
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// True once it may no longer be relied on.
    pub fn is_lost(&self) -> bool {
        self.lease.is_lost()
    }

    pub(crate) async fn guarded(&self, op: Op) -> Result<i64, Error> {
        let done = self.txn().then(op).commit().await?;
        match done.succeeded {
            true => Ok(done.revision),
            false => Err(Error::Deposed { election: self.name.clone() }),
        }
    }

    /// Leaves the line; the next one has its turn at once.
    pub(crate) async fn leave(self) -> Result<(), Error> {
        self.lease.revoke().await
    }
}
