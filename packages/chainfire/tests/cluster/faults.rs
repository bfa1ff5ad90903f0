//! Pauses and partitions: no stale linearizable read, no acknowledged write lost, and the whole
//! recorded history is linearizable.

use anyhow::{Result, ensure};
use chainfire_client::Options;
use std::time::Duration;
use testkit::Cluster;
use testkit::workload::{Registers, Watchers, Writers, serves_again, write};

/// How long a fault lasts.
fn lasting() -> Duration {
    Duration::from_secs(if testkit::soak() { 10 } else { 5 })
}

/// A leader cut off from its peers neither reads as a leader nor acknowledges.
#[tokio::test]
async fn a_cut_off_leader_serves_nothing() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    write(&client, "k", "old").await?;
    let leader = cluster.leader().await?;
    let short = Options { deadline: Duration::from_secs(3), ..Options::default() };
    let pinned = cluster.client_with([leader], short)?;
    pinned.get("k").await?;
    cluster.links().isolate(leader, 3);
    let rest = cluster.client_of_others(leader)?;
    serves_again(&rest).await?;
    write(&rest, "k", "new").await?;

    let read = pinned.get("k").await;
    ensure!(read.is_err(), "a linearizable read without a majority: {read:?}");
    let write = pinned.put("lost", "x").await;
    ensure!(write.is_err(), "a write acknowledged without a majority");
    // What it knows it may still tell to who asks for just that.
    let known = pinned.get_serializable("k").await?.map(|kv| kv.value);
    ensure!(known.as_deref() == Some(b"old"), "{known:?}");

    cluster.links().heal();
    cluster.ready(leader).await?;
    testkit::eventually("it catches up", Duration::from_secs(30), || async {
        let now = pinned.get("k").await?.map(|kv| kv.value);
        ensure!(now.as_deref() == Some(b"new"), "{now:?}");
        Ok(())
    })
    .await
}

/// Everything at once, recorded and checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_under_faults_are_linearizable() -> Result<()> {
    let rounds = if testkit::soak() { 20 } else { 1 };
    let mut cluster = Cluster::start(3).await?;
    let clients = cluster.pinned_and_roaming()?;
    let watchers = Watchers::start(&clients, "r/").await?;
    let mut writers = Writers::start(vec![cluster.client()?], "w/");
    let registers = Registers::start(clients, "r/", 4, 7);
    for _ in 0..rounds {
        let leader = cluster.leader().await?;
        cluster.process(leader)?.pause()?;
        let gap = serves_again(&cluster.client_of_others(leader)?).await?;
        tokio::time::sleep(lasting().saturating_sub(gap)).await; // the fault's own duration
        cluster.process(leader)?.resume()?;
        cluster.ready(leader).await?;
        println!("paused leader: others serve after {} ms", gap.as_millis());

        let leader = cluster.leader().await?;
        cluster.links().isolate(leader, 3);
        let gap = serves_again(&cluster.client_of_others(leader)?).await?;
        tokio::time::sleep(lasting().saturating_sub(gap)).await;
        cluster.links().heal();
        cluster.ready(leader).await?;
        println!("cut off leader: others serve after {} ms", gap.as_millis());

        // One way only: it hears and is not heard, then the other way round.
        for heard in [false, true] {
            let leader = cluster.leader().await?;
            for other in (0..3).filter(|other| *other != leader) {
                match heard {
                    false => cluster.links().cut(leader, other),
                    true => cluster.links().cut(other, leader),
                }
            }
            tokio::time::sleep(lasting() / 2).await;
            cluster.links().heal();
            serves_again(&cluster.client()?).await?;
        }

        // A follower that is cut off for a while must not disturb, nor lag for ever.
        let follower = (cluster.leader().await? + 1) % 3;
        cluster.links().isolate(follower, 3);
        tokio::time::sleep(lasting() / 2).await;
        cluster.links().heal();
        cluster.ready(follower).await?;

        let leader = cluster.leader().await?;
        cluster.kill(leader);
        serves_again(&cluster.client_of_others(leader)?).await?;
        cluster.spawn(leader)?;
        cluster.ready(leader).await?;
    }
    let client = cluster.client()?;
    writers.stop().await?;
    let acked = writers.verify(&client, "w/").await?;
    let (operations, unknown) = registers.verify().await?;
    let revisions = watchers.verify(&client).await?;
    println!(
        "{operations} operations ({unknown} without answer) are linearizable; {acked} acknowledged writes there; {revisions} revisions watched exactly"
    );
    ensure!(operations > 200, "too little happened to say anything: {operations} operations");
    Ok(())
}
