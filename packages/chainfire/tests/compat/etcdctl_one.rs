//! Debian's own etcdctl against one member over mutual TLS.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::ctl::skipped;
use crate::one::One;

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_does_its_work() -> Result<()> {
    let one = One::start().await?;
    let Some(secure) = one.ctl()? else { return skipped("etcdctl") };
    ensure!(secure.ok(&["put", "a", "1"]).await? == "OK\n");
    ensure!(secure.ok(&["get", "a"]).await? == "a\n1\n");
    ensure!(secure.ok(&["put", "a", "2", "--prev-kv"]).await?.contains("a\n1\n"));
    ensure!(secure.ok(&["get", "a", "--rev=2"]).await? == "a\n1\n");
    secure.ok(&["put", "b", "3"]).await?;
    ensure!(secure.ok(&["get", "", "--prefix", "--keys-only"]).await? == "a\n\nb\n\n");
    let txn = "mod(\"a\") = \"3\"\n\nput a 5\nget a\n\nget b\n\n";
    let said = secure.ok_with(&["txn"], txn).await?;
    ensure!(said.starts_with("SUCCESS\n\nOK\n\na\n5\n"), "{said:?}");
    ensure!(secure.ok(&["del", "b"]).await? == "1\n");

    let granted = secure.ok(&["lease", "grant", "60"]).await?;
    let lease = granted.split_whitespace().nth(1).context("a lease")?.to_owned();
    secure.ok(&["put", "leased", "1", &format!("--lease={lease}")]).await?;
    let left = secure.ok(&["lease", "timetolive", &lease, "--keys"]).await?;
    ensure!(left.contains("TTL(60s)") && left.contains("leased"), "{left}");
    ensure!(secure.ok(&["lease", "list"]).await?.contains(&lease));
    ensure!(secure.ok(&["lease", "keep-alive", "--once", &lease]).await?.contains("TTL(60)"));
    secure.ok(&["lease", "revoke", &lease]).await?;
    ensure!(secure.ok(&["get", "leased"]).await?.is_empty());

    let members = secure.ok(&["member", "list", "-w", "table"]).await?;
    ensure!(members.contains("started") && members.contains("one"), "{members}");
    secure.says(&["endpoint", "health"], "is healthy").await?;
    let status = secure.ok(&["endpoint", "status", "-w", "table"]).await?;
    ensure!(status.contains("true") && status.contains("3.7.0"), "{status}");
    ensure!(secure.ok(&["endpoint", "hashkv"]).await?.contains("127.0.0.1"));
    ensure!(secure.ok(&["alarm", "list"]).await?.is_empty());
    secure.says(&["compaction", "4"], "compacted revision 4").await?;
    let refused = secure.output(&["get", "a", "--rev=2"], "").await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.contains("required revision has been compacted"), "{said}");
    secure.says(&["defrag"], "Finished defragmenting").await?;
    let file = one.dir.path().join("backup");
    let file = file.to_str().context("path")?;
    secure.says(&["snapshot", "save", file], "Snapshot saved").await?;
    ensure!(std::fs::metadata(file)?.len() % 512 == 32, "blocks and a checksum");
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_history_and_what_comes() -> Result<()> {
    let one = One::start().await?;
    let Some(secure) = one.ctl()? else { return skipped("etcdctl") };
    secure.ok(&["put", "w", "1"]).await?;
    let mut watch = secure.spawn(&["watch", "w", "--rev=2", "--prev-kv"])?;
    secure.ok(&["put", "w", "2"]).await?;
    let lines = watch.lines(8).await?;
    ensure!(lines == ["PUT", "w", "1", "PUT", "w", "1", "w", "2"], "{lines:?}");
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nobody_comes_in() -> Result<()> {
    let one = One::start().await?;
    let Some(secure) = one.ctl()? else { return skipped("etcdctl") };
    let mut strange = Command::new("/usr/bin/etcdctl");
    strange
        .env("ETCDCTL_API", "3")
        .args(["--command-timeout=1s", "--dial-timeout=1s"])
        .arg(format!("--endpoints=https://{}", one.address()?))
        .arg(format!("--cacert={}", one.operator.ca.display()))
        .args(["get", "a"]);
    let refused = tokio::task::spawn_blocking(move || strange.output()).await??;
    ensure!(!refused.status.success(), "{refused:?}");
    ensure!(secure.ok(&["put", "a", "1"]).await? == "OK\n");
    one.member.stop().await;
    Ok(())
}
