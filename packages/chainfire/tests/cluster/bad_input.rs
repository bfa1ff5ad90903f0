//! What people and strangers get wrong: each has a code, nothing is lost, nothing panics.

use anyhow::{Context, Result, ensure};
use chainfire_client::{Error, Op};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::process::Command;
use std::time::Duration;
use testkit::{Cluster, Options, Process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Runs a command that must end by itself, with an error; what it said.
pub(crate) async fn refuses(cluster: &Cluster, command: Command) -> Result<String> {
    let log = cluster.folder(0).join("refused.log");
    let _ = std::fs::remove_file(&log);
    let mut process = Process::spawn("refused", command, &log)?;
    let status = process.wait(Duration::from_secs(60)).await;
    drop(process);
    let said = std::fs::read_to_string(&log)?;
    let status = status.with_context(|| said.clone())?;
    ensure!(!status.success(), "ended with {status}: {said}");
    ensure!(status.code().is_some(), "did not end by itself: {status}: {said}");
    ensure!(!said.contains("panicked"), "{said}");
    Ok(said)
}

/// A command as the cluster would start the first member, with one more argument.
fn first_with(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = cluster.command(0);
    command.args(arguments);
    command
}

#[tokio::test]
async fn settings_are_checked_and_named() -> Result<()> {
    let mut cluster = Cluster::prepare(Options { members: 1, ..Options::default() })?;
    cluster.configure().await?;
    let table: [(&[&str], &[&str]); 5] = [
        (&["--set", "rafft.heartbeat_ms=5"], &["SET-", "rafft", "raft"]),
        (&["--set", "raft.hartbeat_ms=5"], &["SET-", "hartbeat_ms", "heartbeat_ms"]),
        (&["--set", "raft.heartbeat_ms=soon"], &["SET-", "heartbeat_ms"]),
        (&["--set", "raft.heartbeat_ms=900"], &["CF-4001", "election_ms"]),
        (&["--set", "name=Not A Name"], &["CF-4001", "name"]),
    ];
    for (arguments, words) in table {
        let said = refuses(&cluster, first_with(&cluster, arguments)).await?;
        for word in words {
            ensure!(said.contains(word), "{arguments:?}: no {word:?} in: {said}");
        }
    }
    let mut missing = Command::new(testkit::binary("chainfire")?);
    missing.args(["--config", "/nonexistent/chainfire.toml"]);
    let said = refuses(&cluster, missing).await?;
    ensure!(said.contains("SET-") && said.contains("/nonexistent/chainfire.toml"), "{said}");

    // None of them touched the data folder.
    ensure!(!cluster.data(0).join("member.json").exists());
    cluster.spawn(0)?;
    cluster.ready(0).await
}

#[tokio::test]
async fn a_port_in_use_is_named() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    client.put("k", "kept").await?;
    cluster.kill(0);
    for address in cluster.listeners(0) {
        let taken = TcpListener::bind(address).await?;
        let said = refuses(&cluster, cluster.command(0)).await?;
        ensure!(said.contains(&address.to_string()), "{address} is not named: {said}");
        ensure!(said.contains("RPC-") || said.contains("TEL-"), "no code: {said}");
        drop(taken);
    }
    cluster.spawn(0)?;
    cluster.ready(0).await?;
    ensure!(client.get("k").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_data_folder_in_use_is_named() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let said = refuses(&cluster, cluster.command(0)).await?;
    ensure!(said.contains("CF-4003"), "{said}");
    cluster.client()?.put("k", "v").await?;
    Ok(())
}

#[tokio::test]
async fn oversized_requests_are_refused_and_the_connection_lives() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    for size in [2 << 20, 40 << 20] {
        let error = client.put("big", vec![0; size]).await.expect_err("over the limit");
        ensure!(!matches!(error, Error::Unreachable { .. }), "{size}: {error}");
        client.put("small", "v").await?;
    }
    let error = client.put("big", vec![0; 2 << 20]).await.expect_err("over the limit");
    let Error::Refused { message, .. } = &error else { panic!("{error}") };
    ensure!(message == "etcdserver: request is too large", "{message}");
    ensure!(error.code().0 == "CF-1007", "{error}");

    let mut txn = client.txn();
    for number in 0..129 {
        txn = txn.then(Op::put(format!("{number}"), "v"));
    }
    let error = txn.commit().await.expect_err("over the limit");
    let Error::Refused { message, .. } = &error else { panic!("{error}") };
    ensure!(message == "etcdserver: too many operations in txn request", "{message}");
    ensure!(client.get("big").await?.is_none());
    Ok(())
}

/// Bytes that are no protocol of ours, or nearly are.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let mut random = vec![0; 64 << 10];
    SmallRng::seed_from_u64(1).fill_bytes(&mut random);
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frames.extend_from_slice(&random[..4096]);
    // A TLS record that promises more than comes, and a hello that is none.
    let mut hello = vec![0x16, 3, 1, 0x40, 0];
    hello.extend_from_slice(&random[..200]);
    vec![
        ("nothing", Vec::new()),
        ("one byte", vec![0]),
        ("random bytes", random.clone()),
        ("HTTP/1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a long line", vec![b'A'; 1 << 20]),
        ("HTTP/2 and random frames", frames),
        ("half a TLS hello", hello),
        ("many headers", [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(100_000)].concat()),
    ]
}

async fn feed(address: std::net::SocketAddr) -> Result<()> {
    let mut open = Vec::new();
    for (name, bytes) in garbage() {
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("before {name}"))?;
        // It may be closed in our face at any point: that is its right.
        let send = async {
            let _ = stream.write_all(&bytes).await;
            let mut answer = [0; 1024];
            let _ = stream.read(&mut answer).await;
        };
        let _ = tokio::time::timeout(Duration::from_millis(300), send).await;
        open.push(stream);
    }
    Ok(())
}

#[tokio::test]
async fn garbage_on_every_port_hurts_nobody() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    client.put("k", "kept").await?;
    for place in 0..3 {
        let fed = cluster.listeners(place).map(feed);
        for result in futures::future::join_all(fed).await {
            result?;
        }
        cluster.ready(place).await?;
        client.put("after", "garbage").await?;
    }
    ensure!(client.get("k").await?.is_some());
    for place in 0..3 {
        ensure!(cluster.process(place)?.ended().is_none(), "member {place} ended");
    }
    Ok(())
}

/// The same on the listener without TLS, where HTTP/2 itself is exposed.
#[tokio::test]
async fn garbage_on_plaintext_hurts_nobody() -> Result<()> {
    let mut cluster =
        Cluster::start_with(Options { members: 1, tls: false, ..Options::default() }).await?;
    let plain = cluster.endpoint(0).trim_start_matches("http://").parse()?;
    for address in [plain, cluster.listeners(0)[1]] {
        feed(address).await?;
    }
    cluster.ready(0).await?;
    cluster.client()?.put("after", "garbage").await?;
    let log = std::fs::read_to_string(cluster.log(0))?;
    ensure!(log.contains("WARN"), "a listener without TLS is not mentioned in the log");
    Ok(())
}
