//! Elections: one leader, a growing token, and no write from a deposed one.

use crate::world::{World, scenario};
use anyhow::Result;
use chainfire_client::Error;
use std::time::Duration;
use tokio::time::timeout;

const TTL: Duration = Duration::from_secs(5);

scenario!(leaders_follow_each_other, 3);
async fn leaders_follow_each_other(world: World) -> Result<()> {
    let client = world.client()?;
    assert!(client.leader("e").await?.is_none());
    let first = client.campaign("e", "first", TTL).await?;
    assert_eq!(client.leader("e").await?.expect("leads").value, "first");

    let second = tokio::spawn({
        let client = world.client()?;
        async move { client.campaign("e", "second", TTL).await }
    });
    // The second stands, and waits.
    testkit::eventually("two candidates", Duration::from_secs(10), || async {
        anyhow::ensure!(client.prefix("e/").await?.kvs.len() == 2);
        Ok(())
    })
    .await?;
    assert_eq!(client.leader("e").await?.expect("leads").value, "first");
    assert!(!second.is_finished());

    first.put("owned", "by first").await?;
    let token = first.token();
    first.resign().await?;
    let second = timeout(Duration::from_secs(20), second).await???;
    assert!(second.token() > token);
    second.put("owned", "by second").await?;
    second.proclaim("second, busy").await?;
    assert_eq!(client.leader("e").await?.expect("leads").value, "second, busy");
    Ok(())
}

scenario!(a_deposed_leader_cannot_write, 1);
async fn a_deposed_leader_cannot_write(world: World) -> Result<()> {
    let client = world.client()?;
    let old = client.campaign("e", "old", TTL).await?;
    client.revoke(old.lease().id()).await?;
    let new = client.campaign("e", "new", TTL).await?;
    new.put("owned", "by new").await?;
    // It does not know yet, and cannot write all the same.
    let error = old.put("owned", "by old").await.expect_err("deposed");
    assert!(matches!(error, Error::Deposed { .. } | Error::Unsafe { .. }), "{error}");
    assert_eq!(client.get("owned").await?.expect("written").value, "by new");
    timeout(Duration::from_secs(20), old.lost()).await?;
    Ok(())
}
