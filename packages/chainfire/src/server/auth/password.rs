//! Passwords: hashed with bcrypt, as etcd does, so that hashes can be taken over from it.
//!
//! A comparison is slow on purpose; half the cores at most are given to it, and only so many wait.
//! Whoever guesses passwords slows down those who log in, never those who work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::server::refusal;

/// More than this do not wait for a core.
const WAITING_MAX: usize = 128;
/// bcrypt looks at no more bytes.
const LONGEST: usize = 72;
/// Costs of hashes that are taken over: more would let one comparison take minutes.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;

/// Hashes and compares, off the async threads.
#[derive(Debug)]
pub(crate) struct Passwords {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    cost: u32,
    /// Compared with when there is no such user: that must take as long.
    nobody: OnceLock<Bytes>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Passwords {
    pub(crate) fn new(cost: u32) -> Passwords {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = Arc::new(Semaphore::new((cores / 2).max(1)));
        Passwords { slots, waiting: AtomicUsize::new(0), cost, nobody: OnceLock::new() }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= WAITING_MAX {
            return Err(Status::from(&refusal::BUSY));
        }
        let stopped = || Status::from(&refusal::STOPPED);
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| stopped())?;
        let work = move || {
            // given back when the work is done, also when nobody waits for it any more
            let _slot = slot;
            work()
        };
        consensus::blocking(work).await.map_err(|_| stopped())
    }

    /// The hash of a password as the log takes it.
    pub(super) async fn hash(&self, password: String) -> Result<String, Status> {
        if password.len() > LONGEST {
            return Err(Status::from(&refusal::LONG_PASSWORD));
        }
        let cost = self.cost;
        let hashed = self.run(move || bcrypt::hash(password, cost)).await?;
        hashed.map(|hash| STANDARD.encode(hash)).map_err(|_| Status::from(&refusal::BAD_PASSWORD))
    }

    /// Whether a password is that of the hash. Takes as long when there is no hash.
    pub(super) async fn compare(
        &self,
        password: String,
        hash: Option<Bytes>,
    ) -> Result<bool, Status> {
        let known = hash.is_some() && password.len() <= LONGEST;
        let hash = match hash {
            Some(hash) => hash,
            None => self.nobody().await?,
        };
        let same = self.run(move || {
            let hash = std::str::from_utf8(&hash).unwrap_or_default();
            bcrypt::verify(password, hash).unwrap_or(false)
        });
        Ok(same.await? && known)
    }

    async fn nobody(&self) -> Result<Bytes, Status> {
        if let Some(hash) = self.nobody.get() {
            return Ok(hash.clone());
        }
        let cost = self.cost;
        let made = self.run(move || bcrypt::hash("", cost).map(Bytes::from)).await?;
        let made = made.map_err(|_| Status::from(&refusal::BAD_PASSWORD))?;
        Ok(self.nobody.get_or_init(|| made).clone())
    }
}

/// A hash made elsewhere, in base64, is taken if it is one of bcrypt's at a bearable cost.
pub(super) fn taken_over(hash: &str) -> Result<(), Status> {
    let bytes = STANDARD.decode(hash).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    match text.parse::<bcrypt::HashParts>() {
        Ok(parts) if COSTS.contains(&parts.get_cost()) => Ok(()),
        _ => Err(Status::from(&refusal::BAD_HASH)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash() {
        let passwords = Passwords::new(4);
        let text = passwords.hash("open sesame".into()).await.unwrap();
        taken_over(&text).unwrap();
        let hash = Some(Bytes::from(STANDARD.decode(&text).unwrap()));
        assert!(passwords.compare("open sesame".into(), hash.clone()).await.unwrap());
        assert!(!passwords.compare("open Sesame".into(), hash.clone()).await.unwrap());
        assert!(!passwords.compare(String::new(), None).await.unwrap(), "nobody has no password");
        let damaged = Some(Bytes::from_static(b"no hash"));
        assert!(!passwords.compare("no hash".into(), damaged).await.unwrap());
    }

    #[tokio::test]
    async fn bytes_that_bcrypt_would_not_see_are_refused() {
        let passwords = Passwords::new(4);
        let long = "x".repeat(72);
        let text = passwords.hash(long.clone()).await.unwrap();
        let hash = Some(Bytes::from(STANDARD.decode(&text).unwrap()));
        assert!(passwords.compare(long.clone(), hash.clone()).await.unwrap());
        let longer = format!("{long}y");
        assert!(!passwords.compare(longer.clone(), hash).await.unwrap());
        let refused = passwords.hash(longer).await.unwrap_err();
        assert!(refused.message().contains("72 bytes"), "{refused}");
    }

    #[test]
    fn hashes_of_etcd_are_taken_and_others_are_not() {
        // made by golang.org/x/crypto/bcrypt's format, cost 10
        let etcds = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";
        taken_over(&STANDARD.encode(etcds)).unwrap();
        assert!(bcrypt::verify("password", etcds).is_ok());
        let endless = etcds.replace("$10$", "$31$");
        for bad in ["", "plain", &STANDARD.encode("plain"), &STANDARD.encode(endless)] {
            assert!(taken_over(bad).is_err(), "{bad}");
        }
    }
}
