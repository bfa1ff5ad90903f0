//! From a real etcd: its snapshot file, restored into Chainfire.

use super::{done, hash_at, keys_at, refused, text};
use anyhow::{Context, Result, ensure};
use chainfire_client::{Client, Event, EventKind, KeyValue, Op, Watch};
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::etcd::Etcd;
use testkit::{Cluster, Options};

fn etcdctl(endpoint: &str, words: &[&str]) -> Result<String> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint]).args(words);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "etcdctl {words:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Leases, keys with versions, deletions, transactions, a compaction in the middle of it.
async fn fill(client: &Client) -> Result<(i64, BTreeSet<i64>)> {
    let mut leases = BTreeSet::new();
    for n in 0..5 {
        let lease = client.lease(Duration::from_secs(3600 + n)).await?;
        client.put_with_lease(format!("leased/{n}"), "1", lease.id()).await?;
        client.put_with_lease(format!("leased/{n}/b"), "2", lease.id()).await?;
        leases.insert(lease.id());
        // It stays: nobody keeps it alive, and an hour is long.
        std::mem::forget(lease);
    }
    let mut compact = 0;
    for round in 0..6 {
        for n in 0..120 {
            if n % 7 != round {
                client.put(format!("key/{n:04}"), format!("{round}/{n}").repeat(20)).await?;
            } else if round > 0 {
                client.delete(format!("key/{n:04}")).await?;
            }
        }
        let txn = client.txn().then(Op::put("t/a", format!("{round}")));
        txn.then(Op::put("t/b", "x")).then(Op::delete("key/0003")).commit().await?;
        if round == 2 {
            compact = client.revision().await? - 3;
        }
    }
    client.put("large", vec![7; 900_000]).await?;
    Ok((compact, leases))
}

