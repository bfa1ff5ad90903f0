//! Leases.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcd_client::{
    Error, GetOptions, LeaseClientPrefix, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions,
};
use etcd_client_tests::{PATIENCE, World, refusal};

#[tokio::test]
async fn grant_keep_look_and_revoke() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let granted = client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(77))).await?;
    ensure!((granted.id(), granted.ttl()) == (77, 60));
    let twice = client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(77))).await;
    ensure!(refusal(twice)? == (9, "etcdserver: lease already exists".into()));
    let other = client.lease_grant(60, None).await?.id();
    let mut listed: Vec<i64> = client.leases().await?.leases().iter().map(|l| l.id()).collect();
    listed.sort_unstable();
    let mut known = vec![77, other];
    known.sort_unstable();
    ensure!(listed == known, "{listed:?}");

    for key in ["l/a", "l/b"] {
        client.put(key, "x", Some(PutOptions::new().with_lease(77))).await?;
    }
    let keys = || Some(LeaseTimeToLiveOptions::new().with_keys());
    let left = client.lease_time_to_live(77, keys()).await?;
    ensure!(left.granted_ttl() == 60 && (55..=60).contains(&left.ttl()), "{left:?}");
    let mut attached = left.keys().to_vec();
    attached.sort();
    ensure!(attached == [b"l/a".to_vec(), b"l/b".to_vec()]);
    let bare = client.lease_time_to_live(77, None).await?;
    ensure!(bare.keys().is_empty());
    let mut space = LeaseClientPrefix::new(client.lease_client(), "l/".into());
    ensure!(space.time_to_live(77, keys()).await?.keys().iter().all(|key| key.len() == 1));

    let (mut keeper, mut kept) = client.lease_keep_alive(77).await?;
    ensure!(keeper.id() == 77);
    for _ in 0..3 {
        keeper.keep_alive().await?;
        let answer = kept.message().await?.context("the stream ended")?;
        ensure!((answer.id(), answer.ttl()) == (77, 60));
    }
    client.lease_revoke(77).await?;
    ensure!(client.get("l/", Some(GetOptions::new().with_prefix())).await?.count() == 0);
    // gone: a renewal says so with no time left, a revocation is refused, and a look finds none
    keeper.keep_alive().await?;
    ensure!(kept.message().await?.context("the stream ended")?.ttl() == 0);
    let gone = client.lease_keep_alive(77).await;
    ensure!(matches!(gone, Err(Error::LeaseKeepAliveError(_))));
    let words = "etcdserver: requested lease not found";
    ensure!(refusal(client.lease_revoke(77).await)? == (5, words.into()));
    ensure!(client.lease_time_to_live(77, None).await?.ttl() == -1);
    Ok(())
}

#[tokio::test]
async fn what_is_not_kept_ends() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let lease = client.lease_grant(2, None).await?;
    let begun = std::time::Instant::now();
    client.put("short", "x", Some(PutOptions::new().with_lease(lease.id()))).await?;
    testkit::eventually("the key goes with its lease", PATIENCE, || async {
        let there = client.kv_client().get("short", None).await?.count();
        ensure!(there == 0, "still there");
        Ok(())
    })
    .await?;
    ensure!(begun.elapsed() >= Duration::from_secs(lease.ttl().unsigned_abs()) / 2);
    Ok(())
}
