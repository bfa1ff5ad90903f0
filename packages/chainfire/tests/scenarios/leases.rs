//! Leases with many keys.

use std::time::Duration;

use anyhow::{Result, ensure};
use chainfire_client::{Client, Op};
use testkit::Cluster;

/// Puts so many keys with a lease, and says what that cost the member.
async fn cost(cluster: &mut Cluster, client: &Client, lease: i64, name: &str) -> Result<Duration> {
    const PUTS: usize = 2000;
    let before = cluster.process(0)?.cpu()?;
    for round in 0..PUTS / 20 {
        let puts = (0..20).map(|number| {
            let key = format!("{name}/{round}.{number}");
            client.put_with_lease(key, "x", lease)
        });
        for put in futures::future::join_all(puts).await {
            put?;
        }
    }
    Ok(cluster.process(0)?.cpu()? - before)
}

/// CPU time is compared, since that of a wall depends on who else runs here.
#[tokio::test]
async fn bug_15993_puts_cost_the_same_however_many_keys_a_lease_has() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    let ttl = Duration::from_secs(3600);
    let (small, large) = (client.lease(ttl).await?, client.lease(ttl).await?);
    for hundred in 0..300 {
        let mut txn = client.txn();
        for number in 0..100 {
            txn = txn.then(Op::put_with_lease(format!("l/{hundred}/{number}"), "x", large.id()));
        }
        txn.commit().await?;
    }
    let first = cost(&mut cluster, &client, small.id(), "warm").await?;
    let few = cost(&mut cluster, &client, small.id(), "few").await?.min(first);
    let many = cost(&mut cluster, &client, large.id(), "many").await?;
    println!("2000 puts: {few:?} with few keys on the lease, {many:?} with 30,000");
    // Linear would be some hundred times as much.
    ensure!(many < 5 * few + Duration::from_millis(500), "{many:?} against {few:?}");
    let keys = client.prefix("l/").await?.kvs.len();
    ensure!(keys == 30_000, "{keys}");
    large.revoke().await?;
    ensure!(client.prefix("l/").await?.kvs.is_empty() && client.get("many/0.0").await?.is_none());
    ensure!(client.get("few/0.0").await?.is_some());
    Ok(())
}
