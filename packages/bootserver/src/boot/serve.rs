//! Plain HTTP for machines that have nothing yet: scripts, images, the archive with the CA's
//! certificate. Nothing here is secret, and nothing that is asked here erases anything by itself.

use std::fs::File;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use fault::{Fault, Kind};
use inventory::Mac;
use rpc::{Peer, http_error};
use serde::Deserialize;

use super::fit::Asking;
use super::machines::plain;
use super::range::{self, Part};
use super::script::first;
use super::streams::{Patience, Streams};
use crate::codes;
use crate::desk::{Desk, blocking};

/// A body up to here takes no place among the streams.
const SMALL: u64 = 64 << 10;
/// The loaders that firmware may fetch.
const LOADERS: [&str; 4] = ["ipxe.efi", "snponly.efi", "undionly.kpxe", "ipxe.pxe"];

#[derive(Clone)]
struct App {
    desk: Arc<Desk>,
    streams: Streams,
}

/// The paths below `/boot`.
pub(crate) fn routes(desk: Arc<Desk>) -> Router {
    let streams = Streams::new(desk.boot_settings().max_streams, Patience::default());
    Router::new()
        .route("/boot/autoexec.ipxe", get(autoexec))
        .route("/boot/script", get(script))
        .route("/boot/ca.cpio", get(ca_cpio))
        .route("/boot/images/ca.cpio", get(ca_cpio))
        .route("/boot/images/manifest.json", get(manifest))
        .route("/boot/images/{name}", get(image))
        .route("/boot/efi/{name}", get(loader))
        .route("/boot/{name}", get(loader))
        .fallback(|| async { http_error(no_such_path()) })
        .method_not_allowed_fallback(|| async {
            let what = "this path takes another method";
            http_error(Fault::new(codes::NO_SUCH_METHOD, Kind::Invalid, what, ""))
        })
        .with_state(App { desk, streams })
}

fn no_such_path() -> Fault {
    Fault::new(codes::NO_SUCH_PATH, Kind::NotFound, "no such path", "")
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

async fn autoexec(State(app): State<App>) -> Response {
    text(first(&app.desk.boot_url()))
}

/// What iPXE says of its machine.
#[derive(Deserialize)]
struct Said {
    mac: String,
    #[serde(default)]
    serial: String,
    #[serde(default)]
    uuid: String,
    #[serde(default)]
    arch: String,
}

async fn script(
    State(app): State<App>,
    peer: Extension<Peer>,
    said: Result<Query<Said>, QueryRejection>,
) -> Response {
    let bad = |what: String| {
        let hint = "ask as /boot/autoexec.ipxe does";
        http_error(Fault::new(codes::BAD_QUERY, Kind::Invalid, what, hint))
    };
    let Ok(Query(said)) = said else { return bad("the query names no mac".to_owned()) };
    let Some(mac) = Mac::parse(&said.mac) else {
        return bad(format!("{:?} is no address of a network card", plain(&said.mac)));
    };
    let some = |text: &str| Some(plain(text)).filter(|text| !text.is_empty());
    let asking = Asking {
        macs: vec![mac],
        serial: some(&said.serial),
        uuid: some(&said.uuid),
        arch: plain(&said.arch),
    };
    text(app.desk.script(asking, peer.addr.ip()).await)
}

async fn ca_cpio(State(app): State<App>) -> Response {
    match app.desk.ca_cpio().await {
        Ok(archive) => octets(archive),
        Err(fault) => http_error(fault),
    }
}

async fn manifest(State(app): State<App>) -> Response {
    match app.desk.manifest_text().await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(fault) => http_error(fault),
    }
}

async fn loader(State(app): State<App>, Path(name): Path<String>, method: Method) -> Response {
    match send_loader(&app, &name, &method).await {
        Ok(response) => response,
        Err(fault) => http_error(fault),
    }
}

async fn send_loader(app: &App, name: &str, method: &Method) -> Result<Response, Fault> {
    // a fixed list: no name of a stranger's becomes a path
    let name = LOADERS.iter().find(|known| **known == name).ok_or_else(no_such_path)?;
    let path = app.desk.boot_settings().loaders.join(name);
    let opened = blocking(move || {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        opened.map_err(|error| {
            let what = format!("{} cannot be read: {error}", path.display());
            let hint = "install ipxe, or set boot.loaders to the folder of its files";
            Fault::new(codes::NO_LOADER, Kind::Unavailable, what, hint)
        })
    });
    let (bytes, file) = opened.await?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, bytes);
    if method == Method::HEAD {
        return finish(response, Body::empty());
    }
    let place = app.streams.place().await?;
    finish(response, app.streams.body(place, file, 0, bytes))
}

fn octets(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

async fn image(
    State(app): State<App>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    match send(&app, name, &method, &headers).await {
        Ok(response) => response,
        Err(fault) => {
            let busy = fault.code == codes::STREAMS_BUSY;
            if fault.code == codes::NO_IMAGES {
                tracing::error!(what = fault.what, "an image cannot be served");
            }
            let mut response = http_error(fault);
            if busy {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            response
        }
    }
}

async fn send(
    app: &App,
    name: String,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Fault> {
    let image = app.desk.image(name).await?;
    let etag = format!("\"{}\"", image.sha256);
    let said = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream");
    let is_same =
        |tags: &str| tags.split(',').any(|tag| matches!(tag.trim(), t if t == etag || t == "*"));
    if said(header::IF_NONE_MATCH).is_some_and(is_same) {
        return finish(response.status(StatusCode::NOT_MODIFIED), Body::empty());
    }
    // a range of another version of the file would be a piece of something else
    let range =
        said(header::RANGE).filter(|_| said(header::IF_RANGE).is_none_or(|tag| tag.trim() == etag));
    let (first, count) = match range::parse(range, image.bytes) {
        Part::Whole => (0, image.bytes),
        Part::Bytes(first, last) => {
            let content = format!("bytes {first}-{last}/{}", image.bytes);
            response =
                response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, content);
            (first, last - first + 1)
        }
        Part::Outside => {
            let content = format!("bytes */{}", image.bytes);
            let what = format!("the range is outside the file's {} bytes", image.bytes);
            let fault = Fault::new(codes::BAD_RANGE, Kind::OutOfRange, what, "ask for less");
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let headers = [(header::CONTENT_RANGE, content)];
            return Ok((status, headers, axum::Json(fault)).into_response());
        }
    };
    let response = response.header(header::CONTENT_LENGTH, count);
    if method == Method::HEAD {
        return finish(response, Body::empty());
    }
    let body = if count <= SMALL {
        small(image.file, first, count).await?
    } else {
        let place = app.streams.place().await?;
        app.streams.body(place, image.file, first, count)
    };
    finish(response, body)
}

async fn small(file: File, first: u64, count: u64) -> Result<Body, Fault> {
    let read = move || {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = vec![0u8; usize::try_from(count).unwrap_or_default()];
        file.read_exact_at(&mut bytes, first).map_err(|error| {
            let what = format!("an image cannot be read: {error}");
            Fault::new(codes::NO_IMAGES, Kind::Unavailable, what, "ask again")
        })?;
        Ok(Body::from(bytes))
    };
    blocking(read).await
}

fn finish(response: axum::http::response::Builder, body: Body) -> Result<Response, Fault> {
    response.body(body).map_err(|e| Fault::new(codes::INTERNAL, Kind::Internal, e.to_string(), ""))
}
