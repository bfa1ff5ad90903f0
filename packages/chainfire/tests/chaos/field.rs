//! The cluster, the load on it, and what is judged after each round.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chainfire_client::Client;
use testkit::leases::{Ends, Leases};
use testkit::tail::{self, Tail};
use testkit::workload::{Registers, Writers, same_history, serves_again};
use testkit::{Cluster, clock, eventually, logs};
use tonic::transport::Channel;

use super::plan::{Means, Plan};

/// How long anything may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Members that stay; one more comes and goes.
pub(crate) const VOTERS: usize = 3;
/// MiB of each member's disk.
const DISK: u64 = 480;

pub(crate) struct Field {
    pub(crate) cluster: Cluster,
    /// Of all that stay.
    pub(crate) client: Client,
    pub(crate) channels: Vec<Channel>,
    pub(crate) tail: Tail,
    /// Who led when the round began.
    pub(crate) leader: usize,
    /// Whether processes can be given monotonic clocks of their own.
    pub(crate) namespaces: bool,
    each: Vec<Client>,
    /// Pinned to one member each, and not.
    loaders: Vec<Client>,
    leases: Leases,
    means: Means,
    sum: Sum,
}

/// What all rounds together were.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    operations: usize,
    unknown: usize,
    acked: usize,
    revisions: usize,
    leases: Ends,
    snapshots: usize,
}

impl fmt::Display for Sum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} operations ({} without answer) linearizable, {} acknowledged writes in the history, {} revisions told exactly by 4 watches and by each member, {} leases expired and {} revoked after {} renewals, {} snapshots installed",
            self.operations,
            self.unknown,
            self.acked,
            self.revisions,
            self.leases.expired,
            self.leases.revoked,
            self.leases.renewals,
            self.snapshots,
        )
    }
}

impl Field {
    pub(crate) async fn start(seed: u64) -> Result<Field> {
        let mut cluster = Cluster::start_with(testkit::Options {
            members: VOTERS,
            disks: Some(DISK),
            clocks: true,
            patience: PATIENCE,
            set: vec![
                "raft.heartbeat_ms=100".into(),
                "raft.election_ms=500".into(),
                // Whoever is away for a few seconds needs a snapshot.
                "raft.snapshot_entries=20".into(),
                "storage.persist_seconds=1".into(),
            ],
            ..testkit::Options::default()
        })
        .await?;
        let means = Means { disks: cluster.disk(0).is_some(), clocks: cluster.clock(0).is_some() };
        let boots = clock::booted(1);
        let namespaces = Command::new(&boots[0]).args(&boots[1..]).arg("true").output();
        let namespaces = namespaces.is_ok_and(|output| output.status.success());
        println!("{means:?}, monotonic clocks of their own: {namespaces}");
        for known in ["no space left", "No space left", "was removed from the cluster"] {
            cluster.expect_error(known);
        }
        let (client, each) = (cluster.client()?, cluster.client_of_each()?);
        let loaders = cluster.pinned_and_roaming()?;
        let channels =
            (0..VOTERS).map(|place| cluster.channel(place)).collect::<Result<Vec<_>>>()?;
        // The fourth, which does not run yet and of which these clients know nothing.
        cluster.configure().await?;
        let watching: Vec<Client> = each.iter().chain([&client]).cloned().collect();
        let tail = Tail::start(&client, &watching, "c/").await?;
        let leases = Leases::start(4, &channels, &loaders[1], "c/l/", seed);
        let (leader, sum) = (0, Sum::default());
        Ok(Field {
            cluster,
            client,
            channels,
            tail,
            leader,
            namespaces,
            each,
            loaders,
            leases,
            means,
            sum,
        })
    }

    pub(crate) fn means(&self) -> Means {
        self.means
    }

    /// One round: load, faults, healing, judgement.
    pub(crate) async fn round(&mut self, number: u64, plan: &Plan) -> Result<()> {
        let begun = std::time::Instant::now();
        self.leader = self.who_leads().await?;
        let (writes, registers) = (format!("c/w/{number}/"), format!("c/r/{number}/"));
        let mut writers =
            Writers::start(vec![self.client.clone(), self.loaders[1].clone()], &writes);
        let registers = Registers::start(self.loaders.clone(), &registers, 4, plan.seed);
        eventually("writes go on", PATIENCE, || async {
            ensure!(writers.acked().len() > 20);
            Ok(())
        })
        .await?;

        self.strike(plan).await?;
        let healed = std::time::Instant::now();
        serves_again(&self.client).await.context("after healing")?;
        for place in 0..VOTERS {
            self.cluster.ready(place).await.context("after healing")?;
        }
        let recovered = healed.elapsed();

        writers.stop().await?;
        writers.verify(&self.client, &writes).await?;
        let (operations, unknown) = registers.verify().await?;
        let truth = self.tail.judge(&self.client, &self.each).await?;
        self.sum.acked += tail::holds(&truth, writers.acked())?;
        self.sum.leases = self.leases.check()?;
        same_history(&self.client).await?;
        for place in 0..VOTERS {
            if let Some(status) = self.cluster.process(place)?.ended() {
                let log = logs::tail(&self.cluster.log(place), 30);
                bail!("member {place} ended by itself: {status}\n{log}");
            }
        }
        self.client.delete_prefix("c/w/").await?;
        self.client.delete_prefix("c/r/").await?;
        self.sum.operations += operations;
        self.sum.unknown += unknown;
        self.sum.revisions += truth.len();
        println!(
            "round {number}: {:?} for {} ms, served again after {} ms; {operations} operations ({unknown} without answer), {} writes, {} revisions; {} ms",
            plan.faults,
            plan.lasts.as_millis(),
            recovered.as_millis(),
            writers.acked().len(),
            truth.len(),
            begun.elapsed().as_millis()
        );
        Ok(())
    }

    /// Lets every lease come to its end.
    pub(crate) async fn finish(mut self) -> Result<Sum> {
        self.sum.leases = self.leases.stop().await?;
        self.tail.judge(&self.client, &self.each).await?;
        for place in 0..VOTERS {
            let log = std::fs::read_to_string(self.cluster.log(place))?;
            let installed = log.lines().filter(|line| line.contains("installing a snapshot"));
            self.sum.snapshots += installed.count();
        }
        Ok(self.sum)
    }

    async fn who_leads(&self) -> Result<usize> {
        eventually("a leader", PATIENCE, || async {
            let known = self.client.status().await;
            let leads = known.iter().position(|(_, status)| {
                status.as_ref().is_ok_and(|status| status.leader == status.member)
            });
            leads.with_context(|| format!("{known:?}"))
        })
        .await
    }
}
