//! The load: raw generated clients, each with one request in flight, over a few connections.
//!
//! What it measures of a server in one round: operations, latencies, CPU and memory. The single
//! requests are in [`crate::client`].

use crate::client::{One, Shared};
use crate::connect;
use crate::keys;
use crate::servers::{Server, Side};
use crate::work::Op;
use crate::{Settings, warm_up};
use anyhow::{Result, ensure};
use api::etcdserverpb::PutRequest;
use api::etcdserverpb::kv_client::KvClient;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// One piece of work.
pub(crate) struct Load<'a> {
    pub(crate) op: Op,
    pub(crate) clients: usize,
    pub(crate) nodes: u8,
    pub(crate) settings: &'a Settings,
}

/// What one round measured.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) per_second: f64,
    /// Microseconds.
    pub(crate) latency: Histogram<u32>,
    /// Cores that the server used.
    pub(crate) server_cores: f64,
    /// Cores that the load used.
    pub(crate) load_cores: f64,
    pub(crate) resident: u64,
}

/// What the clients do now.
pub(crate) const WARMING: u8 = 0;
pub(crate) const COUNTING: u8 = 1;
pub(crate) const STOPPING: u8 = 2;

/// What one client did.
pub(crate) struct Tally {
    pub(crate) latency: Histogram<u32>,
    pub(crate) counted: u64,
    /// Revisions that it made, also before and after counting.
    pub(crate) made: u64,
}

impl Tally {
    pub(crate) fn new() -> Result<Tally> {
        Ok(Tally { latency: histogram()?, counted: 0, made: 0 })
    }
}

impl Load<'_> {
    pub(crate) async fn run(&self, server: &Server) -> Result<Round> {
        let seconds = Duration::from_secs_f64(self.settings.seconds);
        let pause = async {
            tokio::time::sleep(seconds).await;
            Ok(())
        };
        self.run_while(server, pause).await
    }

    /// Counts for as long as something else takes.
    pub(crate) async fn run_while(
        &self,
        server: &Server,
        other: impl Future<Output = Result<()>>,
    ) -> Result<Round> {
        let endpoints = connect::leader_first(server).await?;
        let channels = connect::channels(&endpoints, self.connections()).await?;
        let before = connect::revision(&channels[0]).await?;
        let phase = Arc::new(AtomicU8::new(WARMING));
        let shared = Arc::new(Shared::prepare(self, before, &channels, phase.clone()).await?);
        let tasks: Vec<_> = (0..self.clients)
            .map(|number| {
                let channel = channels[number % channels.len()].clone();
                tokio::spawn(One::new(number, channel, shared.clone()).run())
            })
            .collect();
        // Revokes use up what was granted before, so none may be lost to warming up.
        if self.op != Op::LeaseRevoke {
            tokio::time::sleep(warm_up(self.settings)).await;
        }
        let gauge = Gauge::start(server)?;
        phase.store(COUNTING, Ordering::Relaxed);
        if self.op == Op::LeaseRevoke {
            shared.spent(Duration::from_secs_f64(self.settings.seconds)).await;
        } else {
            other.await?;
        }
        phase.store(STOPPING, Ordering::Relaxed);
        let mut latency = histogram()?;
        let (mut counted, mut made) = (0, 0);
        let measured = gauge.stop(server)?;
        for task in tasks {
            let tally = task.await??;
            latency.add(&tally.latency)?;
            counted += tally.counted;
            made += tally.made;
        }
        if server.side() != Side::Grpc {
            let grown = u64::try_from(connect::revision(&channels[0]).await? - before)?;
            ensure!(grown == made, "{made} revisions acknowledged, the store grew by {grown}");
        }
        measured.round(counted, latency)
    }

    fn connections(&self) -> usize {
        match self.settings.connections {
            0 => self.clients.div_ceil(32).max(usize::from(self.nodes)).min(self.clients),
            given => given.min(self.clients),
        }
    }
}

/// Looks at clocks when a measurement begins.
pub(crate) struct Gauge {
    begun: Instant,
    server: Duration,
    load: Duration,
}

/// What the clocks said between begin and end.
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    server_cores: f64,
    load_cores: f64,
    resident: u64,
}

impl Gauge {
    pub(crate) fn start(server: &Server) -> Result<Gauge> {
        Ok(Gauge { server: server.cpu()?, load: own_cpu(), begun: Instant::now() })
    }

    pub(crate) fn stop(self, server: &Server) -> Result<Measured> {
        let seconds = self.begun.elapsed().as_secs_f64();
        Ok(Measured {
            seconds,
            server_cores: (server.cpu()? - self.server).as_secs_f64() / seconds,
            load_cores: (own_cpu() - self.load).as_secs_f64() / seconds,
            resident: server.resident()?,
        })
    }
}

impl Measured {
    pub(crate) fn round(self, counted: u64, latency: Histogram<u32>) -> Result<Round> {
        ensure!(counted > 0, "nothing was answered in {} s", self.seconds);
        Ok(Round {
            per_second: counted as f64 / self.seconds,
            latency,
            server_cores: self.server_cores,
            load_cores: self.load_cores,
            resident: self.resident,
        })
    }
}

pub(crate) fn histogram() -> Result<Histogram<u32>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// Writes every key once, so that each get finds one.
pub(crate) async fn fill(endpoints: &[String], count: u64, value: usize) -> Result<()> {
    const WORKERS: u64 = 128;
    let channels = connect::channels(endpoints, 2 * endpoints.len()).await?;
    let filler = Arc::new(keys::filler(value));
    let mut tasks = Vec::new();
    for worker in 0..WORKERS {
        let place = usize::try_from(worker)? % channels.len();
        let (mut kv, filler) = (KvClient::new(channels[place].clone()), filler.clone());
        tasks.push(tokio::spawn(async move {
            for number in (worker..count).step_by(WORKERS as usize) {
                let key = keys::key(number);
                let value = keys::with_filler(&key, &filler);
                kv.put(PutRequest { key, value, ..PutRequest::default() }).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// CPU time of this process so far.
fn own_cpu() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
