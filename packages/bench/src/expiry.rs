//! How late leases end: many short leases with a key each, and a watcher that sees the keys go.

use crate::load::{Gauge, Round, histogram};
use crate::servers::Server;
use crate::{Settings, connect};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{LeaseGrantRequest, PutRequest, WatchCreateRequest, WatchRequest};
use api::mvccpb::event::EventType;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_stream::wrappers::ReceiverStream;

/// Leases, and seconds of each.
const LEASES: usize = 500;
const TTL: i64 = 5;
const WORKERS: usize = 16;

/// Grants the leases and waits until all their keys are gone. Latency is lateness after the time to
/// live, counted from the answer to the grant; sooner than the time counted from the request is an
/// error.
pub(crate) async fn run(server: &Server, _: &Settings) -> Result<Round> {
    let endpoints = connect::leader_first(server).await?;
    let channels = connect::channels(&endpoints, endpoints.len()).await?;
    let (requests, queue) = tokio::sync::mpsc::channel(1);
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"lease/"),
        range_end: Bytes::from_static(b"lease0"),
        ..Default::default()
    };
    let request_union = Some(RequestUnion::CreateRequest(create));
    requests.send(WatchRequest { request_union }).await?;
    let mut watch = WatchClient::new(channels[0].clone());
    let mut answers = watch.watch(ReceiverStream::new(queue)).await?.into_inner();
    answers.message().await?.context("the stream ended")?;

    let gauge = Gauge::start(server)?;
    let granted: Arc<Mutex<HashMap<Bytes, (Instant, Instant)>>> = Arc::default();
    let mut tasks = Vec::new();
    for worker in 0..WORKERS {
        let channel = channels[worker % channels.len()].clone();
        let granted = granted.clone();
        tasks.push(tokio::spawn(async move {
            let mut leases = LeaseClient::new(channel.clone());
            let mut kv = KvClient::new(channel);
            for number in (worker..LEASES).step_by(WORKERS) {
                let key = Bytes::from(format!("lease/{number:06}"));
                let asked = Instant::now();
                let lease = leases.lease_grant(LeaseGrantRequest { ttl: TTL, id: 0 }).await?;
                granted.lock().insert(key.clone(), (asked, Instant::now()));
                let lease = lease.into_inner().id;
                let value = Bytes::from_static(b"held");
                kv.put(PutRequest { key, value, lease, ..Default::default() }).await?;
            }
            anyhow::Ok(())
        }));
    }
    let (mut latency, mut gone) = (histogram()?, 0);
    let ttl = Duration::from_secs(TTL.unsigned_abs());
    while gone < LEASES {
        let next = tokio::time::timeout(Duration::from_secs(60), answers.message());
        let answer = next.await.context("leases do not end")??.context("the stream ended")?;
        let now = Instant::now();
        for event in answer.events {
            if event.r#type != EventType::Delete as i32 {
                continue;
            }
            let key = event.kv.context("an event without a pair")?.key;
            let times = granted.lock().get(&key).copied();
            let (asked, answered) = times.context("an unknown key ended")?;
            ensure!(now - asked >= ttl, "a lease ended after {:?}", now - asked);
            let late = (now - answered).saturating_sub(ttl);
            latency.saturating_record(u64::try_from(late.as_micros())?);
            gone += 1;
        }
    }
    for task in tasks {
        task.await??;
    }
    gauge.stop(server)?.round(gone as u64, latency)
}
