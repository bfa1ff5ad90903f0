//! Clean stops, and leases over the death of leaders. kill -9 under load is in `tests/scenarios`.

use anyhow::{Result, ensure};
use std::time::Duration;
use testkit::Cluster;
use testkit::workload::{kill_and_restart, serves_again};

#[tokio::test]
async fn a_stop_is_clean() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let leader = cluster.leader().await?;
    let revision = client.put("k", "v").await?;
    cluster.terminate(leader).await?;
    serves_again(&cluster.quick_client()?).await?;
    cluster.spawn(leader)?;
    cluster.ready(leader).await?;
    for place in 0..3 {
        cluster.terminate(place).await?;
    }
    for place in 0..3 {
        cluster.spawn(place)?;
    }
    for place in 0..3 {
        cluster.ready(place).await?;
    }
    let kv = client.get("k").await?.expect("was acknowledged");
    assert_eq!((&kv.value[..], kv.mod_revision), (&b"v"[..], revision));
    Ok(())
}

/// Who holds a lease, and leads by it, does not notice that the cluster's leader died.
#[tokio::test]
async fn kept_leases_outlive_the_leader() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let lease = client.lease(Duration::from_secs(10)).await?;
    client.put_with_lease("l/kept", "x", lease.id()).await?;
    let leadership = client.campaign("e", "me", Duration::from_secs(10)).await?;
    for _ in 0..2 {
        let leader = cluster.leader().await?;
        kill_and_restart(&mut cluster, leader).await?;
    }
    leadership.put("e/owned", "still").await?;
    ensure!(!lease.is_lost() && !leadership.is_lost());
    ensure!(client.get("l/kept").await?.is_some());
    // Given up, it is gone on every member.
    lease.revoke().await?;
    for place in 0..3 {
        ensure!(cluster.client_of(place)?.get("l/kept").await?.is_none());
    }
    Ok(())
}
