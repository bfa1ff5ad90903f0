//! Members come, go, and come back with nothing.

use anyhow::{Context, Result, ensure};
use chainfire_client::{Client, Error, Op};
use std::time::Duration;
use testkit::workload::{Watchers, Writers, same_everywhere, serves_again};
use testkit::{Cluster, Options};

async fn id_of(client: &Client, name: &str) -> Result<u64> {
    let members = client.members().await?;
    Ok(members.iter().find(|member| member.name == name).context(name.to_owned())?.id)
}

#[tokio::test]
async fn a_fourth_joins_and_leaves_under_load() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let watchers = Watchers::start(std::slice::from_ref(&client), "m/").await?;
    let mut writers = Writers::start(vec![client.clone()], "m/");
    let fourth = cluster.add().await?;
    cluster.all_vote().await?;
    let id = id_of(&client, cluster.name(fourth)).await?;
    ensure!(cluster.client_of(fourth)?.get("m/none").await?.is_none());

    client.member_remove(id).await?;
    ensure!(client.members().await?.len() == 3);
    let again = client.member_remove(id).await.expect_err("it is gone");
    ensure!(matches!(again, Error::Refused { status: tonic::Code::NotFound, .. }), "{again}");
    cluster.kill(fourth);
    serves_again(&client).await?;
    writers.stop().await?;
    let acked = writers.verify(&client, "m/").await?;
    watchers.verify(&client).await?;
    println!("{acked} acknowledged writes while a member came and went");
    Ok(())
}

/// The same name comes back after its data is gone, even the one that formed the cluster.
#[tokio::test]
async fn a_wiped_member_comes_back_by_itself() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let mut writers = Writers::start(vec![client.clone()], "m/");
    for place in [1, 0] {
        let before = id_of(&client, cluster.name(place)).await?;
        cluster.kill(place);
        cluster.wipe(place)?;
        cluster.join_again(place)?;
        serves_again(&client).await?;
        cluster.spawn(place)?;
        cluster.ready(place).await?;
        cluster.all_vote().await?;
        let after = id_of(&client, cluster.name(place)).await?;
        ensure!(before != after, "an id was used again");
    }
    writers.stop().await?;
    writers.verify(&client, "m/").await?;
    same_everywhere(&cluster, "m/").await
}

/// Another machine with the same name must not displace a living member.
#[tokio::test]
async fn a_name_is_not_taken_from_a_living_member() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let before = id_of(&client, cluster.name(1)).await?;
    let impostor = cluster.configure().await?;
    let name = cluster.name(1).to_owned();
    let std::net::IpAddr::V4(address) = cluster.listeners(impostor)[0].ip() else {
        unreachable!("testkit gives out IPv4")
    };
    // Even the certificate is right: say, of the same machine installed anew beside the old one.
    let dir = cluster.folder(impostor).join("tls");
    cluster.certificates().service("chainfire", &name, address, &dir)?;
    cluster.set(impostor, &format!("name={name}"));
    cluster.spawn(impostor)?;
    testkit::eventually("it is told why it may not", Duration::from_secs(60), || async {
        let log = std::fs::read_to_string(cluster.log(impostor))?;
        ensure!(log.contains("is alive, a newcomer may not displace it"), "{log}");
        Ok(())
    })
    .await?;
    cluster.kill(impostor);
    ensure!(id_of(&client, &name).await? == before);
    ensure!(client.members().await?.len() == 3);
    Ok(())
}

#[tokio::test]
async fn a_learner_is_promoted_only_when_it_has_caught_up() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let nowhere = vec!["https://127.0.0.1:1".to_owned()];
    let learner = client.member_add_learner(nowhere.clone()).await?;
    ensure!(learner.learner);
    let error = client.member_promote(learner.id).await.expect_err("it never started");
    let Error::Refused { message, .. } = &error else { panic!("{error}") };
    ensure!(
        message == "etcdserver: can only promote a learner member which is in sync with leader",
        "{message}"
    );
    let error = client.member_add_learner(nowhere).await.expect_err("the URL is taken");
    let Error::Refused { message, .. } = &error else { panic!("{error}") };
    ensure!(message == "etcdserver: Peer URLs already exists", "{message}");
    client.member_remove(learner.id).await?;
    ensure!(client.members().await?.len() == 3);
    Ok(())
}

/// A follower for which the log no longer goes back far enough gets a snapshot.
#[tokio::test]
async fn a_follower_that_lags_behind_the_log_gets_a_snapshot() -> Result<()> {
    let mut cluster = Cluster::start_with(Options {
        set: vec!["raft.snapshot_entries=50".into(), "storage.persist_seconds=1".into()],
        ..Options::default()
    })
    .await?;
    let client = cluster.client()?;
    let follower = (cluster.leader().await? + 1) % 3;
    client.put("s/first", "x").await?;
    cluster.kill(follower);
    serves_again(&client).await?;
    // More than the log keeps, with transactions, deletions and a compaction in it.
    let begun = std::time::Instant::now();
    for number in 0.. {
        let key = format!("s/{:04}", number % 600);
        let txn = client.txn().then(Op::put(key, vec![b'v'; 2000])).then(Op::put("s/last", "x"));
        txn.commit().await?;
        // Persisting is by the clock: several times over.
        if number >= 1500 && begun.elapsed() > Duration::from_secs(5) {
            break;
        }
    }
    client.delete("s/0001").await?;
    let now = client.revision().await?;
    client.compact(now - 5).await?;
    cluster.spawn(follower)?;
    cluster.ready(follower).await?;
    let last = client.put("s/last", "y").await?;
    let lagging = cluster.client_of(follower)?;
    testkit::eventually("it has caught up", Duration::from_secs(30), || async {
        let kv = lagging.get_serializable("s/last").await?.context("no key")?;
        ensure!(kv.mod_revision == last);
        Ok(())
    })
    .await?;
    same_everywhere(&cluster, "s/").await?;
    let log = std::fs::read_to_string(cluster.log(follower))?;
    ensure!(log.contains("installing a snapshot"), "it caught up without a snapshot");
    // And as the leader of what it was given.
    cluster.kill((follower + 1) % 3);
    serves_again(&client).await?;
    cluster.spawn((follower + 1) % 3)?;
    cluster.ready((follower + 1) % 3).await?;
    same_everywhere(&cluster, "s/").await
}
