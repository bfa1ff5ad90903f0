//! Locks: one holder, in turn, and no write from one whose time is over.

use crate::world::{World, scenario};
use anyhow::{Context, Result, ensure};
use chainfire_client::{Error, Op};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

const TTL: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

scenario!(holders_follow_each_other, 1);
async fn holders_follow_each_other(world: World) -> Result<()> {
    let client = world.client()?;
    let first = client.lock("l", TTL).await?;
    ensure!(client.try_lock("l", TTL).await?.is_none(), "two hold it");
    let second = tokio::spawn({
        let client = world.client()?;
        async move { client.lock("l", TTL).await }
    });
    testkit::eventually("one waits", PATIENCE, || async {
        ensure!(client.prefix("l/").await?.kvs.len() == 2);
        Ok(())
    })
    .await?;
    ensure!(!second.is_finished());
    first.put("owned", "by first").await?;
    ensure!(first.is_safe());
    let token = first.token();
    first.unlock().await?;
    let second = timeout(PATIENCE, second).await???;
    ensure!(second.token() > token, "the token fell");
    second.put("owned", "by second").await?;
    let done = second.txn().then(Op::put("owned", "in a txn")).commit().await?;
    ensure!(done.succeeded);
    second.delete("owned").await?;
    ensure!(client.get("owned").await?.is_none());
    second.unlock().await?;
    let third = client.try_lock("l", TTL).await?.context("nobody holds it")?;
    ensure!(third.name() == "l");
    Ok(())
}

scenario!(a_former_holder_cannot_write, 1);
async fn a_former_holder_cannot_write(world: World) -> Result<()> {
    let client = world.client()?;
    let old = client.lock("l", TTL).await?;
    client.revoke(old.lease().id()).await?;
    let new = client.lock("l", TTL).await?;
    new.put("owned", "by new").await?;
    let error = old.put("owned", "by old").await.err().context("two write")?;
    // which of the two it hears first
    ensure!(matches!(error, Error::Deposed { .. } | Error::Unsafe { .. }), "{error}");
    let done = client.txn().when(old.guard()).then(Op::put("owned", "by old")).commit().await?;
    ensure!(!done.succeeded, "the token did not fence");
    ensure!(client.get("owned").await?.context("gone")?.value == "by new");
    Ok(())
}

// The holder's own clock says no before the cluster would: nothing is sent.
scenario!(an_unkept_lease_refuses_here, 1);
async fn an_unkept_lease_refuses_here(mut world: World) -> Result<()> {
    let client = world.client()?;
    let lock = client.lock("l", TTL).await?;
    let leads = client.campaign("e", "me", TTL).await?;
    world.pause(0)?;
    testkit::eventually("the safe time is over", PATIENCE, || async {
        ensure!(!lock.is_safe() && !leads.is_safe());
        Ok(())
    })
    .await?;
    // the member is stopped: what were sent would not be answered
    let error = lock.put("owned", "x").await.err().context("written")?;
    ensure!(matches!(error, Error::Unsafe { .. }), "{error}");
    let error = leads.put("owned", "x").await.err().context("written")?;
    ensure!(matches!(error, Error::Unsafe { .. }), "{error}");
    let error = lock.txn().then(Op::put("owned", "x")).commit().await.err().context("written")?;
    ensure!(matches!(error, Error::Unsafe { .. }), "{error}");
    world.resume(0)?;
    world.serving().await?;
    ensure!(client.get("owned").await?.is_none());
    Ok(())
}

/// A process of `chainfire-hold`.
struct Holder {
    child: Child,
    orders: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    fn start(endpoint: &str) -> Result<Holder> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chainfire-hold"));
        command.args([endpoint, "l", "5"]).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let orders = child.stdin.take().context("no standard input")?;
        let says = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Holder { child, orders, says })
    }

    async fn says(&mut self) -> Result<String> {
        timeout(PATIENCE, self.says.next_line()).await??.context("it has ended")
    }

    async fn order(&mut self, order: &str) -> Result<String> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await?;
        self.says().await
    }

    fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let id = i32::try_from(self.child.id().context("it has ended")?)?;
        let id = rustix::process::Pid::from_raw(id).context("no such id")?;
        Ok(rustix::process::kill_process(id, signal)?)
    }
}

/// A holder that is stopped for longer than its lease lives wakes up believing that it holds the
/// lock. Its own clock refuses its next write; and one that is sent all the same is refused by the
/// cluster, since another has taken over.
#[tokio::test]
async fn a_paused_holder_writes_nothing_over_its_successor() -> Result<()> {
    let options = testkit::Options { members: 1, tls: false, ..testkit::Options::default() };
    let cluster = testkit::Cluster::start_with(options).await?;
    let client = cluster.client()?;
    let mut holder = Holder::start(&cluster.endpoint(0))?;
    ensure!(holder.says().await?.starts_with("held"), "not held");
    ensure!(holder.order("put").await?.contains("written"), "the holder cannot write");

    holder.signal(rustix::process::Signal::STOP)?;
    let new = timeout(PATIENCE, client.lock("l", TTL)).await??;
    new.put("protected", "by the successor").await?;
    holder.signal(rustix::process::Signal::CONT)?;

    let said = holder.order("put").await?;
    ensure!(said.contains("CF-5011"), "the holder's clock did not refuse: {said}");
    let said = holder.order("force").await?;
    ensure!(said.contains("CF-5008"), "the cluster did not refuse: {said}");
    let kept = client.get("protected").await?.context("gone")?.value;
    ensure!(kept == "by the successor", "{kept:?}");
    Ok(())
}
