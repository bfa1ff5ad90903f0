//! Watches: what is told, from when, in which words a watch ends.

use anyhow::{Context, Result, ensure};
use etcd_client::{
    DeleteOptions, EventType, WatchFilterType, WatchOptions, WatchResponse, WatchStream,
};
use etcd_client_tests::{PATIENCE, World};
use tokio::time::timeout;

async fn next(stream: &mut WatchStream) -> Result<WatchResponse> {
    timeout(PATIENCE, stream.message()).await?.map(|told| told.context("the stream ended"))?
}

#[tokio::test]
async fn events_come_in_order_and_a_watch_is_cancelled() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let first = client.put("w/0", "0", None).await?.header().context("no header")?.revision();
    let from = WatchOptions::new().with_prefix().with_start_revision(first).with_prev_key();
    let mut stream = client.watch("w/", Some(from)).await?;
    let created = next(&mut stream).await?;
    ensure!(created.created() && !created.canceled());
    client.put("w/0", "1", None).await?;
    client.delete("w/", Some(DeleteOptions::new().with_prefix())).await?;
    let mut events = Vec::new();
    while events.len() < 3 {
        let told = next(&mut stream).await?;
        ensure!(told.watch_id() == created.watch_id());
        events.extend(told.events().iter().cloned());
    }
    let kinds: Vec<EventType> = events.iter().map(|event| event.event_type()).collect();
    ensure!(kinds == [EventType::Put, EventType::Put, EventType::Delete]);
    let revisions = events.iter().filter_map(|event| Some(event.kv()?.mod_revision()));
    ensure!(revisions.eq(first..first + 3));
    ensure!(events[0].prev_kv().is_none());
    ensure!(events[2].prev_kv().context("no previous")?.value() == b"1");

    stream.cancel(created.watch_id()).await?;
    let ended = next(&mut stream).await?;
    ensure!(ended.canceled() && ended.watch_id() == created.watch_id(), "{ended:?}");
    Ok(())
}

/// Several on one stream, with ids and filters of their own, and the progress of all.
#[tokio::test]
async fn one_stream_carries_many() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let puts = WatchOptions::new().with_watch_id(7).with_filters([WatchFilterType::NoDelete]);
    let mut stream = client.watch("m", Some(puts)).await?;
    ensure!(next(&mut stream).await?.watch_id() == 7);
    let deletions = WatchOptions::new().with_watch_id(8).with_filters([WatchFilterType::NoPut]);
    stream.watch("m", Some(deletions.with_fragment())).await?;
    let created = next(&mut stream).await?;
    ensure!(created.created() && created.watch_id() == 8);
    // an id that is taken is refused, and the stream lives
    stream.watch("m", Some(WatchOptions::new().with_watch_id(8))).await?;
    let twice = next(&mut stream).await?;
    ensure!(twice.canceled() && !twice.cancel_reason().is_empty(), "{twice:?}");

    client.put("m", "1", None).await?;
    let told = next(&mut stream).await?;
    ensure!(told.watch_id() == 7 && told.events()[0].event_type() == EventType::Put);
    let gone = client.delete("m", None).await?;
    let told = next(&mut stream).await?;
    ensure!(told.watch_id() == 8 && told.events()[0].event_type() == EventType::Delete);

    // -1 says that it is true of all watches of the stream
    let revision = gone.header().context("no header")?.revision();
    stream.request_progress().await?;
    let progress = next(&mut stream).await?;
    ensure!(progress.events().is_empty() && progress.watch_id() == -1, "{progress:?}");
    ensure!(progress.header().context("no header")?.revision() == revision);

    let (mut ask, mut told) = stream.split();
    ask.cancel(8).await?;
    let ended = timeout(PATIENCE, told.message()).await??.context("the stream ended")?;
    ensure!(ended.canceled() && ended.watch_id() == 8);
    Ok(())
}

#[tokio::test]
async fn a_compacted_start_is_told() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    for _ in 0..5 {
        client.put("c", "x", None).await?;
    }
    client.compact(4, None).await?;
    let mut stream = client.watch("c", Some(WatchOptions::new().with_start_revision(2))).await?;
    let mut told = next(&mut stream).await?;
    if told.created() && !told.canceled() {
        told = next(&mut stream).await?;
    }
    ensure!(told.canceled() && told.compact_revision() == 4, "{told:?}");
    Ok(())
}
