//! Locks with a fencing token.
//!
//! A lock that is kept by a lease can end while its holder believes in it: the holder was paused,
//! or cut off. So the lock alone protects nothing; what protects is that every write of the holder
//! compares the token. [`Lock::put`], [`Lock::delete`] and [`Lock::txn`] do. For a resource outside
//! the store, hand it [`Lock::token`] with each request and let it refuse smaller ones than it saw.

use crate::turn::Turn;
use crate::{Client, Compare, Error, Lease, Op, Txn};
use bytes::Bytes;
use std::time::Duration;

/// A lock that is held. Dropping it gives it up in the background; [`Lock::unlock`] waits for that.
///
/// ```no_run
/// # async fn example(client: chainfire_client::Client) -> Result<(), chainfire_client::Error> {
/// use std::time::Duration;
/// let lock = client.lock("jobs/compaction", Duration::from_secs(10)).await?;
/// // Written only if this is still the holder; otherwise Error::Unsafe or Error::Deposed.
/// lock.put("jobs/compaction-state", "half done").await?;
/// lock.unlock().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Lock {
    turn: Turn,
}

impl Client {
    /// Waits until this caller holds the lock. It is held for as long as the lease under it, which
    /// lives `ttl` (whole seconds) without word from this process. Dropping the future leaves the
    /// line of waiters.
    ///
    /// # Errors
    /// The lease ended while waiting, or the cluster is not there.
    pub async fn lock(&self, name: &str, ttl: Duration) -> Result<Lock, Error> {
        let turn = self.line_up(name, Bytes::new(), ttl).await?;
        turn.wait().await?;
        Ok(Lock { turn })
    }

    /// The lock if nobody holds it and nobody waits for it.
    pub async fn try_lock(&self, name: &str, ttl: Duration) -> Result<Option<Lock>, Error> {
        let turn = self.line_up(name, Bytes::new(), ttl).await?;
        if turn.before().await?.is_some() {
            turn.leave().await?;
            return Ok(None);
        }
        turn.wait().await?;
        Ok(Some(Lock { turn }))
    }
}

impl Lock {
    /// The fencing token: the create revision of the lock's key. It grows with every holder.
    pub fn token(&self) -> i64 {
        self.turn.token()
    }

    /// The name under which it is held.
    pub fn name(&self) -> &str {
        self.turn.name()
    }

    /// The key that stands for this holder.
    pub fn key(&self) -> &Bytes {
        self.turn.key()
    }

    /// The lease under it.
    pub fn lease(&self) -> &Lease {
        self.turn.lease()
    }

    /// The condition that makes a transaction safe against having lost the lock unnoticed.
    pub fn guard(&self) -> Compare {
        self.turn.guard()
    }

    /// A transaction that holds the guard already, and is not even sent once the lease's safe time
    /// is over. It did nothing for a former holder, or for another condition that did not hold.
    pub fn txn(&self) -> Txn {
        self.turn.txn()
    }

    /// Writes a key as the holder.
    ///
    /// # Errors
    /// [`Error::Unsafe`] if the lease's safe time is over, [`Error::Deposed`] if another may hold
    /// the lock: nothing was written in either case.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<i64, Error> {
        self.turn.guarded(Op::put(key, value)).await
    }

    /// Deletes a key as the holder; errors as of [`Lock::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<i64, Error> {
        self.turn.guarded(Op::delete(key)).await
    }

    /// Whether the holder may still rely on it, by its own clock: [`Lease::is_safe`].
    pub fn is_safe(&self) -> bool {
        self.turn.lease().is_safe()
    }

    /// Returns when the lock may no longer be relied on.
    pub async fn lost(&self) {
        self.turn.lease().lost().await;
    }

    /// Gives it up; the next waiter holds it at once.
    pub async fn unlock(self) -> Result<(), Error> {
        self.turn.leave().await
    }
}
