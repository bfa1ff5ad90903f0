//! What background work does to the latency of puts that go on meanwhile.

use crate::load::{Load, Round};
use crate::report::median;
use crate::servers::{Programs, Server, Side};
use crate::work::Op;
use crate::{Settings, connect, load};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::{CompactionRequest, SnapshotRequest};
use serde_json::json;
use std::fmt;
use std::time::{Duration, Instant};

/// The work in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    /// A compaction of several versions of every key, until its space is given back
    Compaction,
    /// One snapshot after the other is read out, as `etcdctl snapshot save` does
    Snapshot,
}

impl fmt::Display for Work {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Work::Compaction => "compaction",
            Work::Snapshot => "snapshot",
        })
    }
}

/// Versions that every key gets before a compaction.
const VERSIONS: usize = 3;

/// Puts without and with the work, in turn.
pub(crate) struct During {
    side: Side,
    work: Work,
    clients: usize,
    quiet: Vec<Round>,
    busy: Vec<Round>,
}

/// Measures one server of one node.
#[expect(clippy::print_stderr, reason = "progress of a program")]
pub(crate) async fn run(
    side: Side,
    work: Work,
    clients: usize,
    programs: &Programs,
    settings: &Settings,
) -> Result<During> {
    let server = Server::start(side, 1, programs, settings).await?;
    eprintln!("filling {side} with {} keys", settings.keys);
    load::fill(&server.endpoints(), settings.keys, settings.value).await?;
    let load = Load { op: Op::Put, clients, nodes: 1, settings };
    let mut during = During { side, work, clients, quiet: Vec::new(), busy: Vec::new() };
    for _ in 0..settings.rounds {
        if work == Work::Compaction {
            for _ in 1..VERSIONS {
                load::fill(&server.endpoints(), settings.keys, settings.value).await?;
            }
        }
        during.quiet.push(load.run(&server).await?);
        let busy = load.run_while(&server, disturb(&server, work, settings.seconds));
        during.busy.push(busy.await?);
    }
    Ok(during)
}

async fn disturb(server: &Server, work: Work, seconds: f64) -> Result<()> {
    let endpoint = server.endpoints().into_iter().next().context("no endpoint")?;
    let channel = connect::channels(&[endpoint], 1).await?.remove(0);
    match work {
        Work::Compaction => {
            let revision = connect::revision(&channel).await?;
            let request = CompactionRequest { revision, physical: true };
            KvClient::new(channel).compact(request).await?;
        }
        Work::Snapshot => {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs_f64(seconds) {
                let mut client =
                    MaintenanceClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
                let mut parts = client.snapshot(SnapshotRequest::default()).await?.into_inner();
                let mut bytes = 0;
                while let Some(part) = parts.message().await? {
                    bytes += part.blob.len();
                }
                ensure!(bytes > 0, "an empty snapshot");
            }
        }
    }
    Ok(())
}

fn p99(rounds: &[Round]) -> f64 {
    median(rounds.iter().map(|r| r.latency.value_at_quantile(0.99) as f64 / 1000.0).collect())
}

fn per_second(rounds: &[Round]) -> f64 {
    median(rounds.iter().map(|round| round.per_second).collect())
}

impl During {
    fn ratio(&self) -> f64 {
        p99(&self.busy) / p99(&self.quiet)
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{:9} puts, {} clients: {:.0}/s, p99 {:.2} ms; during {} {:.0}/s, p99 {:.2} ms: {:.2} times",
            self.side.to_string(),
            self.clients,
            per_second(&self.quiet),
            p99(&self.quiet),
            self.work,
            per_second(&self.busy),
            p99(&self.busy),
            self.ratio(),
        )
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "server": self.side.to_string(),
            "during": self.work.to_string(),
            "clients": self.clients,
            "quiet_per_second": per_second(&self.quiet),
            "quiet_p99_ms": p99(&self.quiet),
            "busy_per_second": per_second(&self.busy),
            "busy_p99_ms": p99(&self.busy),
            "ratio_p99": self.ratio(),
        })
    }
}
