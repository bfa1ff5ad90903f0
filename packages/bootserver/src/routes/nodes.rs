//! The paths of netboot on the TLS listener: who a machine is, its token, and what operators order.

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use rpc::Peer;

use super::{App, MAX_BODY, body, refusal};
use crate::wire;

pub(super) async fn identify(
    State(app): State<App>,
    peer: Extension<Peer>,
    request: Request,
) -> Response {
    app.answer("identify", async {
        let request: wire::IdentifyRequest = body(request, MAX_BODY).await?;
        app.desk.identify(request, peer.addr.ip()).await
    })
    .await
}

pub(super) async fn claim(
    State(app): State<App>,
    peer: Extension<Peer>,
    request: Request,
) -> Response {
    app.answer("claim", async {
        app.slow_down(peer.addr.ip())?;
        let request: wire::ClaimRequest = body(request, MAX_BODY).await?;
        let node: String = request.node.chars().take(64).collect();
        let minted = async {
            // only what may be claimed counts: nobody else uses up a node's claims
            app.desk.check_claim(&request).await?;
            app.slow_claims(&node)?;
            app.desk.claim(request).await
        };
        let minted = minted.await;
        if let Err(fault) = &minted {
            app.note_refusal(peer.addr.ip());
            tracing::warn!(node, code = fault.code.0, what = fault.what, "claim refused");
        }
        minted
    })
    .await
}

/// The same as over plain HTTP: its sums vouch for the files only if it did not come the same way.
pub(super) async fn manifest(State(app): State<App>) -> Response {
    match app.desk.manifest_text().await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(fault) => refusal(fault),
    }
}

pub(super) async fn machines(State(app): State<App>, peer: Extension<Peer>) -> Response {
    app.answer("machines", async {
        peer.require_operator(app.desk.folder().cluster())?;
        Ok(app.desk.machines())
    })
    .await
}

pub(super) async fn explain(
    State(app): State<App>,
    peer: Extension<Peer>,
    Path(node): Path<String>,
) -> Response {
    app.answer("boot", async {
        peer.require_operator(app.desk.folder().cluster())?;
        app.desk.explain(&node).await
    })
    .await
}

pub(super) async fn order(
    State(app): State<App>,
    peer: Extension<Peer>,
    Path(node): Path<String>,
    request: Request,
) -> Response {
    app.answer("order", async {
        let operator = peer.require_operator(app.desk.folder().cluster())?.to_owned();
        let request: wire::OrderRequest = body(request, MAX_BODY).await?;
        let (order, sticky) = (request.order, request.sticky);
        let explained = app.desk.order(&node, request).await?;
        tracing::info!(operator, node, ?order, sticky, "ordered");
        Ok(explained)
    })
    .await
}
