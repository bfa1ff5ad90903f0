//! The lease service over changes of leader and restarts: nothing ends early, all ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
};
use testkit::workload::serves_again;
use testkit::{Cluster, eventually};
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(90);
const TTL: i64 = 5;

fn leases(cluster: &Cluster, place: usize) -> Result<LeaseClient<Channel>> {
    Ok(LeaseClient::new(cluster.channel(place)?))
}

async fn grant(cluster: &Cluster, place: usize, id: i64, ttl: i64) -> Result<i64> {
    eventually("a lease is granted", PATIENCE, || async {
        let asked = LeaseGrantRequest { id, ttl };
        Ok(leases(cluster, place)?.lease_grant(asked).await?.into_inner().ttl)
    })
    .await
}

/// Grant, keep-alive, time to live with keys, list, revoke; expiry that deletes the keys, not early,
/// over a killed leader and a restart of all.
#[tokio::test]
async fn gap_lease_service_and_expiry() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let mut service = leases(&cluster, 0)?;
    let (short, long, gone) = (71, 72, 73);
    ensure!(grant(&cluster, 0, long, 600).await? == 600);
    ensure!(grant(&cluster, 1, gone, 600).await? == 600);
    client.put_with_lease("l/long", "x", long).await?;
    client.put_with_lease("l/gone", "x", gone).await?;

    // time to live with keys, from any member
    let asked = LeaseTimeToLiveRequest { id: long, keys: true };
    let answer = leases(&cluster, 2)?.lease_time_to_live(asked).await?.into_inner();
    ensure!(answer.granted_ttl == 600 && answer.ttl <= 600 && answer.ttl > 500, "{answer:?}");
    ensure!(answer.keys == ["l/long"], "{answer:?}");
    let unknown = LeaseTimeToLiveRequest { id: 999, keys: false };
    ensure!(service.lease_time_to_live(unknown).await?.into_inner().ttl == -1);

    // revoking deletes the keys; an unknown lease is refused in etcd's words, with a hint
    service.lease_revoke(LeaseRevokeRequest { id: gone }).await?;
    ensure!(client.get("l/gone").await?.is_none());
    let refused =
        service.lease_revoke(LeaseRevokeRequest { id: gone }).await.err().context("ok")?;
    ensure!(refused.message() == "etcdserver: requested lease not found", "{refused:?}");
    ensure!(refused.metadata().contains_key("plasma-hint"), "{refused:?}");
    let again = LeaseGrantRequest { id: long, ttl: 600 };
    let refused = service.lease_grant(again).await.err().context("granted twice")?;
    ensure!(refused.message() == "etcdserver: lease already exists", "{refused:?}");

    // one stream keeps a lease alive; of an unknown one it says so
    let ids = futures::stream::iter([long, 999].map(|id| LeaseKeepAliveRequest { id }));
    let mut kept = service.lease_keep_alive(ids).await?.into_inner();
    ensure!(kept.message().await?.context("no answer")?.ttl == 600);
    ensure!(kept.message().await?.context("no answer")?.ttl == 0);

    // a leader that dies takes nothing with it: the lease goes on, and ends by itself, not early
    let leader = cluster.leader().await?;
    let rest: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    let begun = Instant::now();
    let granted = grant(&cluster, rest[0], short, TTL).await?;
    client.put_with_lease("l/short", "x", short).await?;
    cluster.kill(leader);
    let others = cluster.client_of_these(rest.clone())?;
    eventually("the lease ends and its key with it", PATIENCE, || async {
        ensure!(others.get("l/short").await?.is_none(), "still there");
        Ok(())
    })
    .await?;
    let lasted = begun.elapsed();
    ensure!(lasted >= Duration::from_secs(granted.unsigned_abs()), "early: {lasted:?}");
    ensure!(others.get("l/long").await?.is_some(), "a kept lease was ended");

    // all die, and what was granted is there
    for place in &rest {
        cluster.kill(*place);
    }
    for place in 0..3 {
        cluster.spawn(place)?;
    }
    serves_again(&client).await?;
    for place in 0..3 {
        cluster.ready(place).await?;
        let listed = eventually("leases are listed", PATIENCE, || async {
            Ok(leases(&cluster, place)?.lease_leases(LeaseLeasesRequest {}).await?.into_inner())
        })
        .await?;
        let ids: Vec<i64> = listed.leases.iter().map(|lease| lease.id).collect();
        ensure!(ids == [long], "{ids:?}");
    }
    ensure!(client.get("l/long").await?.is_some());
    Ok(())
}
