//! Every command of etcdctl, in every version that is here, against three real members.

use std::path::PathBuf;
use std::sync::MutexGuard;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Cluster, eventually};

use crate::ctl::{self, Ctl, skipped};

const LONG: Duration = Duration::from_secs(60);

/// Commands that are not tried here, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("help", "asks no server"),
    ("completion", "asks no server"),
    ("migrate", "from etcd's version 2, on its own files"),
    ("snapshot restore", "into etcd's own files; chainfire restores its own"),
    ("snapshot status", "of a file of etcd's own format"),
    ("check", "minutes of load"),
];

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_of_the_system() -> Result<()> {
    match ctl::system() {
        Some(binary) => every_command(binary).await,
        None => skipped("etcdctl"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_of_debian_trixie() -> Result<()> {
    match ctl::of_suite("trixie") {
        Some(binary) => every_command(binary).await,
        None => skipped("etcdctl of Debian trixie"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_of_debian_sid() -> Result<()> {
    match ctl::of_suite("sid") {
        Some(binary) => every_command(binary).await,
        None => skipped("etcdctl of Debian sid"),
    }
}

async fn every_command(binary: PathBuf) -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let endpoints = (0..3).map(|place| cluster.endpoint(place)).collect();
    let ctl = Ctl::new(binary, endpoints, cluster.operator().clone());
    keys(&ctl).await?;
    transactions(&ctl).await?;
    watches(&ctl).await?;
    leases(&ctl).await?;
    turns(&ctl).await?;
    looking_after(&ctl, &cluster).await?;
    members(&ctl, &cluster).await?;
    users(&ctl).await?;
    complete(&ctl)
}

/// Nothing that `help` lists was forgotten.
fn complete(ctl: &Ctl) -> Result<()> {
    let ran: MutexGuard<'_, _> = ctl.ran.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let commands = ctl.commands()?;
    ensure!(commands.len() > 30, "{commands:?}");
    let left_out = |command: &str| LEFT_OUT.iter().any(|(name, _)| command.starts_with(name));
    let missing: Vec<_> =
        commands.iter().filter(|name| !left_out(name) && !ran.contains(*name)).collect();
    ensure!(missing.is_empty(), "not tried: {missing:?}");
    Ok(())
}

async fn keys(ctl: &Ctl) -> Result<()> {
    ctl.says(&["version"], "API version: 3.").await?;
    for (key, value) in [("k/a", "1"), ("k/b", "3"), ("k/c", "2")] {
        ensure!(ctl.ok(&["put", key, value]).await? == "OK\n");
    }
    ensure!(ctl.ok(&["get", "k/a"]).await? == "k/a\n1\n");
    ensure!(ctl.ok(&["get", "k/", "--prefix", "--keys-only"]).await? == "k/a\n\nk/b\n\nk/c\n\n");
    ensure!(ctl.ok(&["get", "k/a", "k/c", "--print-value-only"]).await? == "1\n3\n");
    ensure!(ctl.ok(&["get", "k/", "--prefix", "--limit=1"]).await? == "k/a\n1\n");
    let sorted = ["get", "k/", "--prefix", "--sort-by=VALUE", "--order=DESCEND", "--keys-only"];
    ensure!(ctl.ok(&sorted).await? == "k/b\n\nk/c\n\nk/a\n\n");
    ensure!(ctl.ok(&["get", "k/b", "--from-key", "--keys-only"]).await? == "k/b\n\nk/c\n\n");
    ctl.says(&["get", "k/a", "--consistency=s", "--hex"], r"\x6b\x2f\x61").await?;
    let json: serde_json::Value =
        serde_json::from_str(&ctl.ok(&["get", "k/a", "-w", "json"]).await?)?;
    let revision = json["kvs"][0]["mod_revision"].as_i64().context("a revision")?;
    let fields = ctl.ok(&["get", "k/", "--prefix", "--keys-only", "-w", "fields"]).await?;
    ensure!(fields.contains("\"Count\" : 3") && fields.contains("\"ClusterID\""), "{fields}");
    ctl.ok(&["get", "k/a", "-w", "protobuf"]).await?;
    ctl.says(&["put", "k/a", "4", "--prev-kv"], "k/a\n1\n").await?;
    ensure!(ctl.ok(&["get", "k/a", &format!("--rev={revision}")]).await? == "k/a\n1\n");
    ctl.ok(&["put", "k/a", "--ignore-value"]).await?;
    ctl.ok(&["put", "k/a", "5", "--ignore-lease"]).await?;
    ctl.fails(&["put", "k/none", "--ignore-value"], "etcdserver: key not found").await?;
    ensure!(ctl.ok_with(&["put", "k/d"], "from\nstdin").await? == "OK\n");
    ensure!(ctl.ok(&["get", "k/d"]).await? == "k/d\nfrom\nstdin\n");
    ensure!(ctl.ok(&["del", "k/d", "--prev-kv"]).await? == "1\nk/d\nfrom\nstdin\n");
    ensure!(ctl.ok(&["del", "k/", "--prefix"]).await? == "3\n");
    ensure!(ctl.ok(&["get", "k/", "--prefix"]).await?.is_empty());
    Ok(())
}

async fn transactions(ctl: &Ctl) -> Result<()> {
    let make = "version(\"t\") = \"0\"\ncreate(\"t\") = \"0\"\n\nput t 1\n\nget t\n\n";
    ensure!(ctl.ok_with(&["txn"], make).await? == "SUCCESS\n\nOK\n");
    let again = ctl.ok_with(&["txn"], make).await?;
    ensure!(again == "FAILURE\n\nt\n1\n", "{again:?}");
    let compare = "value(\"t\") = \"1\"\nmod(\"t\") > \"0\"\n\ndel t\nget t --prefix\n\n\n";
    let said = ctl.ok_with(&["txn"], compare).await?;
    ensure!(said == "SUCCESS\n\n1\n\n", "{said:?}");
    let output = ctl.output(&["txn"], "\nput t 1\nput t 2\n\n\n").await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("duplicate key given in txn request"), "{said}");
    Ok(())
}

async fn watches(ctl: &Ctl) -> Result<()> {
    let put: serde_json::Value =
        serde_json::from_str(&ctl.ok(&["put", "w/1", "a", "-w", "json"]).await?)?;
    let revision = put["header"]["revision"].as_i64().context("a revision")?;
    let from = format!("--rev={revision}");
    let mut watch = ctl.spawn(&["watch", "w/", "--prefix", "--prev-kv", &from])?;
    ctl.ok(&["put", "w/1", "b"]).await?;
    ctl.ok(&["del", "w/1"]).await?;
    let lines = watch.lines(13).await?;
    let expected =
        ["PUT", "w/1", "a", "PUT", "w/1", "a", "w/1", "b", "DELETE", "w/1", "b", "w/1", ""];
    ensure!(lines == expected, "{lines:?}");
    // it runs a command at each event
    let mut watch =
        ctl.spawn(&["watch", "w/2", &from, "--", "sh", "-c", "echo =$ETCD_WATCH_VALUE"])?;
    ctl.ok(&["put", "w/2", "c"]).await?;
    let lines = watch.lines(4).await?;
    ensure!(lines == ["PUT", "w/2", "c", "=\"c\""], "{lines:?}");
    Ok(())
}

async fn leases(ctl: &Ctl) -> Result<()> {
    let granted = ctl.ok(&["lease", "grant", "600"]).await?;
    let lease = granted.split_whitespace().nth(1).context("a lease")?.to_owned();
    ctl.ok(&["put", "l", "1", &format!("--lease={lease}")]).await?;
    let left = ctl.ok(&["lease", "timetolive", &lease, "--keys"]).await?;
    ensure!(left.contains("TTL(600s)") && left.contains("attached keys([l])"), "{left}");
    ctl.says(&["lease", "list"], &lease).await?;
    ctl.says(&["lease", "keep-alive", "--once", &lease], "TTL(600)").await?;
    let mut alive = ctl.spawn(&["lease", "keep-alive", &lease])?;
    ensure!(alive.line().await?.contains("TTL(600)"));
    ctl.says(&["lease", "revoke", &lease], "revoked").await?;
    ensure!(ctl.ok(&["get", "l"]).await?.is_empty());
    ctl.says(&["lease", "timetolive", &lease], "already expired").await?;
    ctl.fails(&["lease", "revoke", &lease], "requested lease not found").await?;
    Ok(())
}

/// Locks and elections.
async fn turns(ctl: &Ctl) -> Result<()> {
    ensure!(ctl.ok(&["lock", "mutex", "echo", "held"]).await? == "held\n");
    let mut first = ctl.spawn(&["lock", "mutex"])?;
    ensure!(first.line().await?.starts_with("mutex/"));
    let mut second = ctl.spawn(&["lock", "mutex"])?;
    first.interrupt()?;
    ensure!(second.line().await?.starts_with("mutex/"), "the lock was handed on");

    let mut leader = ctl.spawn(&["elect", "office", "ann"])?;
    let won = leader.lines(2).await?;
    ensure!(won[0].starts_with("office/") && won[1] == "ann", "{won:?}");
    let mut seen = ctl.spawn(&["elect", "-l", "office"])?;
    ensure!(seen.lines(2).await? == won);
    Ok(())
}

async fn looking_after(ctl: &Ctl, cluster: &Cluster) -> Result<()> {
    ctl.says(&["endpoint", "health", "--cluster"], "is healthy").await?;
    let status = ctl.ok(&["endpoint", "status", "-w", "json"]).await?;
    let status: Vec<serde_json::Value> = serde_json::from_str(&status)?;
    ensure!(status.len() == 3, "{status:?}");
    for one in &status {
        let one = &one["Status"];
        let number = |name: &str| one[name].as_u64().unwrap_or(0);
        ensure!(one["version"] == "3.7.0" && number("leader") != 0, "{one}");
        ensure!(number("dbSize") >= number("dbSizeInUse") && number("dbSize") > 0, "{one}");
        ensure!(number("raftIndex") >= number("raftAppliedIndex") && number("raftTerm") > 0);
    }
    let table = ctl.ok(&["endpoint", "status", "--cluster", "-w", "table"]).await?;
    ensure!(table.matches("3.7.0").count() == 3 && table.matches("true").count() == 1, "{table}");

    ctl.ok(&["put", "old", "1"]).await?;
    let put: serde_json::Value =
        serde_json::from_str(&ctl.ok(&["put", "old", "2", "-w", "json"]).await?)?;
    let revision = put["header"]["revision"].as_i64().context("a revision")?.to_string();
    ctl.says(&["compaction", &revision, "--physical"], "compacted revision").await?;
    ctl.fails(&["get", "old", "--rev=2"], "required revision has been compacted").await?;
    ctl.fails(&["compaction", &revision], "required revision has been compacted").await?;
    ctl.fails(&["compaction", "999999"], "required revision is a future revision").await?;
    // members apply when they hear of it
    eventually("equal hashes", LONG, || async {
        let hashes = ctl.ok(&["endpoint", "hashkv", "-w", "json"]).await?;
        let hashes: Vec<serde_json::Value> = serde_json::from_str(&hashes)?;
        ensure!(hashes.len() == 3);
        let first = &hashes[0]["HashKV"]["hash"];
        ensure!(hashes.iter().all(|one| one["HashKV"]["hash"] == *first), "{hashes:?}");
        Ok(())
    })
    .await?;
    let defragmented = ctl.says(&["defrag"], "Finished defragmenting").await?;
    ensure!(defragmented.matches("Finished defragmenting").count() == 3, "{defragmented}");
    ensure!(ctl.ok(&["alarm", "list"]).await?.is_empty());
    ctl.ok(&["alarm", "disarm"]).await?;

    let one = ctl.at(cluster.endpoint(0));
    let file = cluster.folder(0).join("etcdctl.snapshot");
    let file = file.to_str().context("path")?;
    ctl_says(ctl, &one, &["snapshot", "save", file], "Snapshot saved").await?;
    ensure!(std::fs::metadata(file)?.len() % 512 == 32, "blocks and a checksum");

    for number in 0..5 {
        ctl.ok(&["put", &format!("mirror/{number}"), "x"]).await?;
    }
    let tls = cluster.operator();
    let (ca, cert) = (tls.ca.display().to_string(), tls.cert.display().to_string());
    let key = tls.key.display().to_string();
    let mut mirror = vec!["make-mirror", "--prefix=mirror/", "--dest-prefix=copy/"];
    let target = cluster.endpoint(1);
    mirror.extend(["--dest-cacert", &ca, "--dest-cert", &cert, "--dest-key", &key, &target]);
    let _mirror = ctl.spawn(&mirror)?;
    let copied = || async {
        let copies = ctl.ok(&["get", "copy/", "--prefix", "--keys-only"]).await?;
        ensure!(copies.matches("copy/").count() >= 5, "{copies}");
        Ok(())
    };
    eventually("the mirror is made", LONG, copied).await?;
    ctl.ok(&["put", "mirror/later", "y"]).await?;
    eventually("the mirror follows", LONG, || async {
        ctl.says(&["get", "copy/later"], "y").await.map(drop)
    })
    .await
}

/// Runs it with another set of endpoints, and counts it as run.
async fn ctl_says(all: &Ctl, one: &Ctl, words: &[&str], expected: &str) -> Result<()> {
    drop(all.command(words));
    one.says(words, expected).await.map(drop)
}

async fn members(ctl: &Ctl, cluster: &Cluster) -> Result<()> {
    let list = ctl.ok(&["member", "list"]).await?;
    ensure!(list.lines().count() == 3 && list.matches("started").count() == 3, "{list}");
    ctl.says(&["member", "list", "-w", "table"], "PEER ADDRS").await?;
    let json: serde_json::Value =
        serde_json::from_str(&ctl.ok(&["member", "list", "-w", "json"]).await?)?;
    ensure!(json["members"].as_array().is_some_and(|members| members.len() == 3), "{json}");

    // a member's own URL again: nothing changes
    let first = list.lines().next().context("a member")?;
    let parts: Vec<&str> = first.split(", ").collect();
    let url = format!("--peer-urls={}", parts[3]);
    ctl.says(&["member", "update", parts[0], &url], "updated in cluster").await?;
    let url = "--peer-urls=https://127.64.0.250:2380";
    let added = ctl.ok(&["member", "add", "late", url, "--learner"]).await?;
    ensure!(added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""), "{added}");
    let late = added.split_whitespace().nth(1).context("an id")?.to_owned();
    let behind = "can only promote a learner member which is in sync with leader";
    ctl.fails(&["member", "promote", &late], behind).await?;
    ctl.says(&["member", "remove", &late], "removed from cluster").await?;
    ctl.fails(&["member", "remove", &late], "member not found").await?;

    let leader = cluster.leader().await?;
    let at_leader = ctl.with(&[]);
    let status = ctl.ok(&["endpoint", "status", "-w", "json"]).await?;
    let status: Vec<serde_json::Value> = serde_json::from_str(&status)?;
    let heir = status[(leader + 1) % 3]["Status"]["header"]["member_id"].as_u64();
    let heir = format!("{:x}", heir.context("an id")?);
    ctl_says(ctl, &at_leader, &["move-leader", &heir], "Leadership transferred").await
}

async fn users(ctl: &Ctl) -> Result<()> {
    let new = |name: &str, password: &str| format!("{name}:{password}");
    ctl.says(&["user", "add", &new("root", "rootpw")], "User root created").await?;
    ctl.says(&["user", "add", &new("ann", "annpw")], "User ann created").await?;
    ctl.says(&["role", "add", "root"], "Role root created").await?;
    ctl.says(&["role", "add", "reader"], "Role reader created").await?;
    let grant = ["role", "grant-permission", "reader", "read", "pub/", "--prefix=true"];
    ctl.says(&grant, "Role reader updated").await?;
    let grant = ["role", "grant-permission", "reader", "readwrite", "own"];
    ctl.says(&grant, "Role reader updated").await?;
    ctl.says(&["role", "get", "reader"], "[pub/, pub0)").await?;
    ctl.says(&["role", "list"], "reader").await?;
    ctl.says(&["user", "grant-role", "root", "root"], "granted").await?;
    ctl.says(&["user", "grant-role", "ann", "reader"], "granted").await?;
    ctl.says(&["user", "get", "ann"], "reader").await?;
    ctl.says(&["user", "list"], "ann").await?;
    ctl.ok(&["put", "pub/1", "x"]).await?;
    if ctl.commands()?.contains("auth status") {
        ctl.says(&["auth", "status"], "Authentication Status: false").await?;
    }
    ctl.says(&["auth", "enable"], "Authentication Enabled").await?;

    let root = ctl.with(&["--user=root:rootpw"]);
    let ann = ctl.with(&["--user=ann:annpw"]);
    ann.says(&["get", "pub/1"], "x").await?;
    ann.fails(&["put", "pub/1", "y"], "etcdserver: permission denied").await?;
    ann.fails(&["get", "other"], "etcdserver: permission denied").await?;
    ann.says(&["put", "own", "1"], "OK").await?;
    ann.fails(&["user", "add", "eve:evepw"], "etcdserver: permission denied").await?;
    let wrong = ctl.with(&["--user=ann:wrong"]);
    wrong.fails(&["get", "pub/1"], "authentication failed, invalid user ID or password").await?;

    // the new password is asked for by a prompt, or read from the input
    let passwd = ["user", "passwd", "ann", "--interactive=false"];
    drop(ctl.command(&passwd));
    ensure!(root.ok_with(&passwd, "newpw\n").await?.contains("Password updated"));
    let ann = ctl.with(&["--user=ann:newpw"]);
    ann.says(&["get", "pub/1"], "x").await?;
    let revoke = ["role", "revoke-permission", "reader", "own"];
    ctl_says(ctl, &root, &revoke, "Permission of key own is revoked from role reader").await?;
    ann.fails(&["put", "own", "2"], "etcdserver: permission denied").await?;
    ctl_says(ctl, &root, &["user", "revoke-role", "ann", "reader"], "is revoked from user ann")
        .await?;
    ann.fails(&["get", "pub/1"], "etcdserver: permission denied").await?;
    ctl_says(ctl, &root, &["auth", "disable"], "Authentication Disabled").await?;
    ctl.says(&["get", "pub/1"], "x").await?;
    ctl.says(&["user", "delete", "ann"], "User ann deleted").await?;
    ctl.says(&["role", "delete", "reader"], "Role reader deleted").await.map(drop)
}
