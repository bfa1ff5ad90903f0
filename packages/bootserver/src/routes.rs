//! The paths, and who may call them. Bodies are bounded; every answer that is no success is a
//! [`Fault`] as JSON.

mod nodes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use fault::{Code, Fault, Kind};
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts, Registry};
use rpc::Peer;
use serde::de::DeserializeOwned;

use crate::codes;
use crate::desk::Desk;
use crate::progress::{Bucket, Rate};
use crate::registry::unix_millis;
use crate::wire;

/// A request with twenty certificate requests has half of it.
const MAX_BODY: usize = 64 << 10;
const MAX_REPORT: usize = 16 << 10;
/// Refused enrolments of one address: guessing a token is hopeless anyhow, this keeps it cheap.
const REFUSALS: Rate = Rate { burst: 100.0, per_second: 10.0 };
/// Tokens that one node claims: some for each power cut of an install, and few in the long run, as
/// each is remembered for a week.
const CLAIMS: Rate = Rate { burst: 60.0, per_second: 1.0 / 60.0 };
/// Addresses that are remembered; past it all are forgotten, which costs the limit and no memory.
const MAX_ADDRESSES: usize = 4096;

#[derive(Clone)]
struct App {
    desk: Arc<Desk>,
    answers: Option<IntCounterVec>,
    refusals: Arc<Mutex<BTreeMap<IpAddr, Bucket>>>,
    claims: Arc<Mutex<BTreeMap<String, Bucket>>>,
}

/// All paths of the boot server.
pub(crate) fn routes(desk: Arc<Desk>, registry: &Registry) -> Router {
    let opts = Opts::new("bootserver_answers_total", "Answers by path and result.");
    let answers = IntCounterVec::new(opts, &["path", "result"]).ok();
    if let Some(answers) = &answers {
        let _ = registry.register(Box::new(answers.clone()));
    }
    Router::new()
        .route("/v1/time", get(time))
        .route("/v1/enroll", post(enroll))
        .route("/v1/renew", post(renew))
        .route("/v1/form", post(form))
        .route("/v1/progress", post(progress))
        .route("/v1/status", get(status))
        .route("/v1/inventory", get(inventory))
        .route("/v1/tokens", get(tokens).post(mint))
        .route("/v1/tokens/{id}", delete(revoke))
        .route("/v1/identify", post(nodes::identify))
        .route("/v1/claim", post(nodes::claim))
        .route("/v1/machines", get(nodes::machines))
        .route("/v1/boot/{node}", get(nodes::explain))
        .route("/v1/nodes/{node}/order", post(nodes::order))
        .route("/boot/images/manifest.json", get(nodes::manifest))
        .fallback(|| async { refuse(codes::NO_SUCH_PATH, Kind::NotFound, "no such path", "") })
        .method_not_allowed_fallback(|| async {
            refuse(codes::NO_SUCH_METHOD, Kind::Invalid, "this path takes another method", "")
        })
        .with_state(App { desk, answers, refusals: Arc::default(), claims: Arc::default() })
}

async fn time() -> Response {
    Json(wire::Time { unix_millis: unix_millis(SystemTime::now()) }).into_response()
}

async fn enroll(State(app): State<App>, peer: Extension<Peer>, request: Request) -> Response {
    app.answer("enroll", async {
        app.slow_down(peer.addr.ip())?;
        let request: wire::EnrollRequest = body(request, MAX_BODY).await?;
        let node: String = request.node.chars().take(64).collect();
        let enrolled = app.desk.enroll(request).await;
        if let Err(fault) = &enrolled {
            app.note_refusal(peer.addr.ip());
            tracing::warn!(node, code = fault.code.0, what = fault.what, "enrolment refused");
        }
        enrolled
    })
    .await
}

async fn renew(State(app): State<App>, peer: Extension<Peer>, request: Request) -> Response {
    app.answer("renew", async {
        let request: wire::RenewRequest = body(request, MAX_BODY).await?;
        let key = node_key(&peer, &request.node, app.desk.folder().cluster())?;
        app.desk.check_key(&request.node, &key).await?;
        app.desk.renew(&request).await
    })
    .await
}

async fn form(State(app): State<App>, peer: Extension<Peer>, request: Request) -> Response {
    app.answer("form", async {
        let request: wire::FormRequest = body(request, MAX_BODY).await?;
        let key = node_key(&peer, &request.node, app.desk.folder().cluster())?;
        app.desk.form(request, key).await
    })
    .await
}

async fn progress(State(app): State<App>, peer: Extension<Peer>, request: Request) -> Response {
    app.answer("progress", async {
        let progress: wire::Progress = body(request, MAX_REPORT).await?;
        let verified = match &peer.id {
            None => false,
            Some(_) => {
                let key = node_key(&peer, &progress.node, app.desk.folder().cluster())?;
                app.desk.check_key(&progress.node, &key).await?;
                true
            }
        };
        app.desk.progress(progress, verified).await?;
        Ok(serde_json::json!({}))
    })
    .await
}

async fn status(State(app): State<App>, peer: Extension<Peer>) -> Response {
    app.answer("status", async {
        peer.require_operator(app.desk.folder().cluster())?;
        Ok(app.desk.status().await)
    })
    .await
}

