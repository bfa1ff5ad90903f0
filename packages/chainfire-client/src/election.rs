//! One leader at a time, with a fencing token.
//!
//! A candidate writes `<election>/<lease in hex>` under its lease; the oldest such key leads. That
//! is the layout of etcd's own election, so both can be mixed. The create revision of the key is
//! the fencing token: a guarded write compares it in the same transaction, so that a leader that
//! slept through its own end cannot write.

use crate::{Client, Compare, Done, Error, KeyValue, Lease, Op, OpResult, Txn, Watch};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use bytes::Bytes;
use std::time::Duration;

/// Being the leader. Dropping it gives leadership up in the background;
/// [`Leadership::resign`] waits for that.
#[derive(Debug)]
pub struct Leadership {
    client: Client,
    lease: Lease,
    election: String,
    key: Bytes,
    token: i64,
}

fn folder(election: &str) -> String {
    format!("{}/", election.trim_end_matches('/'))
}

impl Client {
    /// Waits until this candidate leads. `value` tells others who it is. Dropping the future
    /// withdraws the candidate.
    pub async fn campaign(
        &self,
        election: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Leadership, Error> {
        let lease = self.lease(ttl).await?;
        let key = Bytes::from(format!("{}{:x}", folder(election), lease.id()));
        let token = self.stand(&lease, key.clone(), value.into()).await?;
        let mine =
            Leadership { client: self.clone(), lease, election: election.to_owned(), key, token };
        tokio::select! {
            turn = mine.turn() => turn?,
            () = mine.lease.lost() => return Err(Error::LeaseLost { id: mine.lease.id() }),
        }
        Ok(mine)
    }

    /// Writes the candidate's key; repeating it is harmless, since the key holds its own lease.
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
                Ok(Done { results, .. }) => match results.into_iter().next() {
                    Some(OpResult::Range(kvs)) if !kvs.is_empty() => {
                        return Ok(kvs[0].create_revision);
                    }
                    _ => return Err(Error::LeaseLost { id: lease.id() }),
                },
                Err(error) if error.fate_unknown() && !lease.is_lost() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Who leads now: the oldest candidate's key.
    pub async fn leader(&self, election: &str) -> Result<Option<KeyValue>, Error> {
        let prefix = Bytes::from(folder(election));
        let answer = self
            .range(RangeRequest {
                range_end: crate::prefix_end(&prefix),
                key: prefix,
                limit: 1,
                sort_order: SortOrder::Ascend as i32,
                sort_target: SortTarget::Create as i32,
                ..RangeRequest::default()
            })
            .await?;
        Ok(answer.kvs.into_iter().next())
    }
}

impl Leadership {
    /// Waits until no older candidate is left.
    async fn turn(&self) -> Result<(), Error> {
        let prefix = Bytes::from(folder(&self.election));
        loop {
            let answer = self
                .client
                .range(RangeRequest {
                    range_end: crate::prefix_end(&prefix),
                    key: prefix.clone(),
                    limit: 1,
                    sort_order: SortOrder::Descend as i32,
                    sort_target: SortTarget::Create as i32,
                    max_create_revision: self.token - 1,
                    ..RangeRequest::default()
                })
                .await?;
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            let Some(before) = answer.kvs.into_iter().next() else {
                return self.still_stands().await;
            };
            // Only the next older one is watched, so that one end wakes one candidate.
            let watch = Watch::key(before.key).from(revision + 1).no_puts();
            match self.client.watch(watch).await?.next().await {
                Ok(_) | Err(Error::Compacted { .. } | Error::Closed) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn still_stands(&self) -> Result<(), Error> {
        match self.client.get(self.key.clone()).await? {
            Some(kv) if kv.create_revision == self.token => Ok(()),
            _ => Err(Error::LeaseLost { id: self.lease.id() }),
        }
    }

    /// The fencing token: grows with every leader of this election.
    pub fn token(&self) -> i64 {
        self.token
    }

    /// The key that stands for this leader.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The lease under it.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The condition that makes a transaction safe against being deposed unnoticed.
    pub fn guard(&self) -> Compare {
        Compare::create_revision(self.key.clone(), self.token)
    }

    /// A transaction that holds the guard already. It did nothing for a deposed leader, or for
    /// another condition that did not hold.
    pub fn txn(&self) -> Txn {
        self.client.txn().when(self.guard())
    }

    /// Writes a key as the leader; [`Error::Deposed`] where it no longer is.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<i64, Error> {
        self.guarded(Op::put(key, value)).await
    }

    /// Deletes a key as the leader.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<i64, Error> {
        self.guarded(Op::delete(key)).await
    }

    /// Tells others something new about the leader.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<i64, Error> {
        self.guarded(Op::put_with_lease(self.key.clone(), value, self.lease.id())).await
    }

    async fn guarded(&self, op: Op) -> Result<i64, Error> {
        let done = self.txn().then(op).commit().await?;
        match done.succeeded {
            true => Ok(done.revision),
            false => Err(Error::Deposed { election: self.election.clone() }),
        }
    }

    /// Returns when leadership may no longer be relied on.
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// True once leadership may no longer be relied on.
    pub fn is_lost(&self) -> bool {
        self.lease.is_lost()
    }

    /// Gives leadership up; the next candidate leads at once.
    pub async fn resign(self) -> Result<(), Error> {
        self.lease.revoke().await
    }
}
