//! Clusters of three: members, the leader, endpoints that come and go, and mutual TLS.

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, MemberAddOptions};
use etcd_client_tests::{PATIENCE, World, mutual_tls, refusal};
use testkit::{Cluster, eventually};

#[tokio::test]
async fn members_are_added_updated_promoted_and_removed() -> Result<()> {
    let world = World::start(3).await?;
    let mut client = world.client().await?;
    let members = client.member_list().await?;
    ensure!(members.members().len() == 3);
    ensure!(members.members().iter().all(|one| !one.is_learner() && !one.name().is_empty()));
    ensure!(members.members().iter().all(|one| !one.client_urls().is_empty()));

    let learner = MemberAddOptions::new().with_is_learner();
    // etcd adds nobody in the first seconds of a cluster
    let added = eventually("a learner is added", PATIENCE, || async {
        let mut members = client.cluster_client();
        Ok(members.member_add(["http://127.0.0.1:1".to_owned()], Some(learner.clone())).await?)
    })
    .await?;
    let id = added.member().context("no member")?.id();
    ensure!(added.member_list().len() == 4);
    // one is new: of the same URLs etcd makes the same id within a second
    let taken = client.member_add(["http://127.0.0.1:1", "http://127.0.0.1:2"], None).await;
    let taken = refusal(taken)?;
    ensure!(taken == (9, "etcdserver: Peer URLs already exists".into()), "{taken:?}");
    let early = client.member_promote(id).await;
    let words = "etcdserver: can only promote a learner member which is in sync with leader";
    ensure!(refusal(early)? == (9, words.into()));
    let updated = client.member_update(id, ["http://127.0.0.1:3".to_owned()]).await?;
    let now = updated.members().iter().find(|one| one.id() == id).context("gone")?;
    ensure!(now.peer_urls() == ["http://127.0.0.1:3"], "{now:?}");
    let rest = client.member_remove(id).await?;
    ensure!(rest.members().len() == 3 && rest.members().iter().all(|one| one.id() != id));
    let gone = client.member_remove(id).await;
    ensure!(refusal(gone)? == (5, "etcdserver: member not found".into()));
    Ok(())
}

#[tokio::test]
async fn the_leader_is_moved() -> Result<()> {
    let world = World::start(3).await?;
    let mut all = world.client().await?;
    let leader = all.status().await?.leader();
    let others = all.member_list().await?;
    let target = others.members().iter().find(|one| one.id() != leader).context("alone")?;
    for endpoint in world.endpoints() {
        let mut one = Client::connect([endpoint], None).await?;
        let here = one.status().await?.header().context("no header")?.member_id();
        let moved = one.move_leader(target.id()).await;
        if here == leader {
            moved?;
            break;
        }
        ensure!(refusal(moved)? == (9, "etcdserver: not leader".into()));
    }
    eventually("the other leads", PATIENCE, || async {
        let now = all.maintenance_client().status().await?.leader();
        ensure!(now == target.id(), "{now:x} leads");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn endpoints_come_and_go() -> Result<()> {
    let world = World::start(3).await?;
    let endpoints = world.endpoints();
    let mut client = Client::connect([&endpoints[0]], None).await?;
    client.put("k", "0", None).await?;
    client.add_endpoint(&endpoints[1]).await?;
    client.remove_endpoint(&endpoints[0]).await?;
    let first = Client::connect([&endpoints[0]], None).await?;
    let left = first.maintenance_client().status().await?;
    let left = left.header().context("no header")?.member_id();
    eventually("another member answers", PATIENCE, || async {
        let here = client.maintenance_client().status().await?;
        ensure!(here.header().context("no header")?.member_id() != left);
        Ok(())
    })
    .await?;
    client.put("k", "1", None).await?;
    Ok(())
}

/// Chainfire alone: its certificates are its own.
#[tokio::test]
async fn mutual_tls_and_a_member_that_dies() -> Result<()> {
    // The crate's TLS makes tonic refuse testkit's own way to connect: nothing here asks by that.
    let mut cluster = Cluster::prepare(testkit::Options::default())?;
    for _ in 0..3 {
        cluster.add().await?;
    }
    let endpoints: Vec<String> = (0..3).map(|place| cluster.endpoint(place)).collect();
    let options = mutual_tls(&cluster)?.with_require_leader(true).with_timeout(PATIENCE / 20);
    let mut client = Client::connect(&endpoints, Some(options)).await?;
    eventually("all vote", PATIENCE, || async {
        let members = client.cluster_client().member_list().await?;
        ensure!(members.members().iter().filter(|one| !one.is_learner()).count() == 3);
        Ok(())
    })
    .await?;
    let mut stream = client.watch("k", None).await?;
    ensure!(stream.message().await?.context("the stream ended")?.created());
    client.put("k", "1", None).await?;
    ensure!(stream.message().await?.context("the stream ended")?.events().len() == 1);
    cluster.kill(0);
    eventually("the others serve", PATIENCE, || async {
        client.kv_client().put("k", "2", None).await?;
        Ok(())
    })
    .await?;
    cluster.spawn(0)?;
    cluster.ready(0).await
}
