//! How faults strike, and how they are undone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::DefragmentRequest;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::{clock, eventually};

use super::field::{Field, PATIENCE, VOTERS};
use super::plan::{Fault, Plan, Whom};

/// How long a member must be away until the log no longer reaches back to it.
const OUTRUN: Duration = Duration::from_millis(2500);

/// What must be undone.
#[derive(Debug, Default)]
pub(crate) struct Struck {
    down: BTreeSet<usize>,
    paused: BTreeSet<usize>,
    still: BTreeSet<usize>,
    full: BTreeSet<usize>,
    stutters: Vec<(usize, Duration)>,
}

impl Field {
    /// The faults of a round, from the first to the last healed.
    pub(crate) async fn strike(&mut self, plan: &Plan) -> Result<()> {
        let mut struck = Struck::default();
        let mut lasts = plan.lasts;
        for fault in &plan.faults {
            if matches!(fault, Fault::Outrun(_)) {
                lasts = lasts.max(OUTRUN);
            }
            self.begin(fault, &mut struck).await.with_context(|| format!("{fault:?}"))?;
        }
        let until = tokio::time::Instant::now() + lasts;
        for fault in &plan.faults {
            self.act(fault).await.with_context(|| format!("{fault:?}"))?;
        }
        self.last(until, &struck).await?;
        self.heal(&struck, plan.seed)
    }

    fn place(&self, whom: Whom) -> usize {
        match whom {
            Whom::Leader => self.leader,
            Whom::Place(place) => place,
        }
    }

    async fn begin(&mut self, fault: &Fault, struck: &mut Struck) -> Result<()> {
        let links = self.cluster.links();
        let all = self.cluster.len();
        match *fault {
            Fault::Kill(whom) | Fault::Outrun(whom) => self.kill(self.place(whom), struck),
            Fault::KillAll => (0..VOTERS).for_each(|place| self.kill(place, struck)),
            Fault::Pause(whom) => {
                let place = self.place(whom);
                if !struck.down.contains(&place) {
                    self.cluster.process(place)?.pause()?;
                    struck.paused.insert(place);
                }
            }
            Fault::Isolate(whom) => links.isolate(self.place(whom), all),
            Fault::Deaf { whom, speaks } => {
                let place = self.place(whom);
                for other in (0..all).filter(|other| *other != place) {
                    match speaks {
                        true => links.cut(other, place),
                        false => links.cut(place, other),
                    }
                }
            }
            Fault::Bridge(whom) => {
                let middle = self.place(whom);
                let (one, other) = ((middle + 1) % VOTERS, (middle + 2) % VOTERS);
                links.cut(one, other);
                links.cut(other, one);
            }
            Fault::Slow { by } => {
                for (from, to) in (0..all).flat_map(|from| (0..all).map(move |to| (from, to))) {
                    links.slow(from, to, by);
                }
            }
            Fault::Full(whom) => {
                let place = self.place(whom);
                self.cluster.disk(place).context("a disk")?.fill()?;
                struck.full.insert(place);
            }
            Fault::Stall(whom) => {
                let place = self.place(whom);
                self.cluster.disk(place).context("a disk")?.freeze()?;
                struck.still.insert(place);
            }
            Fault::Stutter { whom, still } => struck.stutters.push((self.place(whom), still)),
            Fault::Clock { whom, by } => {
                self.cluster.clock(self.place(whom)).context("a clock")?.jump(by)?;
            }
            Fault::Join | Fault::Wipe(_) | Fault::Hand | Fault::Compact => {}
        }
        Ok(())
    }

    fn kill(&mut self, place: usize, struck: &mut Struck) {
        // Whoever waits for a disk that stands still cannot be killed.
        if !struck.still.contains(&place) {
            self.cluster.kill(place);
            struck.down.insert(place);
            struck.paused.remove(&place);
        }
    }

