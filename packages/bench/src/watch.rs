//! Watchers: how many events reach them a second, and how long after their put.
//!
//! Every watcher has a stream of its own and sees every put. When putting has stopped, each must
//! have got exactly the puts that were made, in order.

use crate::keys::{self, KEY};
use crate::load::{COUNTING, Gauge, Round, STOPPING, WARMING, histogram};
use crate::servers::Server;
use crate::{Settings, connect, warm_up};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest};
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const PREFIX: &str = "watch/";
/// Clients that put as fast as they are answered, or that share the pace.
const PUTTERS: u64 = 16;
/// Events a second when paced, over all watchers.
const PACE: f64 = 50_000.0;
/// So long may the last event take.
const DRAIN: Duration = Duration::from_secs(120);

struct Run {
    phase: AtomicU8,
    puts: AtomicU64,
    /// The revision of the last put, once putting has stopped.
    last: watch::Sender<i64>,
    epoch: Instant,
    filler: Vec<u8>,
}

/// One round with so many watchers.
pub(crate) async fn run(
    server: &Server,
    watchers: usize,
    paced: bool,
    settings: &Settings,
) -> Result<Round> {
    let endpoints = connect::leader_first(server).await?;
    let wanted = watchers.div_ceil(32).max(endpoints.len());
    let channels = connect::channels(&endpoints, wanted).await?;
    let run = Arc::new(Run {
        phase: AtomicU8::new(WARMING),
        puts: AtomicU64::new(0),
        last: watch::Sender::new(i64::MAX),
        epoch: Instant::now(),
        filler: keys::filler(settings.value.max(KEY + 8)),
    });
    let mut watching = Vec::new();
    for number in 0..watchers {
        watching.push(watcher(channels[number % channels.len()].clone(), run.clone()).await?);
    }
    let putters = connect::channels(&endpoints, endpoints.len()).await?;
    let mut putting = Vec::new();
    for number in 0..PUTTERS {
        let channel = putters[number as usize % putters.len()].clone();
        let pause = paced.then(|| Duration::from_secs_f64(watchers as f64 * PUTTERS as f64 / PACE));
        putting.push(tokio::spawn(put(channel, number, pause, run.clone())));
    }
    tokio::time::sleep(warm_up(settings)).await;
    let gauge = Gauge::start(server)?;
    run.phase.store(COUNTING, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs_f64(settings.seconds)).await;
    run.phase.store(STOPPING, Ordering::Relaxed);
    let measured = gauge.stop(server)?;

    let mut last = 0;
    for task in putting {
        last = last.max(task.await??);
    }
    run.last.send_replace(last);
    let puts = run.puts.load(Ordering::Relaxed);
    let (mut latency, mut counted) = (histogram()?, 0);
    for task in watching {
        let seen = tokio::time::timeout(DRAIN, task).await.context("events are missing")???;
        ensure!(seen.all == puts, "a watcher saw {} of {puts} puts", seen.all);
        latency.add(&seen.latency)?;
        counted += seen.counted;
    }
    measured.round(counted, latency)
}

struct Seen {
    all: u64,
    counted: u64,
    latency: Histogram<u32>,
}

async fn watcher(channel: Channel, run: Arc<Run>) -> Result<JoinHandle<Result<Seen>>> {
    let (requests, queue) = tokio::sync::mpsc::channel(1);
    let create = WatchCreateRequest {
        key: Bytes::from_static(PREFIX.as_bytes()),
        range_end: Bytes::from_static(b"watch0"),
        ..Default::default()
    };
    let request_union = Some(RequestUnion::CreateRequest(create));
    requests.send(WatchRequest { request_union }).await?;
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut answers = client.watch(ReceiverStream::new(queue)).await?.into_inner();
    let created = answers.message().await?.context("the stream ended")?;
    ensure!(created.created && !created.canceled, "the watch was refused");
    Ok(tokio::spawn(async move {
        let _open = requests;
        let mut seen = Seen { all: 0, counted: 0, latency: histogram()? };
        let mut revision = 0;
        let mut last = run.last.subscribe();
        while revision < *last.borrow_and_update() {
            let answer = tokio::select! {
                answer = answers.message() => answer?.context("the stream ended")?,
                _ = last.changed() => continue,
            };
            ensure!(!answer.canceled, "the watch was cancelled");
            let now = u64::try_from(run.epoch.elapsed().as_micros())?;
            let counting = run.phase.load(Ordering::Relaxed) == COUNTING;
            for event in answer.events {
                let kv = event.kv.context("an event without a pair")?;
                ensure!(kv.mod_revision > revision, "an event out of order");
                revision = kv.mod_revision;
                seen.all += 1;
                if counting {
                    let sent = kv.value.get(KEY..KEY + 8).context("a short value")?;
                    let sent = u64::from_le_bytes(sent.try_into()?);
                    seen.counted += 1;
                    seen.latency.saturating_record(now.saturating_sub(sent));
                }
            }
        }
        Ok(seen)
    }))
}

/// Puts until told to stop; the revision of the last one.
async fn put(channel: Channel, number: u64, pause: Option<Duration>, run: Arc<Run>) -> Result<i64> {
    let mut kv = KvClient::new(channel);
    let mut last = 0;
    let mut turn = number;
    let mut ticks = pause.map(|pause| {
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        ticks
    });
    if let (Some(_), Some(pause)) = (&ticks, pause) {
        tokio::time::sleep(pause.mul_f64(number as f64 / PUTTERS as f64)).await;
    }
    while run.phase.load(Ordering::Relaxed) != STOPPING {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        last = put_one(&mut kv, turn, &run).await?;
        turn += PUTTERS;
    }
    Ok(last)
}

async fn put_one(kv: &mut KvClient<Channel>, turn: u64, run: &Run) -> Result<i64> {
    let key = Bytes::from(format!("{PREFIX}{:018}", turn % 1000));
    let mut value = run.filler.clone();
    value[..key.len()].copy_from_slice(&key);
    let now = u64::try_from(run.epoch.elapsed().as_micros())?;
    value[KEY..KEY + 8].copy_from_slice(&now.to_le_bytes());
    let request = PutRequest { key, value: value.into(), ..Default::default() };
    let answer = kv.put(request).await?.into_inner();
    run.puts.fetch_add(1, Ordering::Relaxed);
    Ok(answer.header.context("a put without header")?.revision)
}
