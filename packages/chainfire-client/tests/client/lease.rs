//! Leases: kept, lost, given up.

use crate::world::{World, scenario};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const TTL: Duration = Duration::from_secs(2);

scenario!(a_lease_is_kept_and_given_up, 1);
async fn a_lease_is_kept_and_given_up(world: World) -> Result<()> {
    let client = world.client()?;
    let lease = client.lease(TTL).await?;
    client.put_with_lease("l/kept", "x", lease.id()).await?;
    // Longer than it would live by itself; ending early is what would be wrong.
    let early = timeout(lease.ttl() * 2, lease.lost()).await;
    assert!(early.is_err(), "lost although it was kept alive");
    assert!(client.get("l/kept").await?.is_some());
    assert!(client.lease_remaining(lease.id()).await?.is_some());

    let id = lease.id();
    lease.revoke().await?;
    assert!(client.get("l/kept").await?.is_none());
    assert_eq!(client.lease_remaining(id).await?, None);
    client.revoke(id).await?; // again is no error
    Ok(())
}

scenario!(a_revoked_lease_is_told, 1);
async fn a_revoked_lease_is_told(world: World) -> Result<()> {
    let client = world.client()?;
    let lease = client.lease(TTL).await?;
    client.revoke(lease.id()).await?;
    timeout(Duration::from_secs(20), lease.lost()).await?;
    assert!(lease.is_lost());
    Ok(())
}

scenario!(a_silent_cluster_loses_leases_in_time, 1);
async fn a_silent_cluster_loses_leases_in_time(mut world: World) -> Result<()> {
    let client = world.client()?;
    let lease = client.lease(TTL).await?;
    let begun = Instant::now();
    world.pause(0)?;
    timeout(Duration::from_secs(20), lease.lost()).await?;
    assert!(lease.remaining().is_zero());
    // The server cannot have counted less than this from the last keep-alive it heard.
    assert!(begun.elapsed() <= lease.ttl() + Duration::from_millis(500), "told too late");
    world.resume(0)?;
    Ok(())
}

scenario!(a_dropped_lease_goes_soon, 1);
async fn a_dropped_lease_goes_soon(world: World) -> Result<()> {
    let client = world.client()?;
    let lease = client.lease(Duration::from_secs(600)).await?;
    client.put_with_lease("l/dropped", "x", lease.id()).await?;
    drop(lease);
    testkit::eventually("the key is gone", Duration::from_secs(10), || async {
        ensure!(client.get("l/dropped").await?.is_none());
        Ok(())
    })
    .await
}
