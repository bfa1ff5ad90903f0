//! A follower that was cut off for so long that the log no longer reaches back to it.

use std::time::Duration;

use anyhow::{Result, ensure};
use chainfire_client::{Client, Op};
use testkit::workload::{same_everywhere, serves_again};
use testkit::{Cluster, Options};
use tokio::time::Instant;

use super::stream::{Stream, prefix, revisions};
use super::{LONG, caught_up};

/// A cluster that keeps as little log as it can.
async fn forgetful() -> Result<Cluster> {
    Cluster::start_with(Options {
        set: vec!["raft.snapshot_entries=20".into(), "storage.persist_seconds=1".into()],
        ..Options::default()
    })
    .await
}

/// Persisting is by the clock: this is twice over.
const PERSISTED: Duration = Duration::from_secs(3);
/// A leader keeps what it is sending: so long it takes to give up on a peer that says nothing.
const GIVEN_UP: Duration = Duration::from_secs(8);

/// Writes until the log has been cut several times over; the last revision.
async fn outrun(client: &Client, name: &str, lasts: Duration) -> Result<i64> {
    let begun = Instant::now();
    let mut last = 0;
    for number in 0.. {
        let key = format!("{name}/{:03}", number % 200);
        // More than one page of history, and more than one message of a snapshot.
        let txn = client.txn().then(Op::put(key, vec![b'v'; 1000]));
        match txn.then(Op::put(format!("{name}/last"), format!("{number}"))).commit().await {
            Ok(done) => last = done.revision,
            Err(error) if error.fate_unknown() => {}
            Err(error) => return Err(error.into()),
        }
        if number >= 300 && begun.elapsed() > lasts {
            break;
        }
    }
    Ok(last)
}

fn snapshots(cluster: &Cluster, place: usize) -> Result<usize> {
    let log = std::fs::read_to_string(cluster.log(place))?;
    Ok(log.lines().filter(|line| line.contains("installing a snapshot")).count())
}

/// A watch on the follower goes on where it was: it is told neither the past again nor less than
/// everything, and one from a revision that is still to come nothing older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_15271_a_watch_does_not_travel_back_over_a_snapshot() -> Result<()> {
    let cluster = forgetful().await?;
    for round in 0..if testkit::soak() { 20 } else { 2 } {
        let follower = (cluster.leader().await? + 1) % 3;
        let rest = cluster.client_of_others(follower)?;
        let first = rest.put("w/first", "x").await?;
        caught_up(&cluster.client_of(follower)?, first).await?;
        let mut stream = Stream::open(cluster.channel(follower)?).await?;
        let live = stream.create(prefix("w/", first)).await?;
        let begun = stream.next().await?;
        ensure!(revisions(&begun) == [first], "{begun:?}");
        let future = stream.create(prefix("w/", first + 100)).await?;

        let before = snapshots(&cluster, follower)?;
        let mut last = first;
        // Whether the log was cut far enough is seen only afterwards.
        for _ in 0..5 {
            cluster.links().isolate(follower, 3);
            serves_again(&rest).await?;
            last = outrun(&rest, "w", GIVEN_UP).await?;
            cluster.links().heal();
            caught_up(&cluster.client_of(follower)?, last).await?;
            if snapshots(&cluster, follower)? > before {
                break;
            }
        }
        ensure!(snapshots(&cluster, follower)? > before, "it caught up without a snapshot");
        // All after the first: keys of w/ only, but for what asked whether the cluster serves.
        let (mut by_live, mut by_future) = (first, first + 99);
        while by_live < last || by_future < last {
            let answer = stream.next().await?;
            ensure!(!answer.canceled, "{answer:?}");
            for revision in revisions(&answer) {
                let at = if answer.watch_id == live { &mut by_live } else { &mut by_future };
                ensure!(answer.watch_id == live || answer.watch_id == future);
                ensure!(revision >= *at, "watch {}: {revision} after {at}", answer.watch_id);
                *at = revision;
            }
        }
        let truth = history(&cluster, (follower + 1) % 3, first, last).await?;
        let told = history(&cluster, follower, first, last).await?;
        ensure!(truth == told, "members tell the past unlike");
        println!("round {round}: {} events from {first} to {last}", truth.len());
    }
    same_everywhere(&cluster, "w/").await
}

/// Revision and value length of everything under `w/`, by one member.
async fn history(cluster: &Cluster, place: usize, from: i64, to: i64) -> Result<Vec<(i64, usize)>> {
    let mut stream = Stream::open(cluster.channel(place)?).await?;
    stream.create(prefix("w/", from)).await?;
    let mut all = Vec::new();
    while all.last().is_none_or(|(revision, _)| *revision < to) {
        for event in stream.next().await?.events {
            let Some(kv) = event.kv else { continue };
            all.push((kv.mod_revision, kv.value.len()));
        }
    }
    all.retain(|(revision, _)| *revision <= to);
    Ok(all)
}

/// The same, exactly as it was told while it happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_18055_two_snapshots_in_quick_succession() -> Result<()> {
    let mut cluster = forgetful().await?;
    let follower = (cluster.leader().await? + 1) % 3;
    let rest = cluster.client_of_others(follower)?;
    for round in 0..if testkit::soak() { 20 } else { 2 } {
        let before = snapshots(&cluster, follower)?;
        cluster.kill(follower);
        serves_again(&rest).await?;
        outrun(&rest, "s", PERSISTED).await?;
        cluster.spawn(follower)?;
        testkit::eventually("a first snapshot", LONG, || async {
            ensure!(snapshots(&cluster, follower)? > before);
            Ok(())
        })
        .await?;
        // In the midst of it, or right after: it falls behind again at once.
        cluster.links().isolate(follower, 3);
        let last = outrun(&rest, "s", GIVEN_UP).await?;
        cluster.links().heal();
        caught_up(&cluster.client_of(follower)?, last).await?;
        cluster.ready(follower).await?;
        let count = snapshots(&cluster, follower)? - before;
        println!("round {round}: {count} snapshots");
        // Killed right after: what it installed is what it opens with.
        cluster.kill(follower);
        cluster.spawn(follower)?;
        cluster.ready(follower).await?;
        same_everywhere(&cluster, "s/").await?;
    }
    ensure!(snapshots(&cluster, follower)? >= 3, "snapshots never came two at a time");
    Ok(())
}
