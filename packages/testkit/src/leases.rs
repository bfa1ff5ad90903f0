//! Leases under faults, and their judge.
//!
//! What must hold, by the one monotonic clock of this process:
//! - A lease whose renewal was asked for at `t` and answered is there until `t + ttl`, and so are
//!   its keys, unless this process revoked it.
//! - When a lease was seen to be gone, its keys are gone too, and it does not come back.
//! - A lease that nobody renews ends.

use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest};
use chainfire_client::{Client, Op};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(2);
/// How long a lease may outlive its time: leaders change, and each gives it its whole time anew.
const PATIENCE: Duration = Duration::from_secs(90);

/// How many leases came to which end.
#[derive(Debug, Default, Clone, Copy)]
pub struct Ends {
    /// Not renewed any more, and gone in time.
    pub expired: usize,
    /// Given up.
    pub revoked: usize,
    /// Renewals that were answered.
    pub renewals: usize,
}

#[derive(Debug, Default)]
struct Book {
    ends: Ends,
    wrong: Vec<String>,
}

/// Tasks that grant, renew, give up and forget leases.
#[derive(Debug)]
pub struct Leases {
    stop: CancellationToken,
    book: Arc<Mutex<Book>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Leases {
    /// `tasks` of them, each through any of the channels; keys are below `prefix`.
    pub fn start(
        tasks: usize,
        channels: &[Channel],
        client: &Client,
        prefix: &str,
        seed: u64,
    ) -> Leases {
        let (stop, book) = (CancellationToken::new(), Arc::<Mutex<Book>>::default());
        let tasks = (0..tasks).map(|number| {
            let task = Task {
                channels: channels.to_vec(),
                client: client.clone(),
                prefix: format!("{prefix}{number}/"),
                random: SmallRng::seed_from_u64(seed.wrapping_add(number as u64)),
                book: book.clone(),
            };
            tokio::spawn(task.run(stop.clone()))
        });
        Leases { tasks: tasks.collect(), stop, book }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if anything was wrong until now.
    pub fn check(&self) -> Result<Ends> {
        let book = self.book();
        ensure!(book.wrong.is_empty(), "leases: {:#?}", book.wrong);
        Ok(book.ends)
    }

    /// Stops; every lease comes to its end first.
    pub async fn stop(mut self) -> Result<Ends> {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await?;
        }
        self.check()
    }
}

struct Task {
    channels: Vec<Channel>,
    client: Client,
    prefix: String,
    random: SmallRng,
    book: Arc<Mutex<Book>>,
}

/// A lease, as far as this process knows.
struct Held {
    id: i64,
    ttl: Duration,
    /// It cannot have ended before this, unless it was given up.
    until: Instant,
}

impl Held {
    /// It was found to be gone, by an answer that has come now.
    fn gone(&self, how: &str) -> Result<()> {
        let early = self.until.saturating_duration_since(Instant::now());
        ensure!(early.is_zero(), "lease {:x} ended {early:?} early: {how}", self.id);
        Ok(())
    }
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let lived = self.live(&stop).await;
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = lived {
                book.wrong.push(format!("{error:#}"));
            }
        }
    }

    fn note(&self, note: impl FnOnce(&mut Ends)) {
        note(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner).ends);
    }

    fn lease(&mut self) -> LeaseClient<Channel> {
        let place = self.random.random_range(0..self.channels.len());
        LeaseClient::new(self.channels[place].clone())
    }

    /// One lease from its grant to its end.
    async fn live(&mut self, stop: &CancellationToken) -> Result<()> {
        let asked = Instant::now();
        let request = LeaseGrantRequest { ttl: self.random.random_range(1..4), id: 0 };
        let granted = timeout(CALL, self.lease().lease_grant(request)).await;
        let Ok(Ok(granted)) = granted else {
            // One that was granted all the same ends by itself, with nothing on it.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Ok(());
        };
        let granted = granted.into_inner();
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        let mut held = Held { id: granted.id, ttl, until: asked + ttl };
        let prefix = format!("{}{:x}/", self.prefix, held.id);
        let puts = ["a", "b"].map(|key| Op::put_with_lease(format!("{prefix}{key}"), key, held.id));
        let put = puts.into_iter().fold(self.client.txn(), |txn, put| txn.then(put)).commit().await;
        if put.is_err() {
            // Whether they are there is not known; that they go with the lease is.
            return self.ends(&mut held, &prefix, stop).await;
        }
        for _ in 0..self.random.random_range(0..5) {
            if stop.is_cancelled() {
                break;
            }
            let pause = held.ttl.mul_f64(self.random.random_range(0.05..0.6));
            tokio::time::sleep(pause).await;
            if !self.renew(&mut held).await? {
                return self.ends(&mut held, &prefix, stop).await;
            }
            // Linearizable: what was answered is true now, so before any later moment.
            if let Ok(None) = self.client.get(format!("{prefix}a")).await {
                held.gone("its key is gone")?;
                return self.ends(&mut held, &prefix, stop).await;
            }
        }
        if self.random.random_bool(0.4) {
            let request = LeaseRevokeRequest { id: held.id };
            let revoked = timeout(CALL, self.lease().lease_revoke(request)).await;
            if matches!(revoked, Ok(Ok(_))) {
                self.note(|ends| ends.revoked += 1);
                return self.nothing_left(&mut held, &prefix).await;
            }
            // It may be revoked at any time now.
            held.until = Instant::now();
        }
        self.ends(&mut held, &prefix, stop).await
    }

    /// False: it has ended.
    async fn renew(&mut self, held: &mut Held) -> Result<bool> {
        let asked = Instant::now();
        let request = futures::stream::iter([LeaseKeepAliveRequest { id: held.id }]);
        let mut lease = self.lease();
        let answer = timeout(CALL, async {
            lease.lease_keep_alive(request).await?.into_inner().message().await
        });
        match answer.await {
            Ok(Ok(Some(answer))) if answer.ttl > 0 => {
                let ttl = Duration::from_secs(answer.ttl.unsigned_abs()).min(held.ttl);
                held.until = held.until.max(asked + ttl);
                self.note(|ends| ends.renewals += 1);
                Ok(true)
            }
            Ok(Ok(Some(_))) => held.gone("a renewal was answered with 0").map(|()| false),
            // No answer: it may have been renewed or not.
            _ => Ok(true),
        }
    }

    /// Waits until nobody knows it any more; it is not renewed.
    async fn ends(
        &mut self,
        held: &mut Held,
        prefix: &str,
        stop: &CancellationToken,
    ) -> Result<()> {
        let mut patience = Instant::now() + PATIENCE;
        loop {
            let left = self.client.lease_remaining(held.id).await;
            match left {
                Ok(None) => break held.gone("it is unknown")?,
                Ok(Some(_)) | Err(_) if Instant::now() < patience => {}
                Ok(Some(left)) if stop.is_cancelled() => {
                    bail!("lease {:x} does not end; it has {left:?} left", held.id)
                }
                // Faults may go on for as long as they like.
                _ => patience = Instant::now() + PATIENCE,
            }
            tokio::time::sleep(held.ttl / 10).await;
        }
        self.note(|ends| ends.expired += 1);
        self.nothing_left(held, prefix).await
    }

    /// It is gone: so are its keys, and it stays so.
    async fn nothing_left(&mut self, held: &mut Held, prefix: &str) -> Result<()> {
        let left = crate::eventually("a look at the keys", PATIENCE, || async {
            Ok(self.client.prefix(prefix.to_owned()).await?.kvs)
        })
        .await
        .context("keys of a lease that is gone")?;
        ensure!(left.is_empty(), "lease {:x} is gone, its keys are not: {left:?}", held.id);
        let request = futures::stream::iter([LeaseKeepAliveRequest { id: held.id }]);
        let mut lease = self.lease();
        let answer = timeout(CALL, async {
            lease.lease_keep_alive(request).await?.into_inner().message().await
        });
        if let Ok(Ok(Some(answer))) = answer.await {
            ensure!(answer.ttl <= 0, "lease {:x} was gone and is renewed: {answer:?}", held.id);
        }
        Ok(())
    }
}
