//! Watches that go on as long as everything does, and are judged in between.
//!
//! At a mark, everything up to it has been told to every watch, and is compared with the history
//! that each member tells a watch that begins now: all must be the same, and hold what was
//! acknowledged. What was judged is dropped.

use crate::watched::{self, Change, Revision};
use crate::workload::plain;
use anyhow::{Context, Result, bail, ensure};
use chainfire_client::{Client, Watch};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(90);

type Seen = Arc<Mutex<Vec<Revision>>>;

/// Watches of everything under a prefix.
#[derive(Debug)]
pub struct Tail {
    prefix: String,
    /// Everything up to here is judged.
    judged: i64,
    seen: Vec<(String, Seen)>,
    tasks: JoinSet<Result<()>>,
}

impl Tail {
    /// One watch for each client, from now on.
    pub async fn start(client: &Client, watching: &[Client], prefix: &str) -> Result<Tail> {
        let judged = mark(client, prefix).await?;
        let mut tail =
            Tail { prefix: prefix.to_owned(), judged, seen: Vec::new(), tasks: JoinSet::new() };
        for client in watching {
            let watch = Watch::prefix(prefix.to_owned()).from(judged + 1);
            let (mut watcher, seen) = (client.watch(watch).await?, Seen::default());
            tail.seen.push((client.endpoints().join(","), seen.clone()));
            tail.tasks.spawn(async move {
                loop {
                    let next = plain(watcher.next().await?);
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(next);
                }
            });
        }
        Ok(tail)
    }

    /// Everything up to here is judged; history below it is needed no more.
    pub fn judged(&self) -> i64 {
        self.judged
    }

    /// Sets a mark, waits for all watches to reach it, and judges them. What happened since the
    /// last mark.
    pub async fn judge(&mut self, client: &Client, members: &[Client]) -> Result<Vec<Revision>> {
        let (from, to) = (self.judged + 1, mark(client, &self.prefix).await?);
        let mut truth: Option<Vec<Revision>> = None;
        for member in members {
            let name = member.endpoints().join(",");
            let told = self.told(member, from, to).await.with_context(|| name.clone())?;
            match &truth {
                None => truth = Some(told),
                Some(truth) => watched::check(truth, &told, from, to)
                    .with_context(|| format!("the history of {name} from {from} to {to}"))?,
            }
        }
        let truth = truth.context("no member")?;
        for (name, seen) in &self.seen {
            let reached = || {
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.last().map_or(0, |(revision, _)| *revision)
            };
            crate::eventually("a watch reaches the mark", PATIENCE, || async {
                ensure!(reached() >= to, "at {} of {to}", reached());
                Ok(())
            })
            .await
            .with_context(|| format!("watch through {name} from {from}"))?;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let since = seen.split_off(0);
            watched::check(&truth, &since, from, to)
                .with_context(|| format!("watch through {name} from {from} to {to}"))?;
            // Nobody else writes under the prefix after the mark, but what did is not lost.
            *seen = since.into_iter().filter(|(revision, _)| *revision > to).collect();
        }
        if let Some(ended) = self.tasks.try_join_next() {
            bail!("a watch ended: {ended:?}");
        }
        self.judged = to;
        Ok(truth)
    }

    /// What a member tells of the past.
    async fn told(&self, member: &Client, from: i64, to: i64) -> Result<Vec<Revision>> {
        let mut watcher = member.watch(Watch::prefix(self.prefix.clone()).from(from)).await?;
        let mut told: Vec<Revision> = Vec::new();
        while told.last().is_none_or(|(revision, _)| *revision < to) {
            let next = timeout(PATIENCE, watcher.next()).await;
            told.push(plain(next.with_context(|| format!("silent after {:?}", told.last()))??));
        }
        Ok(told)
    }
}

/// Every write that was acknowledged, by its key and revision, is in what happened.
pub fn holds(truth: &[Revision], acked: impl IntoIterator<Item = (String, i64)>) -> Result<usize> {
    let mut count = 0;
    for (key, revision) in acked {
        let at = truth.binary_search_by_key(&revision, |(revision, _)| *revision);
        let changes = at.map_or(&[][..], |at| &truth[at].1);
        let written = |change: &Change| change.key == key && change.value.is_some();
        ensure!(
            changes.iter().any(written),
            "acknowledged write of {key} at {revision} is not in the history: {changes:?}"
        );
        count += 1;
    }
    Ok(count)
}

async fn mark(client: &Client, prefix: &str) -> Result<i64> {
    crate::eventually("a mark", PATIENCE, || async {
        Ok(client.put(format!("{prefix}~mark"), "x").await?)
    })
    .await
}