#[tokio::test]
async fn a_snapshot_of_etcd_becomes_a_cluster() -> Result<()> {
    let Some(_) = testkit::etcd::installed() else {
        println!("etcd is not installed: install etcd-server");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let etcd = Etcd::start(1, dir.path()).await?;
    let endpoint = etcd.endpoints().swap_remove(0);
    let client = etcd.client()?;
    // Of an etcd with next to nothing, with history, and with compacted history.
    let bare = dir.path().join("bare.db");
    etcdctl(&endpoint, &["snapshot", "save", text(&bare)])?;
    let bare_revision = client.revision().await?;
    let (compact, leases) = fill(&client).await?;
    let whole = dir.path().join("whole.db");
    etcdctl(&endpoint, &["snapshot", "save", text(&whole)])?;
    let whole_keys = keys_at(&client, compact).await?;
    let whole_revision = client.revision().await?;
    let whole_hash = hash_at(&client, whole_revision).await?;
    etcdctl(&endpoint, &["compact", &compact.to_string()])?;
    client.put("after", "compaction").await?;
    let cut = dir.path().join("cut.db");
    etcdctl(&endpoint, &["snapshot", "save", text(&cut)])?;
    let revision = client.revision().await?;
    let said = done(&["backup", "show", text(&cut)]).await?;
    ensure!(said.contains("a snapshot of etcd") && said.contains(&revision.to_string()), "{said}");

    let (mut small, _) = restored(&bare).await?;
    ensure!(small.client()?.revision().await? == bare_revision);
    small.terminate(0).await?;
    let (mut with_history, there) = restored(&whole).await?;
    ensure!(keys_at(&there, compact).await? == whole_keys, "the past differs");
    // etcd's own checksum over all keys and their history.
    ensure!(hash_at(&there, whole_revision).await? == whole_hash, "history differs");
    with_history.terminate(0).await?;

    let (new, there) = restored(&cut).await?;
    ensure!(there.revision().await? == revision);
    let (mine, theirs) = (new.endpoint(0), endpoint);
    for at in [0, revision, revision - 50, compact, compact + 7] {
        let (a, b) = (keys_at(&there, at).await?, keys_at(&client, at).await?);
        ensure!(a == b, "keys differ at {at}: {} and {}", a.len(), b.len());
    }
    let past = (compact - 1).to_string();
    for endpoint in [&mine, &theirs] {
        let said = etcdctl(endpoint, &["get", "t/a", "--rev", &past]);
        let said = said.expect_err("compacted").to_string();
        ensure!(said.contains("required revision has been compacted"), "{said}");
    }
    let words = ["get", "", "--prefix", "-w", "json"];
    let kvs = |said: String| -> Result<serde_json::Value> {
        Ok(serde_json::from_str::<serde_json::Value>(&said)?["kvs"].take())
    };
    ensure!(kvs(etcdctl(&mine, &words)?)? == kvs(etcdctl(&theirs, &words)?)?, "etcdctl get");
    ensure!(etcdctl(&mine, &["lease", "list"])? == etcdctl(&theirs, &["lease", "list"])?);
    for lease in leases {
        let words = ["lease", "timetolive", "--keys", &format!("{lease:x}")];
        let (a, b) = (etcdctl(&mine, &words)?, etcdctl(&theirs, &words)?);
        // etcd lists a lease's keys in no order
        let keys = |said: &str| -> BTreeSet<String> {
            let listed = said.split_once("keys([").map_or("", |(_, keys)| keys);
            let words = listed.trim_end().trim_end_matches("])").split(' ');
            words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        ensure!(keys(&a).len() == 2 && keys(&a) == keys(&b), "{a} and {b}");
    }
    // Events since the compaction, the deletions too.
    let events = |client: Client| async move {
        let mut watch = client.watch(Watch::prefix("").from(compact)).await?;
        let mut all: Vec<(i64, EventKind, KeyValue)> = Vec::new();
        while all.last().is_none_or(|(at, ..)| *at < revision) {
            let changes = tokio::time::timeout(Duration::from_secs(60), watch.next()).await??;
            let of = |event: Event| (event.kv.mod_revision, event.kind, event.kv);
            all.extend(changes.events.into_iter().map(of));
        }
        anyhow::Ok(all)
    };
    let (a, b) = (events(there.clone()).await?, events(client.clone()).await?);
    let at = a.iter().zip(&b).position(|(a, b)| a != b);
    ensure!(a == b, "events differ at {at:?} of {} and {}", a.len(), b.len());
    ensure!(there.put("goes", "on").await? == revision + 1);
    Ok(())
}

async fn restored(file: &Path) -> Result<(Cluster, Client)> {
    let options = Options { members: 1, tls: false, ..Options::default() };
    let mut cluster = Cluster::prepare(options)?;
    cluster.configure().await?;
    done(&["restore", "--config", text(&cluster.settings(0)), text(file)]).await?;
    cluster.spawn(0)?;
    cluster.ready(0).await?;
    let client = cluster.client()?;
    Ok((cluster, client))
}

/// Whatever is flipped or cut in etcd's file: an error, and never a panic or memory without end.
#[tokio::test]
async fn a_damaged_snapshot_of_etcd_is_refused() -> Result<()> {
    let Some(_) = testkit::etcd::installed() else {
        println!("etcd is not installed: install etcd-server");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let etcd = Etcd::start(1, dir.path()).await?;
    let endpoint = etcd.endpoints().swap_remove(0);
    let client = etcd.client()?;
    for n in 0..200 {
        client.put(format!("k{}", n % 50), vec![n as u8; 200]).await?;
    }
    let file = dir.path().join("a.db");
    etcdctl(&endpoint, &["snapshot", "save", text(&file)])?;
    let bytes = std::fs::read(&file)?;
    let body = bytes.len() - 32;
    let damaged = dir.path().join("damaged.db");
    // the same flips each time
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    for _ in 0..400 {
        let mut other = bytes.clone();
        let at = random.random_range(0..bytes.len());
        other[at] ^= 1 << random.random_range(0..8);
        std::fs::write(&damaged, &other)?;
        let fault = chainfire::backup::inspect(&damaged, true).map(drop);
        ensure!(fault.is_err(), "flipped at {at}");
        // Without the checksum it may be read as it is: then it must only not panic.
        other.truncate(body);
        for _ in 0..8 {
            let at = random.random_range(0..body.min(4096 * 24));
            other[at] = random.random();
        }
        std::fs::write(&damaged, &other)?;
        let _ = chainfire::backup::inspect(&damaged, true);
        std::fs::write(&damaged, &other[..random.random_range(0..body)])?;
        ensure!(chainfire::backup::inspect(&damaged, false).is_err());
    }
    let said = refused(&["backup", "verify", text(&damaged)]).await?;
    ensure!(said.contains("CF-600"), "{said}");
    std::fs::write(&damaged, &bytes[..body])?;
    let fault = chainfire::backup::inspect(&damaged, false).map(drop).expect_err("no checksum");
    ensure!(fault.what.contains("--skip-hash-check"), "{fault}");
    let bare = chainfire::backup::inspect(&damaged, true).context("a bare copy")?;
    ensure!(bare.summary.keys == 51 || bare.summary.keys == 50, "{bare:?}");
    Ok(())
}
