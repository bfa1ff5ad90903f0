//! Leaders that sleep, or whose disk stands still, and wake when another one leads.

use std::time::Duration;

use anyhow::{Result, ensure};
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest};
use chainfire_client::{Client, Options};
use testkit::Cluster;
use testkit::workload::{serves_again, write};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::LONG;

/// A client of one member that waits long enough to hear what a sleeper says on waking.
fn patient(cluster: &Cluster, place: usize) -> Result<Client> {
    let long = Duration::from_secs(60);
    let options = Options { deadline: long, read_attempt: long, ..Options::default() };
    cluster.client_with([place], options)
}

/// A read that an old leader got while it slept must not be answered from what it knew.
#[tokio::test]
async fn bug_20418_a_paused_leader_reads_nothing_stale() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    write(&client, "k", "old").await?;
    let rounds = if testkit::soak() { 20 } else { 3 };
    for round in 0..rounds {
        let leader = cluster.leader().await?;
        let pinned = patient(&cluster, leader)?;
        pinned.get("k").await?; // connected
        cluster.process(leader)?.pause()?;
        let rest = cluster.client_of_others(leader)?;
        serves_again(&rest).await?;
        let new = format!("new {round}");
        write(&rest, "k", &new).await?;
        // Sent while it sleeps, answered when it wakes: it may think that it still leads.
        let reads: Vec<_> = (0..8)
            .map(|_| {
                let pinned = pinned.clone();
                tokio::spawn(async move { pinned.get("k").await })
            })
            .collect();
        cluster.process(leader)?.resume()?;
        for read in reads {
            if let Ok(kv) = read.await? {
                let value = kv.map(|kv| kv.value).unwrap_or_default();
                ensure!(value == new, "stale read on waking: {value:?}, acknowledged was {new:?}");
            }
        }
        cluster.ready(leader).await?;
    }
    Ok(())
}

/// Time to live in the following.
const TTL: i64 = 6;

/// A lease that is kept alive through some members, and what was promised of it.
struct Kept {
    id: i64,
    ttl: Duration,
    channels: Vec<Channel>,
    /// It cannot have ended before this.
    until: Instant,
}

impl Kept {
    /// Renews once, through the first that answers. False: it has ended, and rightly so, since this
    /// machine was too slow to keep it.
    async fn renew(&mut self) -> Result<bool> {
        let id = self.id;
        let (asked, ttl) = testkit::eventually("a renewal", LONG, || async {
            let mut failed = None;
            for channel in &self.channels {
                let asked = Instant::now();
                let request = futures::stream::iter([LeaseKeepAliveRequest { id }]);
                let mut lease = LeaseClient::new(channel.clone());
                let answer = tokio::time::timeout(Duration::from_secs(1), async {
                    lease.lease_keep_alive(request).await?.into_inner().message().await
                });
                match answer.await {
                    Ok(Ok(Some(answer))) => return Ok((asked, answer.ttl)),
                    other => failed = Some(format!("{other:?}")),
                }
            }
            anyhow::bail!("{failed:?}")
        })
        .await?;
        if ttl > 0 {
            self.until = self.until.max(asked + self.ttl);
            return Ok(true);
        }
        ensure!(self.until <= Instant::now(), "the lease was ended while it was kept alive");
        Ok(false)
    }
}

/// Keeps a lease alive through the others while the leader cannot act for longer than the lease
/// lasts, and for a while after it can again: what it decided while it was away must not count.
/// False: this machine was too slow to say anything.
async fn keeps_lease<H, B>(cluster: &mut Cluster, halt: H, back: B) -> Result<bool>
where
    H: Fn(&mut Cluster, usize) -> Result<()>,
    B: Fn(&mut Cluster, usize) -> Result<()>,
{
    let client = cluster.client()?;
    let leader = cluster.leader().await?;
    let channels = (0..3).filter(|place| *place != leader).map(|place| cluster.channel(place));
    let channels: Vec<Channel> = channels.collect::<Result<_>>()?;
    let asked = Instant::now();
    let granted = LeaseClient::new(cluster.channel(leader)?)
        .lease_grant(LeaseGrantRequest { id: 0, ttl: TTL })
        .await?
        .into_inner();
    let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
    let mut kept = Kept { id: granted.id, ttl, channels, until: asked + ttl };
    client.put_with_lease("l/kept", "x", kept.id).await?;
    // The leader knows of this renewal, and of none after it.
    let mut alive = kept.renew().await?;
    halt(cluster, leader)?;
    let halted = Instant::now();
    let rest = cluster.client_of_others(leader)?;
    let mut renewed = 0;
    while alive && halted.elapsed() < ttl + Duration::from_secs(2) {
        alive = kept.renew().await?;
        renewed += 1;
        tokio::time::sleep(ttl / 10).await;
    }
    back(cluster, leader)?;
    let woken = Instant::now();
    while alive && woken.elapsed() < ttl {
        alive = kept.renew().await?;
        renewed += 1;
        let there = rest.get("l/kept").await?.is_some();
        let ended = kept.until <= Instant::now();
        ensure!(there || ended, "its key is gone though the lease was kept alive");
        tokio::time::sleep(ttl / 20).await;
    }
    println!("{renewed} renewals; the leader was away for {} s", (woken - halted).as_secs());
    cluster.ready(leader).await?;
    // And it ends when nobody keeps it.
    testkit::eventually("the lease ends", LONG, || async {
        ensure!(client.get("l/kept").await?.is_none());
        Ok(())
    })
    .await?;
    Ok(alive)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_12528_a_leader_that_slept_ends_no_lease() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut rounds = if testkit::soak() { 10 } else { 1 };
    for _ in 0..5 * rounds {
        let halt = |cluster: &mut Cluster, place| cluster.process(place)?.pause();
        let back = |cluster: &mut Cluster, place| cluster.process(place)?.resume();
        rounds -= i32::from(keeps_lease(&mut cluster, halt, back).await?);
        if rounds == 0 {
            return Ok(());
        }
    }
    anyhow::bail!("this machine never kept a lease alive")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_15247_a_leader_whose_disk_stood_still_ends_no_lease() -> Result<()> {
    let disks = Some(480);
    let mut cluster =
        Cluster::start_with(testkit::Options { disks, ..testkit::Options::default() }).await?;
    if cluster.disk(0).is_none() {
        println!("skipped: a disk can be mounted only by root");
        return Ok(());
    }
    for _ in 0..5 {
        let order = |cluster: &mut Cluster, place, freeze| match (cluster.disk(place), freeze) {
            (Some(disk), true) => disk.freeze(),
            (Some(disk), false) => disk.thaw(),
            (None, _) => anyhow::bail!("no disk"),
        };
        let halt = |cluster: &mut Cluster, place| order(cluster, place, true);
        let back = |cluster: &mut Cluster, place| order(cluster, place, false);
        if keeps_lease(&mut cluster, halt, back).await? {
            return Ok(());
        }
    }
    anyhow::bail!("this machine never kept a lease alive")
}
