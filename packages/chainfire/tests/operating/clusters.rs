//! From cluster to cluster.

use super::{done, hash_at, keys_at, refused, text};
use anyhow::{Context, Result, ensure};
use chainfire_client::{Client, Op, Watch};
use std::path::PathBuf;
use std::time::Duration;
use testkit::workload::{Writers, same_everywhere, serves_again};
use testkit::{Cluster, Options, eventually};

/// A cluster of which nothing runs yet: the first member's settings say `form`.
async fn prepared(members: usize) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(Options { members, ..Options::default() })?;
    for _ in 0..members {
        cluster.configure().await?;
    }
    Ok(cluster)
}

async fn start(cluster: &mut Cluster) -> Result<Client> {
    for place in 0..cluster.len() {
        cluster.spawn(place)?;
        cluster.ready(place).await?;
    }
    cluster.all_vote().await?;
    cluster.client()
}

/// `chainfire backup save` from a member, as root of the cluster.
async fn save(cluster: &Cluster, place: usize, name: &str, more: &[&str]) -> Result<PathBuf> {
    let file = cluster.folder(place).join(name);
    let tls = cluster.folder(place).join("tls");
    let endpoint = cluster.endpoint(place);
    let mut words = vec!["backup", "save", "--endpoint", &endpoint, "--tls", text(&tls)];
    words.extend_from_slice(more);
    words.push(text(&file));
    done(&words).await?;
    Ok(file)
}

async fn show(file: &std::path::Path) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&done(&["backup", "show", "-o", "json", text(file)]).await?)?)
}

/// CF-17: a backup under load is the store right after one revision, and a cluster of one and one
/// of three made of it have every key, version, lease and the whole history of the old one.
#[tokio::test]
async fn gap_backup() -> Result<()> {
    let old = Cluster::start(3).await?;
    let client = old.client()?;
    let lease = client.lease(Duration::from_secs(3600)).await?;
    client.put_with_lease("leased", "kept", lease.id()).await?;
    for version in 0..5 {
        client.put("changed", format!("{version}")).await?;
    }
    client.put("gone", "soon").await?;
    client.delete("gone").await?;
    let together = client.txn().then(Op::put("both/a", "1")).then(Op::put("both/b", "2"));
    together.commit().await?;
    let mut writers = Writers::start(vec![client.clone(), old.client_of(1)?], "load/");
    eventually("load is on", Duration::from_secs(60), || async {
        ensure!(writers.acked().len() > 50);
        Ok(())
    })
    .await?;
    let acked = writers.acked();
    let file = save(&old, 2, "load.backup", &[]).await?;
    let shown = show(&file).await?;
    let revision = shown["revision"].as_i64().context("no revision")?;
    ensure!(shown["members"].as_array().is_some_and(|members| members.len() == 3), "{shown}");
    ensure!(shown["leases"] == 1 && shown["head"]["linearizable"] == true, "{shown}");
    writers.stop().await?;
    // Everything that was acknowledged before, and nothing that came after.
    ensure!(acked.values().all(|at| *at <= revision), "a write is missing");
    let said = done(&["backup", "verify", text(&file)]).await?;
    ensure!(said.contains(&format!("whole, revision {revision}")), "{said}");
    let (keys, hash) = (keys_at(&client, revision).await?, hash_at(&client, revision).await?);

    for members in [1, 3] {
        let mut new = prepared(members).await?;
        let settings = new.settings(0);
        done(&["restore", "--config", text(&settings), text(&file)]).await?;
        let client = start(&mut new).await?;
        ensure!(client.revision().await? == revision);
        ensure!(keys_at(&client, 0).await? == keys, "keys differ in a cluster of {members}");
        ensure!(hash_at(&client, revision).await? == hash, "history differs");
        ensure!(client.get_at("changed", revision).await?.context("changed")?.version == 5);
        ensure!(client.lease_remaining(lease.id()).await?.is_some(), "the lease is gone");
        let mut past = client.watch(Watch::key("changed").from(1)).await?;
        for version in 0..5 {
            let seen = past.next().await?.events;
            ensure!(seen[0].kv.value == format!("{version}"), "{seen:?}");
        }
        // Writing goes on where it was, and what hangs on a lease goes with it.
        ensure!(client.put("after", "1").await? == revision + 1);
        client.revoke(lease.id()).await?;
        ensure!(client.get("leased").await?.is_none());
        same_everywhere(&new, "").await?;
        // A second restore would overwrite: it is refused.
        let said = refused(&["restore", "--config", text(&settings), text(&file)]).await?;
        ensure!(said.contains("CF-6005") && said.contains("not empty"), "{said}");
    }
    println!("{} keys at revision {revision}, under load", keys.len());
    Ok(())
}

