//! Many watches, slow readers, busy connections: none loses events, none starves, memory is bounded.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{RangeRequest, WatchCreateRequest};
use chainfire_client::prefix_end;
use testkit::Cluster;
use tokio_util::sync::CancellationToken;

use super::stream::{Stream, prefix};

/// Hundreds of watches with prev_kv on one stream, and a reader that stands still until its queue is
/// long lost: every watch gets every event, each with the pair before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_17529_no_watch_of_hundreds_on_a_slow_stream_loses_events() -> Result<()> {
    const WATCHES: i64 = 200;
    let writes = if testkit::soak() { 20_000 } else { 600 };
    let cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    let first = client.put("w/key", vec![b'0'; 4096]).await? + 1;
    let mut stream = Stream::open(cluster.channel(0)?).await?;
    for number in 1..=WATCHES {
        let create = WatchCreateRequest { watch_id: number, prev_kv: true, ..prefix("w/", 0) };
        stream.ask(RequestUnion::CreateRequest(create))?;
    }
    for _ in 0..WATCHES {
        ensure!(stream.next().await?.created);
    }
    // Nobody reads.
    let mut last = 0;
    for number in 0..writes {
        last = client.put("w/key", format!("{number}{}", "x".repeat(4096))).await?;
    }
    let mut next: HashMap<i64, i64> = (1..=WATCHES).map(|id| (id, first)).collect();
    let mut unfinished = WATCHES;
    while unfinished > 0 {
        let answer = stream.next().await?;
        ensure!(!answer.canceled, "{answer:?}");
        let next = next.get_mut(&answer.watch_id).context("a watch of ours")?;
        for event in answer.events {
            let (kv, prev) = (event.kv.context("kv")?, event.prev_kv.context("prev_kv")?);
            ensure!(kv.mod_revision == *next, "watch {}: {kv:?}", answer.watch_id);
            ensure!(prev.mod_revision == *next - 1, "watch {}: {prev:?}", answer.watch_id);
            *next += 1;
            unfinished -= i64::from(kv.mod_revision == last);
        }
    }
    println!("{} events on one stream", (last - first + 1) * WATCHES);
    Ok(())
}

/// Streams that nobody reads cost their queues' bound, not what is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_16839_streams_that_are_not_read_take_no_memory() -> Result<()> {
    const STREAMS: usize = 40;
    const WATCHES: usize = 20;
    let mut cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    client.put("w/key", "x").await?;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        // Each on a connection of its own: it is not read either.
        let mut stream = Stream::open(cluster.channel(0)?).await?;
        for _ in 0..WATCHES {
            stream.create(WatchCreateRequest { prev_kv: true, ..prefix("w/", 0) }).await?;
        }
        streams.push(stream);
    }
    let before = cluster.process(0)?.resident()?;
    let mut written = 0;
    let value = vec![b'x'; 32 << 10];
    for number in 0..50 {
        let puts = (0..20).map(|slot| client.put(format!("w/{number}/{slot}"), value.clone()));
        for put in futures::future::join_all(puts).await {
            put?;
            written += value.len() as u64;
        }
    }
    let grown = cluster.process(0)?.resident()?.saturating_sub(before);
    let copies = written * (STREAMS * WATCHES) as u64;
    println!(
        "{} MiB written, {} watches: {} MiB more memory (a copy for each: {} MiB)",
        written >> 20,
        STREAMS * WATCHES,
        grown >> 20,
        copies >> 20
    );
    // Engine and caches have their share in it; a copy for each stream alone would be 1.2 GiB.
    ensure!(grown < 512 << 20, "{} MiB more memory", grown >> 20);
    // Who reads at last gets all of it.
    let mut stream = streams.pop().context("streams")?;
    let mut left = 1000 * WATCHES;
    while left > 0 {
        left -= stream.next().await?.events.len();
    }
    Ok(())
}

/// Large answers on the same connection, one after the other without a pause: the watch beside them
/// gets its events while they go on, not when they are over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_15402_reads_on_the_same_connection_do_not_starve_a_watch() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    for number in 0..64 {
        client.put(format!("large/{number}"), vec![b'x'; 32 << 10]).await?;
    }
    let shared = cluster.channel(0)?;
    let mut stream = Stream::open(shared.clone()).await?;
    stream.create(prefix("w/", 0)).await?;
    let stop = CancellationToken::new();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (shared, stop) = (shared.clone(), stop.clone());
            tokio::spawn(async move {
                let mut kv = KvClient::new(shared).max_decoding_message_size(64 << 20);
                let mut reads = 0;
                while !stop.is_cancelled() {
                    let range = RangeRequest {
                        key: "large/".into(),
                        range_end: prefix_end(b"large/"),
                        ..RangeRequest::default()
                    };
                    kv.range(range).await?;
                    reads += 1;
                }
                anyhow::Ok(reads)
            })
        })
        .collect();
    let events = if testkit::soak() { 5000 } else { 200 };
    let writer = tokio::spawn(async move {
        for number in 0..events {
            client.put(format!("w/{number}"), "x").await?;
            tokio::time::sleep(Duration::from_millis(2)).await; // events come while it reads, not at once
        }
        anyhow::Ok(())
    });
    let mut left = events;
    while left > 0 {
        left -= stream.next().await?.events.len();
    }
    writer.await??;
    stop.cancel();
    let mut reads = 0;
    for reader in readers {
        reads += reader.await??;
    }
    println!("{events} events beside {reads} reads of 2 MiB each");
    ensure!(reads > 0);
    Ok(())
}
