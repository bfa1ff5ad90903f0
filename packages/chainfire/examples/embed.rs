//! A program with Chainfire inside: one node, in a folder, that tells what happens in it.
//! `cargo run -p chainfire --example embed -- /tmp/embedded`
//!
//! Run it twice with the same folder: what was written is there, and the handler goes on after the
//! last revision that it kept in `seen`.

#![allow(clippy::print_stdout)] // a program speaks to people

use std::path::{Path, PathBuf};

use anyhow::Context;
use chainfire::embed::{
    ClusterBuilder, ClusterEvent, ClusterEventHandler, From, Gap, KvChange, KvEventHandler,
    KvRevision,
};
use tokio::sync::mpsc;

/// Says what happens in the cluster.
struct Tell<S>(S);

impl<S: Fn(String) + Send + 'static> ClusterEventHandler for Tell<S> {
    async fn handle(&mut self, event: ClusterEvent) {
        match event {
            ClusterEvent::LeaderChanged { leader: Some(_), term } => {
                self.0(format!("cluster: led in term {term}"));
            }
            ClusterEvent::MemberJoined { name, .. } => self.0(format!("cluster: {name} joined")),
            other => self.0(format!("cluster: {other:?}")),
        }
    }
}

/// Says what changes, and keeps the last revision that it has handled in a file.
struct Follow<S> {
    say: S,
    seen: PathBuf,
    handled: mpsc::UnboundedSender<i64>,
}

impl<S: Fn(String) + Send + Sync + 'static> KvEventHandler for Follow<S> {
    async fn handle(&mut self, revision: KvRevision) {
        let (at, text) = (revision.revision, String::from_utf8_lossy);
        for change in &revision.changes {
            (self.say)(match change {
                KvChange::Put(kv) => format!("{at}: {} = {}", text(&kv.key), text(&kv.value)),
                KvChange::Delete { key } => format!("{at}: {} deleted", text(key)),
            });
        }
        // what was made of the changes and this number belong together
        if let Err(error) = std::fs::write(&self.seen, revision.revision.to_string()) {
            (self.say)(format!("{}: {error}", self.seen.display()));
        }
        let _ = self.handled.send(revision.revision);
    }

    async fn gap(&mut self, gap: Gap) {
        (self.say)(format!("compacted from {} to {}: read the keys anew", gap.from, gap.to));
    }
}

/// The whole of it; `say` is told each line.
pub(crate) async fn run<S>(folder: &Path, say: S) -> anyhow::Result<()>
where
    S: Fn(String) + Clone + Send + Sync + 'static,
{
    std::fs::create_dir_all(folder)?;
    let seen = folder.join("seen");
    let from = match std::fs::read_to_string(&seen) {
        Ok(text) => From::Revision(text.trim().parse::<i64>()? + 1),
        Err(_) => From::Revision(1),
    };
    say(format!("following from {from:?}"));

    let (handled, mut told) = mpsc::unbounded_channel();
    let cluster = ClusterBuilder::new(folder.join("store"))
        .without_tls() // only this machine reaches it, by the loopback address
        .on_cluster(Tell(say.clone()))
        .on_kv("jobs/", from, Follow { say: say.clone(), seen, handled })
        .start()
        .await?;
    cluster.ready().await;

    let client = cluster.client()?;
    let before = client.prefix("jobs/").await?.kvs.len();
    say(format!("{before} jobs were there"));
    client.put(format!("jobs/{before}"), "to do").await?;
    client.put("elsewhere", "not told").await?;
    let last = client.put(format!("jobs/{before}"), "done").await?;
    while told.recv().await.is_some_and(|revision| revision < last) {}
    cluster.stop().await;
    say("stopped".to_owned());
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder: PathBuf = std::env::args().nth(1).context("name a folder")?.into();
    run(&folder, |line| println!("{line}")).await
}
