//! The tools themselves, tried on a store that is known to be right: etcd under pauses, partitions
//! and kills passes, and the faults really strike.

#![expect(clippy::print_stdout, reason = "measured figures are part of a test's result")]

use anyhow::{Result, ensure};
use chainfire_client::{Client, Options};
use std::time::Duration;
use testkit::etcd::{self, Etcd};
use testkit::workload::{Registers, Watchers, Writers, serves_again};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_passes() -> Result<()> {
    if etcd::installed().is_none() {
        println!("skipped: etcd is not installed (package etcd-server)");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut etcd = Etcd::start_behind_links(3, dir.path()).await?;
    let short = Options {
        deadline: Duration::from_secs(2),
        read_attempt: Duration::from_secs(1),
        ..Options::default()
    };
    let pinned =
        |place: usize| Client::connect_with([etcd.endpoints()[place].clone()], None, short.clone());
    let pinned = [pinned(0)?, pinned(1)?, pinned(2)?];
    let client = etcd.client()?;
    let watchers = Watchers::start(&[client.clone(), etcd.client()?], "r/").await?;
    let mut writers = Writers::start(vec![client.clone()], "w/");
    let registers = Registers::start(pinned.iter().chain([&client]).cloned().collect(), "r/", 3, 1);

    for (place, alone) in pinned.iter().enumerate() {
        etcd.links().isolate(place, 3);
        testkit::eventually("it knows that it is alone", Duration::from_secs(30), || async {
            ensure!(alone.get("x").await.is_err());
            Ok(())
        })
        .await?;
        serves_again(&client).await?;
        etcd.links().heal();
        testkit::eventually("it is back", Duration::from_secs(30), || async {
            Ok(alone.get("x").await.map(|_| ())?)
        })
        .await?;
    }
    if let Some(process) = etcd.process(0) {
        process.pause()?;
    }
    serves_again(&pinned[1]).await?;
    if let Some(process) = etcd.process(0) {
        process.resume()?;
    }
    etcd.kill(1);
    serves_again(&client).await?;
    etcd.restart(1)?;
    etcd.serving(Duration::from_secs(30)).await?;

    writers.stop().await?;
    let acked = writers.verify(&client, "w/").await?;
    let (operations, unknown) = registers.verify().await?;
    let revisions = watchers.verify(&client).await?;
    println!(
        "{acked} writes there, {operations} operations ({unknown} without answer) linearizable, {revisions} revisions watched exactly"
    );
    ensure!(operations > 200, "too little happened to say anything: {operations} operations");
    Ok(())
}
