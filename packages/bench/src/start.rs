//! How long a server with many keys takes to serve again, and how much memory it takes.

use crate::servers::{Programs, Server, Side};
use crate::{Settings, load};
use anyhow::{Context, Result};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::kv_client::KvClient;
use serde_json::json;
use std::time::{Duration, Instant};
use tonic::transport::Endpoint;

/// What one server showed.
pub(crate) struct Started {
    side: Side,
    keys: u64,
    fill_per_second: f64,
    filled: u64,
    /// Seconds to the first linearizable read, and memory after it.
    stopped: Vec<(f64, u64)>,
    killed: Vec<(f64, u64)>,
}

/// Fills a server of one node with keys, and starts it again after stops and kills.
#[expect(clippy::print_stderr, reason = "progress of a program")]
pub(crate) async fn run(
    side: Side,
    keys: u64,
    programs: &Programs,
    settings: &Settings,
) -> Result<Started> {
    let mut server = Server::start(side, 1, programs, settings).await?;
    eprintln!("filling {side} with {keys} keys");
    let begun = Instant::now();
    load::fill(&server.endpoints(), keys, settings.value).await?;
    let fill_per_second = keys as f64 / begun.elapsed().as_secs_f64();
    let filled = server.resident()?;
    let (mut stopped, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        for kill in [false, true] {
            server.end(kill).await?;
            let begun = Instant::now();
            server.begin()?;
            serves(&server, keys).await?;
            let seconds = begun.elapsed().as_secs_f64();
            let times = if kill { &mut killed } else { &mut stopped };
            times.push((seconds, server.resident()?));
        }
    }
    Ok(Started { side, keys, fill_per_second, filled, stopped, killed })
}

/// Waits for the first linearizable read.
async fn serves(server: &Server, keys: u64) -> Result<()> {
    let endpoint = server.endpoints().into_iter().next().context("no endpoint")?;
    let begun = Instant::now();
    loop {
        let read = async {
            let connected = Endpoint::from_shared(endpoint.clone())?.connect().await?;
            let key = crate::keys::key(keys / 2);
            let request = RangeRequest { key, ..RangeRequest::default() };
            let answer = KvClient::new(connected).range(request).await?.into_inner();
            anyhow::ensure!(answer.kvs.len() == 1, "a key is gone");
            anyhow::Ok(())
        };
        match tokio::time::timeout(Duration::from_secs(5), read).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if begun.elapsed() > Duration::from_secs(120) => return Err(error),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    crate::report::median(values.collect())
}

impl Started {
    fn seconds(times: &[(f64, u64)]) -> f64 {
        median(times.iter().map(|(seconds, _)| *seconds))
    }

    /// MiB after a start.
    fn resident(&self) -> f64 {
        let all = self.stopped.iter().chain(&self.killed);
        median(all.map(|(_, bytes)| *bytes as f64)) / f64::from(1 << 20)
    }

    pub(crate) fn line(&self, peer: Option<&Started>) -> String {
        let filled = self.filled as f64 / f64::from(1 << 20);
        let (stopped, killed) = (Self::seconds(&self.stopped), Self::seconds(&self.killed));
        let ratios = peer.map_or(String::new(), |peer| {
            format!(
                "; of {}: start {:.2} and {:.2}, memory {:.2} and {:.2}",
                peer.side,
                stopped / Self::seconds(&peer.stopped),
                killed / Self::seconds(&peer.killed),
                self.filled as f64 / peer.filled as f64,
                self.resident() / peer.resident(),
            )
        });
        format!(
            "{:9} {} keys: filled at {:.0}/s, then {filled:.0} MiB; serves {stopped:.2} s after a \
             stop, {killed:.2} s after a kill, then {:.0} MiB{ratios}",
            self.side.to_string(),
            self.keys,
            self.fill_per_second,
            self.resident(),
        )
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "server": self.side.to_string(),
            "keys": self.keys,
            "fill_per_second": self.fill_per_second,
            "resident_after_fill": self.filled,
            "start_after_stop_seconds": Self::seconds(&self.stopped),
            "start_after_kill_seconds": Self::seconds(&self.killed),
            "resident_after_start_mib": self.resident(),
        })
    }
}