/// The majority is lost for good, with everything it had. What the last member's folder holds is a
/// cluster again, with every acknowledged write.
#[tokio::test]
async fn a_lost_quorum_is_recovered_from_one_data_folder() -> Result<()> {
    let mut old = Cluster::start(3).await?;
    let client = old.client()?;
    let lease = client.lease(Duration::from_secs(3600)).await?;
    client.put_with_lease("leased", "kept", lease.id()).await?;
    let survivor = old.leader().await?;
    let mut writers = Writers::start(vec![client.clone(), old.client_of(survivor)?], "load/");
    eventually("load is on", Duration::from_secs(60), || async {
        ensure!(writers.acked().len() > 100);
        Ok(())
    })
    .await?;
    for place in (0..3).filter(|place| *place != survivor) {
        old.kill(place);
        old.wipe(place)?;
    }
    writers.stop().await?;
    // While it runs without a majority it gives what it has, if that is asked for.
    let tls = old.folder(survivor).join("tls");
    let (endpoint, none) = (old.endpoint(survivor), old.folder(0).join("none.backup"));
    let words = ["backup", "save", "--endpoint", &endpoint, "--tls", text(&tls), text(&none)];
    let said = refused(&words).await?;
    ensure!(said.contains("CF-6004") && said.contains("--local"), "{said}");
    ensure!(!none.exists());
    save(&old, survivor, "local.backup", &["--local"]).await?;

    let folder = old.data(survivor).to_owned();
    let file = old.folder(survivor).join("survivor.backup");
    let words = ["backup", "save", "--data-dir", text(&folder), text(&file)];
    let said = refused(&words).await?;
    ensure!(said.contains("CF-4003"), "the member runs: {said}");
    old.kill(survivor);
    done(&words).await?;

    // In place: the same settings, and the folder moved aside.
    std::fs::rename(&folder, folder.with_extension("before"))?;
    let settings = old.settings(survivor);
    let form = ["--set", "initial=form"];
    let [set, formed] = form;
    let words = ["restore", "--config", text(&settings), set, formed, text(&file)];
    let said = refused(&words).await?;
    ensure!(said.contains("--keep-cluster-id"), "{said}");
    let words = [&words[..], &["--keep-cluster-id"]].concat();
    done(&words).await?;
    old.spawn(survivor)?;
    old.ready(survivor).await?;
    let client = old.client_of(survivor)?;
    let acked = writers.verify(&client, "load/").await?;
    ensure!(client.lease_remaining(lease.id()).await?.is_some());
    // The others come back with nothing, under their old names.
    for place in (0..3).filter(|place| *place != survivor) {
        old.join_again(place)?;
        old.spawn(place)?;
        old.ready(place).await?;
    }
    old.all_vote().await?;
    serves_again(&old.client()?).await?;
    writers.verify(&old.client()?, "load/").await?;
    println!("{acked} acknowledged writes, all there");
    Ok(())
}

/// A bumped revision: a client that watches from what it saw of the old cluster is told.
#[tokio::test]
async fn a_bumped_revision_is_noticed() -> Result<()> {
    let old = Cluster::start(1).await?;
    let client = old.client()?;
    for n in 0..20 {
        client.put("k", format!("{n}")).await?;
    }
    let file = save(&old, 0, "a.backup", &[]).await?;
    let seen = client.put("k", "after the backup").await?;
    let revision = show(&file).await?["revision"].as_i64().context("no revision")?;

    let mut new = prepared(1).await?;
    let settings = new.settings(0);
    let bump = ["--bump-revision", "1000000"];
    let base = ["restore", "--config", text(&settings), bump[0], bump[1], text(&file)];
    let said = refused(&base).await?;
    ensure!(said.contains("--mark-compacted"), "{said}");
    done(&[&base[..], &["--mark-compacted"]].concat()).await?;
    let client = start(&mut new).await?;
    ensure!(client.revision().await? == revision + 1_000_000);
    let kv = client.get("k").await?.context("k")?;
    ensure!((&kv.value[..], kv.version) == (&b"19"[..], 20) && kv.mod_revision == revision);
    let mut watch = client.watch(Watch::key("k").from(seen)).await?;
    let told = watch.next().await.expect_err("what it saw is not in this cluster");
    ensure!(told.to_string().contains("compacted"), "{told}");
    ensure!(client.put("k", "new").await? == revision + 1_000_001);
    Ok(())
}
