//! More data than memory: etcd keeps its whole file mapped and stops at 8 GB.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::RangeRequest;
use chainfire_client::Client;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use testkit::{Cluster, Options};

const VALUE: usize = 64 << 10;
const PUTTERS: u64 = 8;
/// Keys that are read and compared.
const LOOKS: u64 = 5000;

fn key(number: u64) -> String {
    format!("large/{number:012}")
}

/// Bytes that no compression makes smaller, known by their key.
fn value(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; VALUE];
    SmallRng::seed_from_u64(number).fill_bytes(&mut bytes);
    bytes
}

/// The most memory that the member has had since it was started, in bytes.
fn peak(cluster: &mut Cluster) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.process(0)?.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

async fn fill(client: &Client, cluster: &mut Cluster, keys: u64) -> Result<()> {
    let begun = Instant::now();
    let step = keys.div_ceil(20);
    for from in (0..keys).step_by(step as usize) {
        let until = (from + step).min(keys);
        let putters = (0..PUTTERS).map(|putter| async move {
            for number in (from + putter..until).step_by(PUTTERS as usize) {
                client.put(key(number), value(number)).await?;
            }
            anyhow::Ok(())
        });
        futures::future::try_join_all(putters).await?;
        let (data, took) = (until * VALUE as u64, begun.elapsed().as_secs_f64());
        println!(
            "{} MiB put in {took:.0} s ({:.0} MiB/s), at most {} MiB resident",
            mib(data),
            mib(data) as f64 / took,
            mib(peak(cluster)?)
        );
    }
    Ok(())
}

/// Keys here and there hold what was put, and none is missing.
async fn look(client: &Client, keys: u64) -> Result<()> {
    let all = RangeRequest {
        key: "large/".into(),
        range_end: "large0".into(),
        count_only: true,
        ..RangeRequest::default()
    };
    let counted = client.range(all).await?.count;
    ensure!(counted == keys as i64, "{counted} of {keys} keys");
    let (mut dice, begun) = (SmallRng::seed_from_u64(1), Instant::now());
    for _ in 0..LOOKS {
        let number = dice.random_range(0..keys);
        let found = client.get(key(number)).await?.context(key(number))?;
        ensure!(found.value == value(number)[..], "{} is not what was put", key(number));
    }
    println!("{LOOKS} keys read and right, {:?} each", begun.elapsed() / LOOKS as u32);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "long, 50 GB of disk: cargo build --release -p chainfire, then \
            PLASMA_BIN_CHAINFIRE=…/release/chainfire cargo test -p chainfire --test operating -- \
            --ignored --nocapture more_data; PLASMA_LARGE_GB=5 for less, with as much less memory"]
async fn more_data_than_memory() -> Result<()> {
    let gigabytes = match std::env::var("PLASMA_LARGE_GB") {
        Ok(text) => text.parse::<u64>().context("PLASMA_LARGE_GB")?,
        Err(_) => 20,
    };
    let data = gigabytes * 1_000_000_000;
    // 2 GiB for 20 GB
    let memory = gigabytes * (2 << 30) / 20;
    let keys = data / VALUE as u64;
    let set = vec!["storage.quota_bytes=0".to_owned()];
    let options = Options { members: 1, tls: false, set, ..Options::default() };
    let mut cluster = Cluster::start_with(options).await?;
    let client = cluster.client()?;
    fill(&client, &mut cluster, keys).await?;
    look(&client, keys).await?;
    let before = peak(&mut cluster)?;

    cluster.kill(0);
    cluster.spawn(0)?;
    let begun = Instant::now();
    cluster.ready(0).await?;
    println!("ready {:?} after a kill", begun.elapsed());
    look(&client, keys).await?;
    let after = peak(&mut cluster)?;
    println!("at most {} MiB resident before the kill, {} MiB after", mib(before), mib(after));
    ensure!(before.max(after) < memory, "that is more than {} MiB", mib(memory));
    Ok(())
}