    /// What is done while other faults last.
    async fn act(&mut self, fault: &Fault) -> Result<()> {
        match *fault {
            Fault::Join => self.a_fourth_comes_and_goes().await,
            Fault::Wipe(whom) => {
                let place = self.place(whom);
                self.cluster.kill(place);
                self.cluster.wipe(place)?;
                self.cluster.join_again(place)?;
                self.cluster.spawn(place)?;
                self.cluster.ready(place).await?;
                self.voters(VOTERS).await
            }
            Fault::Hand => {
                let target = (self.leader + 1) % VOTERS;
                let status = self.client.status().await.swap_remove(target).1;
                if let Ok(status) = status {
                    // It may be down, or not the leader any more.
                    let _ = self.client.move_leader(self.leader, status.member).await;
                }
                Ok(())
            }
            Fault::Compact => {
                match self.client.compact(self.tail.judged()).await {
                    // By the same call, whose first answer was lost.
                    Ok(()) | Err(chainfire_client::Error::Compacted { .. }) => {}
                    Err(error) => println!("  not compacted: {error}"),
                }
                for channel in &self.channels {
                    let mut maintenance = MaintenanceClient::new(channel.clone());
                    let reclaim = maintenance.defragment(DefragmentRequest {});
                    let _ = tokio::time::timeout(Duration::from_secs(5), reclaim).await;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn a_fourth_comes_and_goes(&mut self) -> Result<()> {
        let spare = VOTERS;
        self.cluster.spawn(spare)?;
        self.cluster.ready(spare).await?;
        self.voters(VOTERS + 1).await?;
        let name = self.cluster.name(spare).to_owned();
        eventually("the fourth is removed", PATIENCE, || async {
            let members = self.client.members().await?;
            let Some(member) = members.iter().find(|member| member.name == name) else {
                return Ok(());
            };
            self.client.member_remove(member.id).await?;
            Ok(())
        })
        .await?;
        self.cluster.kill(spare);
        self.cluster.wipe(spare)?;
        self.voters(VOTERS).await
    }

    async fn last(&mut self, until: tokio::time::Instant, struck: &Struck) -> Result<()> {
        if struck.stutters.is_empty() {
            tokio::time::sleep_until(until).await;
            return Ok(());
        }
        while tokio::time::Instant::now() < until {
            for (place, still) in &struck.stutters {
                if struck.still.contains(place) {
                    tokio::time::sleep(*still).await;
                    continue;
                }
                self.cluster.disk(*place).context("a disk")?.freeze()?;
                tokio::time::sleep(*still).await;
                self.cluster.disk(*place).context("a disk")?.thaw()?;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn heal(&mut self, struck: &Struck, seed: u64) -> Result<()> {
        self.cluster.links().heal();
        for place in &struck.still {
            self.cluster.disk(*place).context("a disk")?.thaw()?;
        }
        for place in &struck.full {
            self.cluster.disk(*place).context("a disk")?.empty()?;
        }
        for place in &struck.paused {
            self.cluster.process(*place)?.resume()?;
        }
        for place in 0..VOTERS {
            if let Some(clock) = self.cluster.clock(place) {
                clock.jump(0)?;
            }
        }
        // Whoever had no room has stopped, or is about to; its keeper starts it again.
        let mut random = SmallRng::seed_from_u64(seed ^ 0xb007);
        for place in struck.full.union(&struck.down) {
            self.cluster.kill(*place);
            if self.namespaces {
                self.cluster.within(*place, clock::booted(random.random_range(0..10_000_000)));
            }
            self.cluster.spawn(*place)?;
        }
        Ok(())
    }

    /// Waits until so many members vote, and no more are known.
    pub(crate) async fn voters(&self, count: usize) -> Result<()> {
        eventually("all vote", PATIENCE, || async {
            let members = self.client.members().await?;
            let voters = members.iter().filter(|member| !member.learner).count();
            ensure!(members.len() == count && voters == count, "{voters} of {members:?}");
            Ok(())
        })
        .await
    }
}
