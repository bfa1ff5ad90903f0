//! The ops listener: plain HTTP for probes and metrics, no secrets, nothing that changes state.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fault::{Fault, Kind};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{Encoder, Registry, TextEncoder};
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Health, codes};

/// More probes at once than this wait: the listener must not cost the service its files.
const CONNECTIONS_MAX: usize = 64;
/// A connection that sends no request for so long is closed.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Where the ops listener listens: the table `[ops]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpsSettings {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

#[derive(Clone)]
struct Ops {
    health: Health,
    registry: Registry,
}

/// Serves `/healthz` (the process lives), `/readyz` (503 and the closed gates with their reasons),
/// `/metrics` and `/version` until `stop`. Returns the address it really listens on.
pub async fn ops(
    listen: SocketAddr,
    health: Health,
    registry: Registry,
    stop: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>), Fault> {
    let refuse = |error: std::io::Error| {
        Fault::new(
            codes::OPS_LISTEN,
            Kind::Unavailable,
            format!("ops listener cannot listen on {listen}: {error}"),
            "stop the process that has this port, or set ops.listen to another",
        )
    };
    let listener = TcpListener::bind(listen).await.map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .with_state(Ops { health, registry });
    tracing::info!(%address, "ops listener ready");
    let task = tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, router) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok((address, task))
}

async fn accept(listener: TcpListener, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of files or a connection that died in the queue: neither may stop the loop.
                tracing::debug!(%error, "ops connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let router = router.clone();
        connections.spawn(async move {
            serve(stream, router).await;
            drop(slot);
        });
    }
}

async fn serve(stream: TcpStream, router: Router) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUIET_MAX)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "ops connection ended");
    }
}

async fn readyz(State(ops): State<Ops>, headers: HeaderMap) -> Response {
    let as_json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    let closed = ops.health.ready().err().unwrap_or_default();
    let status = if closed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if as_json {
        let closed: Vec<_> = closed
            .into_iter()
            .map(|(gate, reason)| json!({ "gate": gate, "reason": reason }))
            .collect();
        let body = json!({ "ready": closed.is_empty(), "closed": closed });
        return (status, axum::Json(body)).into_response();
    }
    let mut text = String::new();
    for (gate, reason) in &closed {
        text.push_str(&format!("{gate}: {reason}\n"));
    }
    if closed.is_empty() {
        text.push_str("ready\n");
    }
    (status, text).into_response()
}

async fn metrics(State(ops): State<Ops>) -> Result<Response, Infallible> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    Ok(match encoder.encode(&ops.registry.gather(), &mut text) {
        Ok(()) => {
            ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}

async fn version() -> axum::Json<serde_json::Value> {
    axum::Json(json!({ "service": crate::service(), "version": crate::VERSION }))
}
