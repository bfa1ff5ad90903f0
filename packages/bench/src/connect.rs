//! Connections to a server, and the few questions that every measurement asks.

use crate::servers::Server;
use anyhow::{Context, Result, bail};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::{RangeRequest, StatusRequest};
use bytes::Bytes;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// So many connections, spread over the endpoints.
pub(crate) async fn channels(endpoints: &[String], connections: usize) -> Result<Vec<Channel>> {
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
pub(crate) async fn leader_first(server: &Server) -> Result<Vec<String>> {
    let mut endpoints = server.endpoints();
    if server.side().is_floor() {
        return Ok(endpoints);
    }
    // A leader may be on its way out when it is asked.
    for _ in 0..50 {
        for place in 0..endpoints.len() {
            let channel = Endpoint::from_shared(endpoints[place].clone())?.connect().await?;
            let asked = MaintenanceClient::new(channel).status(StatusRequest::default()).await;
            let status = asked?.into_inner();
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                endpoints.rotate_left(place);
                return Ok(endpoints);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("no member of {endpoints:?} leads")
}

/// The present revision.
pub(crate) async fn revision(channel: &Channel) -> Result<i64> {
    let request =
        RangeRequest { key: Bytes::from_static(b"bench"), count_only: true, ..Default::default() };
    let answer = KvClient::new(channel.clone()).range(request).await?.into_inner();
    Ok(answer.header.context("an answer without header")?.revision)
}
