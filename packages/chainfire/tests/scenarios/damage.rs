//! Pages that were damaged on the disk.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use chainfire_client::Error;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use testkit::workload::{same_everywhere, serves_again};
use testkit::{Cluster, Options};
use tonic::Code;

use super::LONG;

fn value(number: usize) -> Vec<u8> {
    // Values that do not compress.
    let mut value = vec![0; 8 << 10];
    SmallRng::seed_from_u64(number as u64).fill_bytes(&mut value);
    value
}

/// The engine's tables that hold blocks: all files under it of some size.
fn tables(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.join("engine").join("tables")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.metadata()))?;
            match kind? {
                kind if kind.is_dir() => folders.push(path),
                // Write-ahead files are no tables.
                kind if kind.len() > 1 << 20 && !path.to_string_lossy().ends_with(".jnl") => {
                    found.push(path);
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// A follower's tables are damaged while it runs: what it cannot read it refuses to answer, with the
/// engine's reason, and never is anything else answered than what was written. It comes back whole by
/// joining anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_20271_a_damaged_page_is_never_an_answer() -> Result<()> {
    const KEYS: usize = 4000;
    let mut cluster = Cluster::start_with(Options {
        set: vec!["storage.cache_bytes=65536".into(), "storage.persist_seconds=1".into()],
        ..Options::default()
    })
    .await?;
    cluster.expect_error("");
    let client = cluster.client()?;
    for begin in (0..KEYS).step_by(50) {
        let puts = (begin..begin + 50).map(|n| client.put(format!("k/{n:05}"), value(n)));
        for put in futures::future::join_all(puts).await {
            put?;
        }
    }
    let follower = (cluster.leader().await? + 1) % 3;
    let dir = cluster.data(follower).to_owned();
    testkit::eventually("tables on the disk", LONG, || async {
        ensure!(tables(&dir)?.len() > 1);
        Ok(())
    })
    .await?;
    let mut random = SmallRng::seed_from_u64(20271);
    let mut hits = 0;
    for path in tables(&dir)? {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        // One byte in each 64 KiB: most blocks stay whole.
        for at in (0..file.metadata()?.len()).step_by(64 << 10) {
            let place = at + random.random_range(0..(8 << 10));
            let mut byte = [0];
            if file.read_exact_at(&mut byte, place).is_ok() {
                file.write_all_at(&[byte[0] ^ 0x41], place)?;
                hits += 1;
            }
        }
    }
    ensure!(hits > 50, "{hits} bytes changed");
    // It asks again until its deadline what is refused for a reason that may pass.
    let short = chainfire_client::Options {
        deadline: Duration::from_millis(300),
        ..chainfire_client::Options::default()
    };
    let member = cluster.client_with([follower], short)?;
    let (mut right, mut refused) = (0, 0);
    for number in (0..KEYS).step_by(8) {
        match member.get_serializable(format!("k/{number:05}")).await {
            Ok(Some(kv)) => {
                ensure!(kv.value == value(number), "{number} is answered as something else");
                right += 1;
            }
            Ok(None) => anyhow::bail!("{number} is answered as missing"),
            Err(Error::Refused { status: Code::Internal, message, .. }) => {
                ensure!(message.contains("storage engine"), "{message}");
                refused += 1;
            }
            Err(Error::Unreachable { .. }) => refused += 1,
            Err(error) => anyhow::bail!("{number} is answered with {error:?}"),
        }
    }
    println!("{hits} bytes changed: {right} right answers, {refused} refused");
    ensure!(refused > 0, "no damaged block was read");
    ensure!(!fs::read_to_string(cluster.log(follower))?.contains("panicked"));

    // The others go on, and it comes back by joining anew.
    serves_again(&cluster.client_of_others(follower)?).await?;
    cluster.kill(follower);
    cluster.wipe(follower)?;
    cluster.join_again(follower)?;
    cluster.spawn(follower)?;
    cluster.ready(follower).await?;
    cluster.all_vote().await?;
    same_everywhere(&cluster, "k/").await
}
