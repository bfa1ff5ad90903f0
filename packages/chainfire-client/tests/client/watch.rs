//! Watches: exact over everything that can happen to a connection.

use crate::world::{World, scenario};
use anyhow::{Result, bail};
use chainfire_client::{Changes, Client, Error, EventKind, Op, Watch, Watcher};
use std::time::Duration;
use testkit::watched::{self, Change, Revision};
use tokio::time::timeout;

fn plain(changes: Changes) -> Revision {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let events = changes.events.into_iter().map(|event| Change {
        key: text(&event.kv.key),
        value: (event.kind == EventKind::Put).then(|| text(&event.kv.value)),
    });
    (changes.revision, events.collect())
}

/// Reads until a revision has come.
async fn until(watcher: &mut Watcher, revision: i64) -> Result<Vec<Revision>> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(last, _)| *last < revision) {
        match timeout(Duration::from_secs(60), watcher.next()).await {
            Ok(changes) => seen.push(plain(changes?)),
            Err(_) => bail!("revision {revision} never came; last {:?}", seen.last()),
        }
    }
    Ok(seen)
}

/// Everything that happened to these keys.
async fn truth(client: &Client, to: i64) -> Result<Vec<Revision>> {
    until(&mut client.watch(Watch::prefix("w/").from(1)).await?, to).await
}

scenario!(history_and_news_come_in_order, 1);
async fn history_and_news_come_in_order(world: World) -> Result<()> {
    let client = world.client()?;
    let first = client.put("w/a", "1").await?;
    client.put("other", "x").await?;
    let mut live = client.watch(Watch::prefix("w/")).await?;
    let mut all = client.watch(Watch::prefix("w/").from(first)).await?;
    client.txn().then(Op::put("w/b", "2")).then(Op::put("w/c", "3")).commit().await?;
    client.put("w/a", "4").await?;
    let last = client.delete("w/a").await?.revision;

    let truth = truth(&client, last).await?;
    assert_eq!(truth.len(), 4);
    assert_eq!(truth[1].1.len(), 2, "a transaction's changes come together");
    let from = live.from();
    watched::check(&truth, &until(&mut live, last).await?, from, last)?;
    watched::check(&truth, &until(&mut all, last).await?, first, last)?;

    let mut one = client.watch(Watch::key("w/a").from(first).prev_kv().no_puts()).await?;
    let changes = timeout(Duration::from_secs(10), one.next()).await??;
    assert_eq!(changes.revision, last);
    assert_eq!(changes.events[0].prev.as_ref().map(|kv| &kv.value[..]), Some(&b"4"[..]));
    Ok(())
}

scenario!(a_compacted_start_is_told, 1);
async fn a_compacted_start_is_told(world: World) -> Result<()> {
    let client = world.client()?;
    for number in 0..10 {
        client.put("w/k", format!("{number}")).await?;
    }
    let now = client.revision().await?;
    client.compact(now - 2).await?;
    let mut watcher = client.watch(Watch::key("w/k").from(2)).await?;
    match timeout(Duration::from_secs(10), watcher.next()).await? {
        Err(Error::Compacted { compacted }) => assert_eq!(compacted, now - 2),
        other => panic!("{other:?}"),
    }
    assert!(matches!(watcher.next().await, Err(Error::Closed)));
    Ok(())
}

scenario!(watches_outlive_members, 3);
async fn watches_outlive_members(mut world: World) -> Result<()> {
    let client = world.client()?;
    client.put("w/begin", "0").await?;
    let mut watchers = Vec::new();
    for place in 0..3 {
        // Each begins on another member.
        let mut endpoints = world.endpoints();
        endpoints.rotate_left(place);
        let client = Client::connect(endpoints, world.tls()?)?;
        watchers.push(client.watch(Watch::prefix("w/")).await?);
    }
    let writer = tokio::spawn({
        let client = world.client()?;
        async move {
            for number in 0..400 {
                // Whatever came of it, the watchers must agree with the history.
                let _ = client.put(format!("w/{}", number % 7), format!("{number}")).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    for place in 0..3 {
        world.kill(place);
        world.serving().await?;
        world.restart(place)?;
        world.serving().await?;
    }
    world.pause(0)?;
    world.serving().await?;
    writer.await?;
    world.resume(0)?;
    // A member that has just come back may lose an answer; writing it again does no harm.
    let last = testkit::eventually("a last write", Duration::from_secs(60), || async {
        Ok(client.put("w/end", "end").await?)
    })
    .await?;
    let truth = truth(&client, last).await?;
    for mut watcher in watchers {
        let from = watcher.from();
        let seen = until(&mut watcher, last).await?;
        watched::check(&truth, &seen, from, last)?;
    }
    Ok(())
}
