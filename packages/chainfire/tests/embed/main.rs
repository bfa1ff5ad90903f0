//! A member inside a program: this test's, and the example's.

#[allow(dead_code)] // its main, which the test goes past
#[path = "../../examples/embed.rs"]
mod example;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chainfire::embed::{
    Cluster, ClusterBuilder, ClusterEvent, ClusterEventHandler, From, Gap, KvChange,
    KvEventHandler, KvRevision,
};
use chainfire::settings::GossipSettings;
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a handler was told.
#[derive(Debug, PartialEq)]
enum Told {
    Revision(KvRevision),
    Gap(Gap),
}

/// Passes on what it is told, as slowly as its reader takes it.
struct Passes(mpsc::Sender<Told>);

impl KvEventHandler for Passes {
    async fn handle(&mut self, revision: KvRevision) {
        let _ = self.0.send(Told::Revision(revision)).await;
    }

    async fn gap(&mut self, gap: Gap) {
        let _ = self.0.send(Told::Gap(gap)).await;
    }
}

struct Events(mpsc::UnboundedSender<ClusterEvent>);

impl ClusterEventHandler for Events {
    async fn handle(&mut self, event: ClusterEvent) {
        let _ = self.0.send(event);
    }
}

fn alone(folder: &Path) -> ClusterBuilder {
    ClusterBuilder::new(folder.join("store")).without_tls()
}

/// A store with a handler that takes one revision at a time.
async fn followed(folder: &Path, from: From) -> Result<(Cluster, mpsc::Receiver<Told>)> {
    let (tell, told) = mpsc::channel(1);
    let cluster = alone(folder).on_kv("a/", from, Passes(tell)).start().await?;
    cluster.ready().await;
    Ok((cluster, told))
}

async fn next(told: &mut mpsc::Receiver<Told>) -> Result<KvRevision> {
    match timeout(PATIENCE, told.recv()).await?.context("the handler is gone")? {
        Told::Revision(revision) => Ok(revision),
        Told::Gap(gap) => anyhow::bail!("{gap:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_certificates_only_when_that_is_said() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let refused = ClusterBuilder::new(dir.path()).start().await.err().context("started")?;
    ensure!(refused.code.0 == "CF-4001" && refused.hint.contains("without_tls"), "{refused}");
    ensure!(std::fs::read_dir(dir.path())?.next().is_none(), "something was written");
    let joins = ClusterBuilder::new(dir.path()).without_tls().join(["http://127.0.0.1:1"]);
    let refused = joins.start().await.err().context("started")?;
    ensure!(refused.hint.contains("cluster_id"), "{refused}");
    Ok(())
}

/// Each change under the prefix once and in order, whole revisions, and on from a given revision
/// after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_once_in_order_and_resumed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (cluster, mut told) = followed(dir.path(), From::Now).await?;
    let client = cluster.client()?;
    let first = client.put("a/1", "x").await?;
    client.put("b/1", "not under the prefix").await?;
    let both = client
        .txn()
        .then(chainfire_client::Op::put("a/2", "y"))
        .then(chainfire_client::Op::delete("a/1"))
        .commit()
        .await?
        .revision;
    let revision = next(&mut told).await?;
    ensure!(revision.revision == first && revision.changes.len() == 1, "{revision:?}");
    let revision = next(&mut told).await?;
    ensure!(revision.revision == both, "{revision:?}");
    match &revision.changes[..] {
        [KvChange::Put(kv), KvChange::Delete { key }] => {
            ensure!(kv.key == "a/2" && kv.value == "y" && key == "a/1", "{revision:?}");
            ensure!(kv.mod_revision == both && kv.create_revision == both, "{revision:?}");
        }
        other => anyhow::bail!("{other:?}"),
    }
    let id = cluster.status().me;
    cluster.stop().await;

    // the same member again, and on from where the handler was
    let (cluster, mut told) = followed(dir.path(), From::Revision(first + 1)).await?;
    ensure!(cluster.status().me == id);
    ensure!(next(&mut told).await? == revision);
    let third = cluster.client()?.put("a/3", "z").await?;
    ensure!(next(&mut told).await?.revision == third);
    cluster.stop().await;
    Ok(())
}

/// A handler that takes nothing holds up neither writes nor compaction, and is told of the gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_stalls_nothing_and_is_told_of_a_gap() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (cluster, mut told) = followed(dir.path(), From::Now).await?;
    let client = cluster.client()?;
    let first = client.put("a/0", "x").await?;
    for count in 1..500 {
        client.put(format!("a/{}", count % 50), vec![b'v'; 8192]).await?;
    }
    // 4 MiB, more than one page of history: the handler holds a part and has not asked for the rest
    let last = client.revision().await?;
    let served = cluster.reader().clone();
    ensure!(served.revision() == last);
    client.compact(last).await?;

    let (mut expected, mut gap) = (first, None);
    while expected <= last {
        match timeout(PATIENCE, told.recv()).await?.context("the handler is gone")? {
            Told::Revision(revision) => {
                ensure!(revision.revision == expected, "{} for {expected}", revision.revision);
                expected += 1;
            }
            Told::Gap(told) => {
                ensure!(gap.is_none() && told.from == expected && told.to > told.from, "{told:?}");
                expected = told.to;
                gap = Some(told);
            }
        }
    }
    ensure!(gap.is_some(), "nothing was compacted before it was read: the test shows nothing");
    let after = client.put("a/after", "x").await?;
    ensure!(next(&mut told).await?.revision == after);
    cluster.stop().await;
    Ok(())
}

