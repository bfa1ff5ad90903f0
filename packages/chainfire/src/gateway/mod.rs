//! etcd's JSON gateway on the client port: `/v3/…`, beside `/version` and the health pages.
//!
//! A call is transcoded to gRPC and handed to the same services, in the same process and with the
//! same caller: certificate, token and limits count as they do there. The messages are known from
//! their descriptors alone, so a new call needs a line in [`routes`] and nothing else.
//!
//! Absent on purpose: CORS headers, which would let any web page that somebody opens use a
//! plaintext listener, and WebSockets.

mod call;
mod objects;
mod pages;
mod refusal;
mod routes;
mod transcode;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use fault::{Fault, Kind};
use http::uri::PathAndQuery;
use http::{Method, Request};
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tonic::service::Routes;

use self::transcode::Desks;
use crate::codes;
use crate::server::Node;

/// Beside base64's third, room for names and for numbers as text.
const JSON_FACTOR: usize = 2;
const JSON_SLACK: usize = 64 << 10;

/// What all requests share.
pub(crate) struct Gateway {
    services: axum::Router,
    calls: HashMap<&'static str, Call>,
    /// Largest JSON object of a request, in bytes.
    max: usize,
    /// How long the body of a unary call may take to come.
    patience: Duration,
    desks: Desks,
}

/// One gRPC method.
#[derive(Clone)]
pub(crate) struct Call {
    path: PathAndQuery,
    input: MessageDescriptor,
    output: MessageDescriptor,
    streams_in: bool,
    streams_out: bool,
    /// A client that has said all it wants still listens.
    stays: bool,
}

/// What answers requests that are not gRPC.
pub(crate) fn router(node: Arc<Node>, services: Routes) -> Result<axum::Router, Fault> {
    let gateway = Arc::new(Gateway {
        services: services.prepare().into_axum_router(),
        calls: calls()?,
        max: JSON_FACTOR * node.limits.request_bytes + JSON_SLACK,
        patience: node.timeout(),
        desks: Desks::new(),
    });
    let json = move |request: Request<Body>| {
        let gateway = gateway.clone();
        async move { gateway.answer(request).await }
    };
    Ok(axum::Router::new()
        .route("/version", get(pages::version))
        .route("/health", get(pages::health))
        .route("/livez", get(pages::livez))
        .route("/readyz", get(pages::readyz))
        .with_state(node)
        .fallback(json))
}

fn calls() -> Result<HashMap<&'static str, Call>, Fault> {
    let wrong = |what: String| {
        Fault::new(codes::SETTINGS, Kind::Internal, what, "generate the API: cargo xtask gen")
    };
    let pool = DescriptorPool::decode(api::FILE_DESCRIPTOR_SET)
        .map_err(|error| wrong(format!("the API's descriptors cannot be read: {error}")))?;
    let mut calls = HashMap::with_capacity(routes::ROUTES.len());
    for &(path, service, method) in routes::ROUTES {
        let missing = || wrong(format!("the API has no {service}/{method}"));
        let service = pool.get_service_by_name(service).ok_or_else(missing)?;
        let method = service.methods().find(|one| one.name() == method).ok_or_else(missing)?;
        let grpc = format!("/{}/{}", service.full_name(), method.name());
        let call = Call {
            path: grpc.parse().map_err(|_| missing())?,
            input: method.input(),
            output: method.output(),
            streams_in: method.is_client_streaming(),
            streams_out: method.is_server_streaming(),
            stays: path == "/v3/watch",
        };
        calls.insert(path, call);
    }
    Ok(calls)
}

impl Gateway {
    async fn answer(&self, request: Request<Body>) -> Response {
        // etcd still takes the name that the path had before 3.4
        let path = request.uri().path();
        let found = match path.strip_prefix("/v3beta/") {
            Some(rest) => self.calls.get(format!("/v3/{rest}").as_str()),
            None => self.calls.get(path),
        };
        let Some(call) = found.cloned() else {
            return refusal::answer(&refusal::no_such_path());
        };
        if request.method() != Method::POST {
            return refusal::answer(&refusal::not_post());
        }
        self.make(call, request).await
    }
}
