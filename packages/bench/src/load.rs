//! The load: raw generated clients, each with one request in flight, over a few connections.
//!
//! Every answer is checked. Puts must come back with growing revisions, and the store's revision
//! must have grown by exactly the puts that were made; gets must bring the value that belongs to
//! the key.

use crate::servers::Server;
use crate::{Settings, warm_up};
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};
use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

/// A value begins with its key.
pub(crate) const MIN_VALUE: usize = KEY;
const KEY: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Op {
    /// Puts of random keys
    Put,
    /// Linearizable gets of random keys
    GetLin,
    /// Serializable gets of random keys
    GetSer,
}

impl fmt::Display for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Op::Put => "put",
            Op::GetLin => "get-lin",
            Op::GetSer => "get-ser",
        })
    }
}

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
const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const STOPPING: u8 = 2;

struct Tally {
    latency: Histogram<u32>,
    counted: u64,
    made: u64,
}

impl Load<'_> {
    pub(crate) async fn run(&self, server: &Server) -> Result<Round> {
        let endpoints = leader_first(server.endpoints()).await?;
        let channels = connect(&endpoints, self.connections()).await?;
        let before = revision(&channels[0]).await?;
        let phase = Arc::new(AtomicU8::new(WARMING));
        let tasks: Vec<_> = (0..self.clients)
            .map(|number| {
                let client = One {
                    kv: client(channels[number % channels.len()].clone()),
                    op: self.op,
                    keys: self.settings.keys,
                    size: self.settings.value,
                    random: SmallRng::seed_from_u64(number as u64 + before.unsigned_abs()),
                    phase: phase.clone(),
                };
                tokio::spawn(client.run())
            })
            .collect();
        tokio::time::sleep(warm_up(self.settings)).await;
        let (server_before, load_before) = (server.cpu()?, own_cpu());
        let begun = Instant::now();
        phase.store(COUNTING, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs_f64(self.settings.seconds)).await;
        phase.store(STOPPING, Ordering::Relaxed);
        let seconds = begun.elapsed().as_secs_f64();
        let (server_after, load_after) = (server.cpu()?, own_cpu());

        let mut latency = histogram()?;
        let (mut counted, mut made) = (0, 0);
        for task in tasks {
            let tally = task.await??;
            latency.add(&tally.latency)?;
            counted += tally.counted;
            made += tally.made;
        }
        if self.op == Op::Put {
            let grown = u64::try_from(revision(&channels[0]).await? - before)?;
            ensure!(grown == made, "{made} puts acknowledged, the revision grew by {grown}");
        }
        ensure!(counted > 0, "nothing was answered in {seconds} s");
        Ok(Round {
            per_second: counted as f64 / seconds,
            latency,
            server_cores: (server_after - server_before).as_secs_f64() / seconds,
            load_cores: (load_after - load_before).as_secs_f64() / seconds,
            resident: server.resident()?,
        })
    }

    fn connections(&self) -> usize {
        match self.settings.connections {
            0 => self.clients.div_ceil(32).max(usize::from(self.nodes)).min(self.clients),
            given => given.min(self.clients),
        }
    }
}

/// One client: one request in flight.
struct One {
    kv: KvClient<Channel>,
    op: Op,
    keys: u64,
    size: usize,
    random: SmallRng,
    phase: Arc<AtomicU8>,
}

impl One {
    async fn run(mut self) -> Result<Tally> {
        let mut tally = Tally { latency: histogram()?, counted: 0, made: 0 };
        let mut last = 0;
        let filler = filler(self.size);
        loop {
            if self.phase.load(Ordering::Relaxed) == STOPPING {
                return Ok(tally);
            }
            let number = self.random.random_range(0..self.keys);
            let begun = Instant::now();
            match self.op {
                Op::Put => last = self.put(number, &filler, last).await?,
                Op::GetLin => self.get(number, false).await?,
                Op::GetSer => self.get(number, true).await?,
            }
            let took = begun.elapsed();
            tally.made += 1;
            if self.phase.load(Ordering::Relaxed) == COUNTING {
                tally.counted += 1;
                tally.latency.saturating_record(u64::try_from(took.as_micros())?);
            }
        }
    }

    async fn put(&mut self, number: u64, filler: &[u8], last: i64) -> Result<i64> {
        let request =
            PutRequest { key: key(number), value: value(number, filler), ..PutRequest::default() };
        let answer = self.kv.put(request).await?.into_inner();
        let revision = answer.header.context("a put without header")?.revision;
        ensure!(revision > last, "revision {revision} after {last}");
        Ok(revision)
    }

    async fn get(&mut self, number: u64, serializable: bool) -> Result<()> {
        let key = key(number);
        let request = RangeRequest { key: key.clone(), serializable, ..RangeRequest::default() };
        let answer = self.kv.range(request).await?.into_inner();
        ensure!(answer.count == 1 && answer.kvs.len() == 1, "key {number} is not there");
        let kv = &answer.kvs[0];
        let right = kv.key == key && kv.value.len() == self.size && kv.value.starts_with(&key);
        ensure!(right, "another value than was written to key {number}");
        Ok(())
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("bench/{number:018}"))
}

fn value(number: u64, filler: &[u8]) -> Bytes {
    let mut value = Vec::with_capacity(filler.len());
    value.extend_from_slice(&key(number));
    value.extend_from_slice(&filler[KEY..]);
    value.into()
}

/// Bytes that do not compress, the same in every run.
fn filler(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    rand::Rng::fill_bytes(&mut SmallRng::seed_from_u64(1), &mut bytes);
    bytes
}

fn histogram() -> Result<Histogram<u32>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

fn client(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel)
}

async fn connect(endpoints: &[String], connections: usize) -> Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for number in 0..connections.max(1) {
        let url = endpoints[number % endpoints.len()].clone();
        let endpoint = Endpoint::from_shared(url)?
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

/// The leader's endpoint first: a lone client goes there, on every server alike.
async fn leader_first(mut endpoints: Vec<String>) -> Result<Vec<String>> {
    for place in 0..endpoints.len() {
        let channel = Endpoint::from_shared(endpoints[place].clone())?.connect().await?;
        let asked = MaintenanceClient::new(channel).status(StatusRequest::default()).await;
        let status = asked?.into_inner();
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            endpoints.rotate_left(place);
            return Ok(endpoints);
        }
    }
    bail!("no member of {endpoints:?} leads")
}

async fn revision(channel: &Channel) -> Result<i64> {
    let request =
        RangeRequest { key: Bytes::from_static(b"bench"), count_only: true, ..Default::default() };
    let answer = client(channel.clone()).range(request).await?.into_inner();
    Ok(answer.header.context("an answer without header")?.revision)
}

/// Writes every key once, so that each get finds one.
pub(crate) async fn fill(endpoints: &[String], settings: &Settings) -> Result<()> {
    const WORKERS: u64 = 64;
    let channels = connect(endpoints, 2 * endpoints.len()).await?;
    let filler = Arc::new(filler(settings.value));
    let (keys, mut tasks) = (settings.keys, Vec::new());
    for worker in 0..WORKERS {
        let place = usize::try_from(worker)? % channels.len();
        let (mut kv, filler) = (client(channels[place].clone()), filler.clone());
        tasks.push(tokio::spawn(async move {
            for number in (worker..keys).step_by(WORKERS as usize) {
                let (key, value) = (key(number), value(number, &filler));
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
