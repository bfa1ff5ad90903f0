//! kill -9 under load: what was acknowledged stays, data and applied position move together.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::DefragmentRequest;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use chainfire_client::Client;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::workload::{Watchers, Writers, kill_and_restart, same_everywhere, serves_again};
use testkit::{Cluster, Options};

fn clients(cluster: &Cluster) -> Result<Vec<Client>> {
    (0..cluster.len()).map(|first| cluster.client_of_these(cluster.rotated(first))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_13766_members_killed_under_load_stay_the_same() -> Result<()> {
    let rounds = if testkit::soak() { 50 } else { 4 };
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
        let gap = serves_again(&cluster.quick_client()?).await?;
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
    same_everywhere(&cluster, "d/").await?;
    gaps.sort_unstable();
    println!(
        "{acked} acknowledged writes, {revisions} revisions watched; after a leader's death serves in {} ms (median), {} ms (worst of {rounds})",
        gaps[gaps.len() / 2].as_millis(),
        gaps[gaps.len() - 1].as_millis()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_14370_one_member_alone_loses_nothing() -> Result<()> {
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

/// Overwrites a few keys, again and again, until an answer is lost. `known` is what each holds by
/// the last answer.
async fn overwrite(client: Client, mut known: HashMap<String, String>, seed: u64) -> Overwritten {
    let mut random = SmallRng::seed_from_u64(seed);
    for count in 0.. {
        let key = format!("o/{:03}", random.random_range(0..100));
        let value = format!("{seed}.{count}.{}", "x".repeat(random.random_range(0..3000)));
        match client.put(key.clone(), value.clone()).await {
            Ok(_) => drop(known.insert(key, value)),
            Err(_) => return Overwritten { known, doubtful: (key, value) },
        }
    }
    unreachable!("it ends with its client's connection")
}

struct Overwritten {
    known: HashMap<String, String>,
    /// The write without an answer.
    doubtful: (String, String),
}

/// Applied state is made durable every second, history is cut and space is reclaimed all the time,
/// and the process is killed anywhere in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_14685_killed_while_space_is_reclaimed() -> Result<()> {
    let rounds = if testkit::soak() { 100 } else { 8 };
    let mut cluster = Cluster::start_with(Options {
        members: 1,
        set: vec!["storage.persist_seconds=1".into(), "raft.snapshot_entries=20".into()],
        ..Options::default()
    })
    .await?;
    let mut random = SmallRng::seed_from_u64(14685);
    let mut known = HashMap::new();
    let mut revision = 0;
    for round in 0..rounds {
        let client = cluster.quick_client()?;
        let load = tokio::spawn(overwrite(client.clone(), known, round));
        let reclaim = tokio::spawn({
            let (client, channel) = (client.clone(), cluster.channel(0)?);
            async move {
                // Ends with the first answer that does not come: the member was killed.
                while let Ok(now) = client.revision().await {
                    if client.compact(now).await.is_err_and(|error| error.fate_unknown()) {
                        return;
                    }
                    let mut maintenance = MaintenanceClient::new(channel.clone());
                    let _ = maintenance.defragment(DefragmentRequest {}).await;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(random.random_range(300..1800))).await;
        cluster.kill(0);
        let written = load.await?;
        reclaim.abort();
        cluster.spawn(0)?;
        cluster.ready(0).await?;
        let client = cluster.client()?;
        let now = client.revision().await?;
        ensure!(now >= revision, "round {round}: the revision went back from {revision} to {now}");
        revision = now;
        let there = client.prefix("o/").await?;
        known = HashMap::new();
        for kv in there.kvs {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            known.insert(text(&kv.key), text(&kv.value));
        }
        for (key, value) in &written.known {
            let found = known.get(key).with_context(|| format!("round {round}: {key} is gone"))?;
            let fits = found == value || (key, found) == (&written.doubtful.0, &written.doubtful.1);
            ensure!(fits, "round {round}: {key} holds {found:.20}, acknowledged was {value:.20}");
        }
    }
    println!("{revision} revisions over {rounds} kills amid compactions and persists");
    Ok(())
}
