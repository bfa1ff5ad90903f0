//! Locks with a fencing token.
//!
//! A lock that is kept by a lease can end while its holder believes in it: the holder was paused,
//! or cut off. So the lock alone protects nothing; what protects is that every write of the holder
//! compares the token. [`Turn::put`], [`Turn::delete`] and [`Turn::txn`] do. For a resource outside
//! the store, hand it [`Turn::token`] with each request and let it refuse smaller ones than it saw.

use crate::turn::Turn;
use crate::{Client, Error};
use bytes::Bytes;
use std::ops::Deref;
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

impl Deref for Lock {
    type Target = Turn;

    fn deref(&self) -> &Turn {
        &self.turn
    }
}

impl Lock {
    /// Gives it up; the next waiter holds it at once.
    pub async fn unlock(self) -> Result<(), Error> {
        self.turn.leave().await
    }
}
