//! Locks and elections.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcd_client::{LockOptions, ProclaimOptions, ResignOptions};
use etcd_client_tests::{PATIENCE, World, refusal};
use tokio::time::timeout;

#[tokio::test]
async fn the_second_waits_for_the_lock() -> Result<()> {
    let (world, mut client) = World::one().await?;
    let lease = client.lease_grant(60, None).await?.id();
    let held = client.lock("job", Some(LockOptions::new().with_lease(lease))).await?;
    ensure!(held.key().starts_with(b"job/"), "{held:?}");
    ensure!(client.get(held.key(), None).await?.kvs()[0].lease() == lease);

    let mut other = world.client().await?;
    let mut waiting = tokio::spawn(async move {
        let lock = other.lock("job", None).await?;
        anyhow::Ok((other, lock))
    });
    ensure!(timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "both hold it");
    client.unlock(held.key()).await?;
    let (mut other, lock) = timeout(PATIENCE, waiting).await???;
    ensure!(lock.key() != held.key());
    other.unlock(lock.key()).await?;
    // who dies loses it
    let held = client.lock("job", Some(LockOptions::new().with_lease(lease))).await?;
    client.lease_revoke(lease).await?;
    ensure!(client.get(held.key(), None).await?.kvs().is_empty());
    timeout(PATIENCE, other.lock("job", None)).await??;
    Ok(())
}

#[tokio::test]
async fn an_election_from_campaign_to_resignation() -> Result<()> {
    let (world, mut client) = World::one().await?;
    let nobody = refusal(client.leader("chair").await)?;
    ensure!(nobody.1 == "election: no leader", "{nobody:?}");
    let lease = client.lease_grant(60, None).await?.id();
    let won = client.campaign("chair", "one", lease).await?;
    let leader = won.leader().context("no leader")?.clone();
    ensure!(leader.name() == b"chair" && leader.lease() == lease && leader.rev() > 0);
    let seen = client.leader("chair").await?;
    let seen = seen.kv().context("no key")?;
    ensure!((seen.key(), seen.value()) == (leader.key(), &b"one"[..]));

    let mut observed = client.observe("chair").await?;
    let mut told = async || {
        let next = timeout(PATIENCE, observed.message()).await??.context("the stream ended")?;
        anyhow::Ok(next.kv().context("no key")?.value().to_vec())
    };
    ensure!(told().await? == b"one");
    let again = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("one again", Some(again)).await?;
    ensure!(told().await? == b"one again");

    let mut other = world.client().await?;
    let second = other.lease_grant(60, None).await?.id();
    let mut waiting = tokio::spawn(async move { other.campaign("chair", "two", second).await });
    ensure!(timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "both lead");
    client.resign(Some(ResignOptions::new().with_leader(leader.clone()))).await?;
    let next = timeout(PATIENCE, waiting).await???;
    ensure!(next.leader().context("no leader")?.lease() == second);
    ensure!(told().await? == b"two");
    // who has resigned proclaims nothing
    let late = client.proclaim("x", Some(ProclaimOptions::new().with_leader(leader))).await;
    let late = refusal(late)?;
    ensure!(late.1 == "election: not leader", "{late:?}");
    Ok(())
}
