//! Locks and elections through their services.

use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, RangeRequest};
use api::v3electionpb::election_client::ElectionClient;
use api::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};
use api::v3lockpb::lock_client::LockClient;
use api::v3lockpb::{LockRequest, UnlockRequest};

use super::*;

impl One {
    async fn lease(&self, ttl: i64) -> Result<i64> {
        let request = LeaseGrantRequest { id: 0, ttl };
        Ok(LeaseClient::new(self.channel.clone()).lease_grant(request).await?.into_inner().id)
    }

    async fn revoke(&self, id: i64) -> Result<()> {
        LeaseClient::new(self.channel.clone()).lease_revoke(LeaseRevokeRequest { id }).await?;
        Ok(())
    }

    fn locking(&self, lease: i64) -> tokio::task::JoinHandle<Result<String, tonic::Status>> {
        let mut client = LockClient::new(self.channel.clone());
        tokio::spawn(async move {
            let request = LockRequest { name: "door".into(), lease };
            let key = client.lock(request).await?.into_inner().key;
            Ok(String::from_utf8_lossy(&key).into_owned())
        })
    }

    /// How many stand in line, the holder among them.
    async fn in_line(&self, count: usize) -> Result<()> {
        testkit::eventually("the line", Duration::from_secs(20), async || {
            let keys = self.kv().range(range("door/", "door0")).await?.into_inner().kvs.len();
            ensure!(keys == count, "{keys} of {count} stand in line");
            Ok(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_passes_on_in_the_order_of_asking() -> Result<()> {
    let one = One::start("").await?;
    let leases = [one.lease(60).await?, one.lease(60).await?, one.lease(60).await?];
    let held = one.locking(leases[0]).await??;
    ensure!(held == format!("door/{:x}", leases[0]), "{held}");
    // asking again with the same lease is no second place
    ensure!(one.locking(leases[0]).await?? == held);

    let second = one.locking(leases[1]);
    one.in_line(2).await?;
    let third = one.locking(leases[2]);
    one.in_line(3).await?;
    // a caller that goes away leaves the line
    third.abort();
    one.in_line(2).await?;
    ensure!(!second.is_finished(), "two hold one lock");
    LockClient::new(one.channel.clone()).unlock(UnlockRequest { key: held.into() }).await?;
    let held = second.await??;
    ensure!(held == format!("door/{:x}", leases[1]));

    // the end of the holder's lease is the end of its turn, and a waiter's of its waiting
    let third = one.locking(leases[2]);
    one.in_line(2).await?;
    let fourth = one.locking(leases[0]);
    one.in_line(3).await?;
    one.revoke(leases[2]).await?;
    let lost = third.await?.err().context("the lease had ended")?;
    ensure!(lost.message() == "mutex: session is expired", "{lost}");
    ensure!(!fourth.is_finished(), "two hold one lock");
    one.revoke(leases[1]).await?;
    ensure!(fourth.await??.starts_with("door/"));
    // without a lease the server grants one
    let fifth = one.locking(0);
    one.in_line(2).await?;
    one.revoke(leases[0]).await?;
    fifth.await??;
    let nothing = one.locking(7).await?.err().context("there is no such lease")?;
    ensure!(nothing.message() == "etcdserver: requested lease not found", "{nothing}");
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_see_every_leader_and_value_in_order() -> Result<()> {
    let one = One::start("").await?;
    let mut client = ElectionClient::new(one.channel.clone());
    let who = || LeaderRequest { name: "king".into() };
    let nobody = client.leader(who()).await.err().context("nobody campaigned")?;
    ensure!(nobody.message() == "election: no leader", "{nobody}");
    let mut seen = client.observe(who()).await?.into_inner();
    let mut next = async || -> Result<String> {
        let LeaderResponse { kv, header } = seen.message().await?.context("ended")?;
        ensure!(header.is_some_and(|header| header.revision > 1));
        Ok(String::from_utf8_lossy(&kv.context("a leader")?.value).into_owned())
    };

    let campaign = |lease, value: &str| CampaignRequest {
        name: "king".into(),
        lease,
        value: value.to_owned().into(),
    };
    let leases = [one.lease(60).await?, one.lease(60).await?];
    let first = client.campaign(campaign(leases[0], "a")).await?.into_inner();
    let first: LeaderKey = first.leader.context("a leader's key")?;
    ensure!(next().await? == "a");
    let proclaim = |leader: &LeaderKey, value: &str| ProclaimRequest {
        leader: Some(leader.clone()),
        value: value.to_owned().into(),
    };
    client.proclaim(proclaim(&first, "b")).await?;
    ensure!(next().await? == "b");
    let leader = client.leader(who()).await?.into_inner().kv.context("a leader")?;
    ensure!(leader.value.as_ref() == b"b" && leader.create_revision == first.rev);

    let mut other = client.clone();
    let request = campaign(leases[1], "c");
    let second = tokio::spawn(async move { other.campaign(request).await });
    testkit::eventually("a second candidate", Duration::from_secs(20), async || {
        let all = RangeRequest { count_only: true, ..range("king/", "king0") };
        let count = one.kv().range(all).await?.into_inner().count;
        ensure!(count == 2, "{count} candidates");
        Ok(())
    })
    .await?;
    client.resign(ResignRequest { leader: Some(first.clone()) }).await?;
    let second = second.await??.into_inner().leader.context("a leader's key")?;
    ensure!(second.rev > first.rev, "the fencing token grows");
    ensure!(next().await? == "c");
    // the old leader can neither speak nor resign for the new one
    let late = client.proclaim(proclaim(&first, "d")).await.err().context("it resigned")?;
    ensure!(late.message() == "election: not leader", "{late}");
    client.resign(ResignRequest { leader: Some(first) }).await?;
    ensure!(
        client.leader(who()).await?.into_inner().kv.context("a leader")?.value.as_ref() == b"c"
    );
    one.member.stop().await;
    Ok(())
}
