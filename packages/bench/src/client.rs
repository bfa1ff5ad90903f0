//! One client: one request in flight, every answer checked.
//!
//! Puts must come back with growing revisions, and the store's revision must have grown by exactly
//! the writes that were made; gets must bring the value that belongs to the key.

use crate::keys::{self, KEY};
use crate::load::{COUNTING, Load, STOPPING, Tally};
use crate::work::Op;
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Keys in a range.
const RANGE: u64 = 1000;
/// Seconds of a lease that nobody lets end.
const LONG: i64 = 3600;
/// Leases to be revoked in one round.
const POOL: usize = 8000;

/// What the clients of a round share.
pub(crate) struct Shared {
    op: Op,
    keys: u64,
    filler: Vec<u8>,
    seed: u64,
    phase: Arc<AtomicU8>,
    /// Leases that wait to be revoked.
    pool: Mutex<Vec<i64>>,
}

impl Shared {
    /// Makes what the work needs to have before it begins.
    pub(crate) async fn prepare(
        load: &Load<'_>,
        revision: i64,
        channels: &[Channel],
        phase: Arc<AtomicU8>,
    ) -> Result<Shared> {
        let settings = load.settings;
        ensure!(
            load.op != Op::Range || settings.keys >= 2 * RANGE,
            "ranges of {RANGE} keys need --keys of twice as many"
        );
        let pool = if load.op == Op::LeaseRevoke { grant_many(channels).await? } else { vec![] };
        Ok(Shared {
            op: load.op,
            keys: settings.keys,
            filler: keys::filler(settings.value),
            seed: revision.unsigned_abs(),
            phase,
            pool: Mutex::new(pool),
        })
    }