async fn inventory(State(app): State<App>, peer: Extension<Peer>) -> Response {
    app.answer("inventory", async {
        let cluster = app.desk.folder().cluster();
        if let Ok(node) = peer.require_node(cluster) {
            return Ok(app.desk.inventory_for(node));
        }
        peer.require_operator(cluster)?;
        Ok(app.desk.inventory_json().clone())
    })
    .await
}

async fn tokens(State(app): State<App>, peer: Extension<Peer>) -> Response {
    app.answer("tokens", async {
        peer.require_operator(app.desk.folder().cluster())?;
        Ok(app.desk.tokens().await)
    })
    .await
}

async fn mint(State(app): State<App>, peer: Extension<Peer>, request: Request) -> Response {
    app.answer("tokens", async {
        let operator = peer.require_operator(app.desk.folder().cluster())?.to_owned();
        let request: wire::TokenRequest = body(request, MAX_BODY).await?;
        let node = request.node.clone();
        let minted = app.desk.mint(request).await?;
        tracing::info!(operator, node, id = minted.id, "token minted");
        Ok(minted)
    })
    .await
}

async fn revoke(State(app): State<App>, peer: Extension<Peer>, Path(id): Path<String>) -> Response {
    app.answer("tokens", async {
        let operator = peer.require_operator(app.desk.folder().cluster())?.to_owned();
        app.desk.revoke(id.clone()).await?;
        tracing::info!(operator, id, "token revoked");
        Ok(serde_json::json!({}))
    })
    .await
}

impl App {
    async fn answer<T: serde::Serialize>(
        &self,
        path: &'static str,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Response {
        let result = work.await;
        let label = result.as_ref().map_or_else(|fault| fault.code.0, |_| "ok");
        if let Some(answers) = &self.answers {
            answers.with_label_values(&[path, label]).inc();
        }
        match result {
            Ok(answer) => Json(answer).into_response(),
            Err(fault) => {
                if fault.kind == Kind::Internal || fault.kind == Kind::Corrupt {
                    tracing::error!(path, code = fault.code.0, what = fault.what, "request failed");
                }
                refusal(fault)
            }
        }
    }

    fn slow_down(&self, from: IpAddr) -> Result<(), Fault> {
        let mut refusals = self.refusals.lock();
        let enough = refusals.get_mut(&from).is_none_or(|b| b.left(REFUSALS, Instant::now()));
        if enough {
            return Ok(());
        }
        Err(Fault::new(
            codes::TOO_MANY,
            Kind::Exhausted,
            format!("too many enrolments from {from} were refused lately"),
            "try again in a second; the boot server's log says why they were refused",
        ))
    }

    fn slow_claims(&self, node: &str) -> Result<(), Fault> {
        let (now, mut claims) = (Instant::now(), self.claims.lock());
        if claims.len() >= MAX_ADDRESSES {
            claims.clear();
        }
        let bucket = claims.entry(node.to_owned()).or_insert_with(|| Bucket::full(CLAIMS, now));
        if bucket.take(CLAIMS, now) {
            return Ok(());
        }
        Err(Fault::new(
            codes::TOO_MANY,
            Kind::Exhausted,
            format!("node {node:?} was claimed too often lately"),
            "try again in a minute; the boot server's log says what became of the claims",
        ))
    }

    fn note_refusal(&self, from: IpAddr) {
        let (now, mut refusals) = (Instant::now(), self.refusals.lock());
        if refusals.len() >= MAX_ADDRESSES {
            refusals.clear();
        }
        refusals.entry(from).or_insert_with(|| Bucket::full(REFUSALS, now)).take(REFUSALS, now);
    }
}

/// The key of the node that calls, if it is the node it names.
fn node_key(peer: &Peer, node: &str, cluster: &str) -> Result<String, Fault> {
    let caller = peer.require_node(cluster)?;
    match &peer.key_hash {
        Some(key) if caller == node => Ok(key.to_string()),
        _ => {
            let node: String = node.chars().take(64).collect();
            Err(Fault::new(
                codes::NOT_ALLOWED,
                Kind::Denied,
                format!("node {caller:?} speaks for node {node:?}"),
                "a node speaks for itself alone",
            ))
        }
    }
}

async fn body<T: DeserializeOwned>(request: Request, max: usize) -> Result<T, Fault> {
    let bad = |what: String| {
        Fault::new(codes::BAD_BODY, Kind::Invalid, what, "send the JSON that this path takes")
    };
    let body: Body = request.into_body();
    let bytes = to_bytes(body, max)
        .await
        .map_err(|_| bad(format!("the body broke off or is larger than {max} bytes")))?;
    // the parser's words name keys and types, never values of secrets
    serde_json::from_slice(&bytes).map_err(|e| bad(format!("the body is not understood: {e}")))
}

fn refuse(code: Code, kind: Kind, what: &str, hint: &str) -> Response {
    refusal(Fault::new(code, kind, what, hint))
}

fn refusal(fault: Fault) -> Response {
    (fault.http(), Json(fault)).into_response()
}
