//! One leader at a time, with a fencing token: the create revision of the leader's key. A guarded
//! write compares it in the same transaction, so that a leader that slept through its own end
//! cannot write.

use crate::turn::{Turn, folder};
use crate::{Client, Compare, Error, KeyValue, Lease, Op, Txn};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use bytes::Bytes;
use std::time::Duration;

/// Being the leader. Dropping it gives leadership up in the background;
/// [`Leadership::resign`] waits for that.
#[derive(Debug)]
pub struct Leadership {
    turn: Turn,
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
        let turn = self.line_up(election, value.into(), ttl).await?;
        turn.wait().await?;
        Ok(Leadership { turn })
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
    /// The fencing token: grows with every leader of this election.
    pub fn token(&self) -> i64 {
        self.turn.token()
    }

    /// The key that stands for this leader.
    pub fn key(&self) -> &Bytes {
        self.turn.key()
    }

    /// The lease under it.
    pub fn lease(&self) -> &Lease {
        self.turn.lease()
    }

    /// The condition that makes a transaction safe against being deposed unnoticed.
    pub fn guard(&self) -> Compare {
        self.turn.guard()
    }

    /// A transaction that holds the guard already, and is not even sent once the lease's safe time
    /// is over. It did nothing for a deposed leader, or for another condition that did not hold.
    pub fn txn(&self) -> Txn {
        self.turn.txn()
    }

    /// Writes a key as the leader.
    ///
    /// # Errors
    /// [`Error::Unsafe`] if the lease's safe time is over, [`Error::Deposed`] if another may lead:
    /// nothing was written in either case.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<i64, Error> {
        self.turn.guarded(Op::put(key, value)).await
    }

    /// Deletes a key as the leader; errors as of [`Leadership::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<i64, Error> {
        self.turn.guarded(Op::delete(key)).await
    }

    /// Tells others something new about the leader; errors as of [`Leadership::put`].
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<i64, Error> {
        let (key, lease) = (self.turn.key().clone(), self.turn.lease().id());
        self.turn.guarded(Op::put_with_lease(key, value, lease)).await
    }

    /// Whether the leader may still rely on it, by its own clock: [`Lease::is_safe`].
    pub fn is_safe(&self) -> bool {
        self.turn.lease().is_safe()
    }

    /// Returns when leadership may no longer be relied on.
    pub async fn lost(&self) {
        self.turn.lease().lost().await;
    }

    /// True once leadership may no longer be relied on.
    pub fn is_lost(&self) -> bool {
        self.turn.lease().is_lost()
    }

    /// Gives leadership up; the next candidate leads at once.
    pub async fn resign(self) -> Result<(), Error> {
        self.turn.leave().await
    }
}