    /// Waits until the pool is empty, but not longer.
    pub(crate) async fn spent(&self, limit: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < limit && !self.pool.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn grant_many(channels: &[Channel]) -> Result<Vec<i64>> {
    const WORKERS: usize = 64;
    let mut tasks = Vec::new();
    for worker in 0..WORKERS {
        let mut client = LeaseClient::new(channels[worker % channels.len()].clone());
        tasks.push(tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..POOL / WORKERS {
                let request = LeaseGrantRequest { ttl: LONG, id: 0 };
                ids.push(client.lease_grant(request).await?.into_inner().id);
            }
            anyhow::Ok(ids)
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

/// One client.
pub(crate) struct One {
    number: u64,
    kv: KvClient<Channel>,
    leases: LeaseClient<Channel>,
    shared: Arc<Shared>,
    random: SmallRng,
    /// The last revision that it saw.
    last: i64,
    /// The revision of its own key, for compare-and-swap.
    swapped: i64,
    stream: Option<KeepAlive>,
}

struct KeepAlive {
    id: i64,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl One {
    pub(crate) fn new(number: usize, channel: Channel, shared: Arc<Shared>) -> One {
        One {
            number: number as u64,
            kv: KvClient::new(channel.clone()),
            leases: LeaseClient::new(channel),
            random: SmallRng::seed_from_u64(number as u64 + shared.seed),
            shared,
            last: 0,
            swapped: 0,
            stream: None,
        }
    }

    pub(crate) async fn run(mut self) -> Result<Tally> {
        let mut tally = Tally::new()?;
        loop {
            let phase = self.shared.phase.load(Ordering::Relaxed);
            if phase == STOPPING {
                return Ok(tally);
            }
            if self.shared.op == Op::LeaseRevoke && phase != COUNTING {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let begun = Instant::now();
            let Some(revisions) = self.step().await? else {
                return Ok(tally);
            };
            let took = begun.elapsed();
            tally.made += revisions;
            if self.shared.phase.load(Ordering::Relaxed) == COUNTING {
                tally.counted += 1;
                tally.latency.saturating_record(u64::try_from(took.as_micros())?);
            }
        }
    }

    /// One request; how many revisions it made, none when there is nothing left to do.
    async fn step(&mut self) -> Result<Option<u64>> {
        let number = self.random.random_range(0..self.shared.keys);
        let revisions = match self.shared.op {
            Op::Put => self.put(number).await?,
            Op::GetLin => self.get(number, false).await?,
            Op::GetSer => self.get(number, true).await?,
            Op::Range => self.range().await?,
            Op::Cas => self.swap(1 << 40 | self.number).await?,
            Op::CasHot => self.swap(1 << 41).await?,
            Op::Mixed if self.random.random_bool(0.5) => self.put(number).await?,
            Op::Mixed => self.get(number, false).await?,
            Op::LeaseGrant => self.grant().await?,
            Op::LeaseKeepAlive => self.keep_alive().await?,
            Op::LeaseRevoke => return self.revoke().await,
            Op::None => return Ok(None),
        };
        Ok(Some(revisions))
    }

    async fn put(&mut self, number: u64) -> Result<u64> {
        let key = keys::key(number);
        let value = keys::with_filler(&key, &self.shared.filler);
        let answer = self.kv.put(PutRequest { key, value, ..Default::default() }).await?;
        let revision = answer.into_inner().header.context("a put without header")?.revision;
        ensure!(revision > self.last, "revision {revision} after {}", self.last);
        self.last = revision;
        Ok(1)
    }

    async fn get(&mut self, number: u64, serializable: bool) -> Result<u64> {
        let key = keys::key(number);
        let request = RangeRequest { key: key.clone(), serializable, ..RangeRequest::default() };
        let answer = self.kv.range(request).await?.into_inner();
        ensure!(answer.count == 1 && answer.kvs.len() == 1, "key {number} is not there");
        let kv = &answer.kvs[0];
        let size = self.shared.filler.len();
        let right = kv.key == key && kv.value.len() == size && kv.value.starts_with(&key);
        ensure!(right, "another value than was written to key {number}");
        Ok(0)
    }

    async fn range(&mut self) -> Result<u64> {
        let first = self.random.random_range(0..=self.shared.keys - RANGE);
        let (key, range_end) = (keys::key(first), keys::key(first + RANGE));
        let request = RangeRequest { key: key.clone(), range_end, ..RangeRequest::default() };
        let answer = self.kv.range(request).await?.into_inner();
        ensure!(answer.kvs.len() as u64 == RANGE, "{} keys of {RANGE}", answer.kvs.len());
        ensure!(answer.kvs[0].key == key, "the range begins elsewhere");
        let whole = answer.kvs.iter().all(|kv| kv.value.get(..KEY) == Some(&kv.key[..]));
        ensure!(whole, "another value than was written");
        Ok(0)
    }

    /// Writes the key if nobody has since this client last saw it.
    async fn swap(&mut self, number: u64) -> Result<u64> {
        let key = Bytes::from(format!("swap/{number:019}"));
        let value = keys::with_filler(&key, &self.shared.filler);
        let compare = Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(self.swapped)),
            ..Compare::default()
        };
        let put = PutRequest { key: key.clone(), value, ..PutRequest::default() };
        let get = RangeRequest { key, ..RangeRequest::default() };
        let answer = self
            .kv
            .txn(TxnRequest {
                compare: vec![compare],
                success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
                failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
            })
            .await?
            .into_inner();
        if answer.succeeded {
            self.swapped = answer.header.context("a txn without header")?.revision;
            return Ok(1);
        }
        let first = answer.responses.into_iter().next().and_then(|op| op.response);
        let Some(Response::ResponseRange(found)) = first else {
            anyhow::bail!("a refused swap without the key");
        };
        self.swapped = found.kvs.first().map_or(0, |kv| kv.mod_revision);
        Ok(0)
    }

    async fn grant(&mut self) -> Result<u64> {
        let request = LeaseGrantRequest { ttl: LONG, id: 0 };
        let granted = self.leases.lease_grant(request).await?.into_inner();
        ensure!(granted.id != 0 && granted.ttl == LONG, "another lease than asked for");
        Ok(0)
    }

    async fn keep_alive(&mut self) -> Result<u64> {
        if self.stream.is_none() {
            let granted = self.leases.lease_grant(LeaseGrantRequest { ttl: LONG, id: 0 }).await?;
            let (requests, queue) = mpsc::channel(1);
            let opened = self.leases.lease_keep_alive(ReceiverStream::new(queue));
            let id = granted.into_inner().id;
            // The answer's head comes with the first answer.
            requests.send(LeaseKeepAliveRequest { id }).await?;
            let mut answers = opened.await?.into_inner();
            answers.message().await?.context("no answer")?;
            self.stream = Some(KeepAlive { id, requests, answers });
        }
        let Some(stream) = &mut self.stream else { return Ok(0) };
        stream.requests.send(LeaseKeepAliveRequest { id: stream.id }).await?;
        let answer = stream.answers.message().await?.context("the stream ended")?;
        ensure!(answer.id == stream.id && answer.ttl > 0, "the lease is gone");
        Ok(0)
    }

    async fn revoke(&mut self) -> Result<Option<u64>> {
        let Some(id) = self.shared.pool.lock().pop() else { return Ok(None) };
        self.leases.lease_revoke(LeaseRevokeRequest { id }).await?;
        Ok(Some(0))
    }
}
