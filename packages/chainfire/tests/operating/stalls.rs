//! What puts feel of work in the background. Nothing is asserted about time: ratios are printed.

use super::{done, text};
use anyhow::{Context, Result};
use chainfire_client::{Client, Op};
use std::time::{Duration, Instant};
use testkit::net::http_get;
use testkit::{Cluster, Options, eventually};
use tokio_util::sync::CancellationToken;

const KEYS: usize = 200_000;
const CLIENTS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(600);

/// Puts by 16 clients while something else happens: how long each took, sorted.
async fn puts_during<T>(
    client: &Client,
    work: impl Future<Output = Result<T>>,
) -> Result<Vec<Duration>> {
    let stop = CancellationToken::new();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (client, stop) = (client.clone(), stop.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !stop.is_cancelled() {
                    let begun = Instant::now();
                    if client.put(format!("put/{number}"), vec![b'x'; 256]).await.is_ok() {
                        took.push(begun.elapsed());
                    }
                }
                took
            })
        })
        .collect();
    let worked = work.await;
    stop.cancel();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await?);
    }
    worked?;
    all.sort_unstable();
    Ok(all)
}

fn say(what: &str, took: &[Duration], base: Option<&[Duration]>) -> Result<()> {
    let at = |took: &[Duration], part: f64| {
        let place = (took.len() as f64 * part) as usize;
        took.get(place.min(took.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64) * 1e3
    };
    let (p50, p99) = (at(took, 0.5), at(took, 0.99));
    let max = took.last().context("no put")?.as_secs_f64() * 1e3;
    let ratio = base.map_or(String::new(), |base| format!(", p99 × {:.2}", p99 / at(base, 0.99)));
    println!(
        "{what}: {} puts, p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.1} ms{ratio}",
        took.len()
    );
    Ok(())
}

async fn rest(seconds: u64) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    Ok(())
}

/// Every key once, a hundred to a transaction.
async fn fill(client: &Client, round: usize) -> Result<()> {
    let batches: Vec<usize> = (0..KEYS).step_by(100).collect();
    for wave in batches.chunks(16) {
        let wave = wave.iter().map(|first| {
            let ops = (*first..first + 100)
                .map(|n| Op::put(format!("key/{n:08}"), format!("{round}/{n}/").repeat(20)));
            ops.fold(client.txn(), |txn, op| txn.then(op)).commit()
        });
        futures::future::try_join_all(wave).await?;
    }
    Ok(())
}

async fn figure(cluster: &Cluster, place: usize, name: &str) -> Result<f64> {
    let [.., ops] = cluster.listeners(place);
    let (_, text) = http_get(ops, "/metrics", Duration::from_secs(10)).await?;
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    Ok(line.and_then(|line| line.rsplit(' ').next()).context(name.to_owned())?.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "long: cargo build --release -p chainfire, then PLASMA_BIN_CHAINFIRE=…/release/chainfire \
            cargo test -p chainfire --test operating -- --ignored --nocapture stalls"]
async fn stalls_of_backup_compaction_and_snapshot() -> Result<()> {
    let options = Options { members: 1, tls: false, ..Options::default() };
    let mut cluster = Cluster::start_with(options).await?;
    let client = cluster.client()?;
    for round in 0..3 {
        fill(&client, round).await?;
    }
    rest(10).await?;
    let base = puts_during(&client, rest(15)).await?;
    say("nothing else", &base, None)?;

    let (folder, settings) = (cluster.folder(0).to_owned(), cluster.settings(0));
    let backups = async {
        let begun = Instant::now();
        for n in 0.. {
            let file = folder.join(format!("{n}.backup"));
            done(&["backup", "save", "--config", text(&settings), text(&file)]).await?;
            std::fs::remove_file(&file)?;
            if begun.elapsed() > Duration::from_secs(15) {
                println!("{} backups", n + 1);
                break;
            }
        }
        Ok(())
    };
    let took = puts_during(&client, backups).await?;
    say("backups, one after the other", &took, Some(&base))?;

    let compaction = async {
        let revision = client.revision().await?;
        let begun = Instant::now();
        client.compact(revision).await?;
        eventually("the space is given back", PATIENCE, || async {
            let removed = figure(&cluster, 0, "chainfire_removed_revision").await?;
            anyhow::ensure!(removed >= revision as f64);
            Ok(())
        })
        .await?;
        println!("compaction of {KEYS} keys with 3 versions: {:?}", begun.elapsed());
        rest(5).await
    };
    let took = puts_during(&client, compaction).await?;
    say("compaction", &took, Some(&base))?;

    let place = cluster.configure().await?;
    cluster.spawn(place)?;
    let snapshot = async {
        let begun = Instant::now();
        cluster.ready(place).await?;
        println!("a new member was ready after {:?}", begun.elapsed());
        Ok(())
    };
    let took = puts_during(&client, snapshot).await?;
    say("a new member gets its snapshot", &took, Some(&base))?;
    let two = puts_during(&client, rest(10)).await?;
    say("two members, nothing else", &two, Some(&base))?;
    Ok(())
}