/// Two embedded members: who joins, leads, is up, goes down and leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_in_the_cluster_is_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let id = uuid::Uuid::now_v7();
    let gossip = || {
        let mut gossip = GossipSettings::on("127.0.0.1:0".parse().expect("an address"));
        gossip.probe_ms = 300;
        gossip
    };
    let (tell, mut told) = mpsc::unbounded_channel();
    let one = ClusterBuilder::new(dir.path().join("one"))
        .name("one")
        .cluster_id(id)
        .without_tls()
        .gossip(gossip())
        .on_cluster(Events(tell))
        .start()
        .await?;
    let mut until = async |what: &str, wanted: &dyn Fn(&ClusterEvent) -> bool| -> Result<()> {
        let find = async {
            loop {
                match told.recv().await {
                    Some(event) if wanted(&event) => return Ok(()),
                    Some(_) => {}
                    None => anyhow::bail!("the handler is gone"),
                }
            }
        };
        timeout(PATIENCE, find).await.with_context(|| what.to_owned())?
    };
    until("leads", &|e| matches!(e, ClusterEvent::LeaderChanged { leader: Some(_), .. })).await?;

    let peer = one.endpoints().peer.clone().context("no peer address")?;
    let two = ClusterBuilder::new(dir.path().join("two"))
        .name("two")
        .cluster_id(id)
        .join([format!("http://{peer}")])
        .without_tls()
        .gossip(gossip())
        .start()
        .await?;
    two.ready().await;
    let is_two = |name: &String| name == "two";
    until("joined", &|e| matches!(e, ClusterEvent::MemberJoined { name, .. } if is_two(name)))
        .await?;
    until("up", &|e| matches!(e, ClusterEvent::MemberUp { name, .. } if is_two(name))).await?;
    testkit::eventually("two votes", PATIENCE, || async {
        ensure!(one.status().members.iter().all(|member| member.voter));
        Ok(())
    })
    .await?;

    // removed by the operator: it is told before, and its process is down after
    let me = two.status().me;
    let client = one.client()?;
    testkit::eventually("two is removed", PATIENCE, || async {
        Ok(client.member_remove(me).await?)
    })
    .await?;
    until("left", &|e| matches!(e, ClusterEvent::MemberLeft { name, .. } if is_two(name))).await?;
    two.stop().await;
    one.stop().await;
    Ok(())
}

/// The example does what it says, twice in the same folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_runs_and_resumes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let run = async || -> Result<String> {
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        let say = move |line: String| {
            let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(&line);
            said.push('\n');
        };
        timeout(PATIENCE, example::run(dir.path(), say)).await??;
        Ok(said.lock().unwrap_or_else(PoisonError::into_inner).clone())
    };
    let first = run().await?;
    for line in ["Revision(1)", "0 jobs", "jobs/0 = to do", "jobs/0 = done", "joined"] {
        ensure!(first.contains(line), "{line:?} is not in {first}");
    }
    ensure!(!first.contains("elsewhere"), "{first}");
    let second = run().await?;
    for line in ["1 jobs", "jobs/1 = to do", "jobs/1 = done"] {
        ensure!(second.contains(line), "{line:?} is not in {second}");
    }
    ensure!(!second.contains("jobs/0"), "told twice: {second}");
    Ok(())
}
