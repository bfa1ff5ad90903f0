//! kill -9 under load: every acknowledged write stays, watches miss and double nothing.

use anyhow::{Result, ensure};
use chainfire_client::{Client, Error, Options, Watch};
use std::time::Duration;
use testkit::Cluster;
use testkit::workload::{Watchers, Writers, same_everywhere, serves_again};

/// A client that finds the living quickly, to measure with.
fn quick(cluster: &Cluster) -> Result<Client> {
    let options = Options {
        deadline: Duration::from_secs(2),
        read_attempt: Duration::from_millis(500),
        ..Options::default()
    };
    let all = (0..cluster.len()).map(|place| cluster.endpoint(place));
    Ok(Client::connect_with(all, cluster.tls()?, options)?)
}

fn clients(cluster: &Cluster) -> Result<Vec<Client>> {
    let rotated = |first: usize| (0..cluster.len()).map(move |n| (first + n) % cluster.len());
    (0..cluster.len())
        .map(|first| cluster.client_of_these(rotated(first).collect::<Vec<_>>()))
        .collect()
}

async fn kill_and_restart(cluster: &mut Cluster, place: usize) -> Result<Duration> {
    cluster.kill(place);
    let gap = serves_again(&quick(cluster)?).await?;
    cluster.spawn(place)?;
    cluster.ready(place).await?;
    Ok(gap)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing() -> Result<()> {
    let rounds = if testkit::soak() { 50 } else { 5 };
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let mut watchers = Watchers::start(&clients(&cluster)?, "d/").await?;
    let mut writers = Writers::start(clients(&cluster)?, "d/");
    let mut gaps = Vec::new();
    for round in 0..rounds {
        let leader = cluster.leader().await?;
        let gap = kill_and_restart(&mut cluster, leader).await?;
        println!("round {round}: serves {} ms after the leader was killed", gap.as_millis());
        gaps.push(gap);

        let follower = (cluster.leader().await? + 1) % 3;
        kill_and_restart(&mut cluster, follower).await?;

        for place in 0..3 {
            kill_and_restart(&mut cluster, place).await?;
        }

        for place in 0..3 {
            cluster.kill(place);
        }
        for place in 0..3 {
            cluster.spawn(place)?;
        }
        let gap = serves_again(&quick(&cluster)?).await?;
        for place in 0..3 {
            cluster.ready(place).await?;
        }
        let acked = writers.verify(&client, "d/").await?;
        watchers.add(&client).await?;
        println!(
            "round {round}: {} ms from killing all to serving; {acked} acknowledged writes there",
            gap.as_millis()
        );
    }
    writers.stop().await?;
    let acked = writers.verify(&client, "d/").await?;
    let revisions = watchers.verify(&client).await?;
    let each: Vec<Client> = (0..3).map(|place| cluster.client_of(place)).collect::<Result<_>>()?;
    same_everywhere(&client, &each, "d/").await?;
    gaps.sort_unstable();
    println!(
        "{acked} acknowledged writes, {revisions} revisions watched; after a leader's death serves in {} ms (median), {} ms (worst of {rounds})",
        gaps[gaps.len() / 2].as_millis(),
        gaps[gaps.len() - 1].as_millis()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_alone_loses_nothing() -> Result<()> {
    let rounds = if testkit::soak() { 50 } else { 5 };
    let mut cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    let watchers = Watchers::start(std::slice::from_ref(&client), "d/").await?;
    let mut writers = Writers::start(vec![client.clone(), client.clone()], "d/");
    for _ in 0..rounds {
        // Kill in the midst of work, not of starting.
        let before = writers.acked().len();
        testkit::eventually("writes go on", Duration::from_secs(60), || async {
            ensure!(writers.acked().len() > before + 100);
            Ok(())
        })
        .await?;
        cluster.kill(0);
        cluster.spawn(0)?;
        cluster.ready(0).await?;
        writers.verify(&client, "d/").await?;
    }
    writers.stop().await?;
    let acked = writers.verify(&client, "d/").await?;
    watchers.verify(&client).await?;
    println!("{acked} acknowledged writes over {rounds} kills");
    Ok(())
}

#[tokio::test]
async fn a_stop_is_clean() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let leader = cluster.leader().await?;
    let revision = client.put("k", "v").await?;
    cluster.terminate(leader).await?;
    serves_again(&quick(&cluster)?).await?;
    cluster.spawn(leader)?;
    cluster.ready(leader).await?;
    for place in 0..3 {
        cluster.terminate(place).await?;
    }
    for place in 0..3 {
        cluster.spawn(place)?;
    }
    for place in 0..3 {
        cluster.ready(place).await?;
    }
    let kv = client.get("k").await?.expect("was acknowledged");
    assert_eq!((&kv.value[..], kv.mod_revision), (&b"v"[..], revision));
    Ok(())
}

/// Who holds a lease, and leads by it, does not notice that the cluster's leader died.
#[tokio::test]
async fn kept_leases_outlive_the_leader() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let lease = client.lease(Duration::from_secs(10)).await?;
    client.put_with_lease("l/kept", "x", lease.id()).await?;
    let leadership = client.campaign("e", "me", Duration::from_secs(10)).await?;
    for _ in 0..2 {
        let leader = cluster.leader().await?;
        kill_and_restart(&mut cluster, leader).await?;
    }
    leadership.put("e/owned", "still").await?;
    ensure!(!lease.is_lost() && !leadership.is_lost());
    ensure!(client.get("l/kept").await?.is_some());
    // Given up, it is gone on every member.
    lease.revoke().await?;
    for place in 0..3 {
        ensure!(cluster.client_of(place)?.get("l/kept").await?.is_none());
    }
    Ok(())
}

/// Killed right after, or in the midst of, a compaction: revisions never go back, history before
/// it is gone for good, and a watch that begins right after it misses nothing.
#[tokio::test]
async fn compactions_outlive_kills() -> Result<()> {
    let rounds = if testkit::soak() { 30 } else { 5 };
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    for round in 0..rounds {
        for number in 0..30 {
            client.put(format!("c/{}", number % 5), format!("{round}.{number}")).await?;
        }
        let floor = client.delete("c/0").await?.revision;
        let after = client.delete("c/1").await?.revision;
        client.compact(floor).await?;
        for place in 0..3 {
            cluster.kill(place);
        }
        for place in 0..3 {
            cluster.spawn(place)?;
        }
        serves_again(&quick(&cluster)?).await?;
        for place in 0..3 {
            cluster.ready(place).await?;
            let member = cluster.client_of(place)?;
            let now = member.revision().await?;
            ensure!(now >= after, "revision went back from {after} to {now}");
            let old = member.get_at("c/2", floor - 1).await;
            ensure!(matches!(old, Err(Error::Compacted { .. })), "{old:?}");
            ensure!(member.get_at("c/2", floor).await?.is_some());
            ensure!(member.get_at("c/1", floor).await?.is_some());
            let mut watcher = member.watch(Watch::prefix("c/").from(floor + 1)).await?;
            let first = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await??;
            ensure!(first.revision == after && first.events.len() == 1, "{first:?}");
        }
    }
    let each: Vec<Client> = (0..3).map(|place| cluster.client_of(place)).collect::<Result<_>>()?;
    same_everywhere(&client, &each, "c/").await
}
