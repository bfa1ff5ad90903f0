//! How the gateway says no: gRPC's code and text as JSON, with the HTTP status that etcd's gateway
//! gives for the code.

use axum::body::Body;
use axum::response::Response;
use fault::{Fault, Kind};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tonic::{Code, Status};

use crate::codes;

/// `error` is what gateways up to etcd 3.5 call the text, `message` what all do.
#[derive(Serialize)]
struct Refused<'a> {
    error: &'a str,
    code: i32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// The same at any place of a stream, in both spellings too.
#[derive(Serialize)]
struct Ended<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    grpc_code: i32,
    http_code: u16,
    code: i32,
    message: &'a str,
    http_status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

fn hint(status: &Status) -> Option<String> {
    // from the metadata, since codes that no fault has carry a hint too
    status.metadata().get("plasma-hint").and_then(|hint| hint.to_str().ok()).map(str::to_owned)
}

/// The answer of a call that failed before it answered anything.
pub(super) fn answer(status: &Status) -> Response {
    let message = status.message();
    let body = Refused { error: message, code: status.code() as i32, message, hint: hint(status) };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    json(http_status(status.code()), Body::from(body))
}

/// The answer of a stream that failed before it answered anything.
pub(super) fn answer_stream(status: &Status) -> Response {
    json(http_status(status.code()), Body::from(line(status)))
}

/// The last line of a stream that failed.
pub(super) fn line(status: &Status) -> Vec<u8> {
    let http = http_status(status.code());
    let ended = Ended {
        error: Inner {
            grpc_code: status.code() as i32,
            http_code: http.as_u16(),
            code: status.code() as i32,
            message: status.message(),
            http_status: http.canonical_reason().unwrap_or_default(),
            hint: hint(status),
        },
    };
    let mut line = serde_json::to_vec(&ended).unwrap_or_default();
    line.push(b'\n');
    line
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// As etcd's gateway maps them.
pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // "client closed request": nobody reads it
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refused(kind: Kind, what: impl Into<String>, hint: &str) -> Status {
    Fault::new(codes::BAD_REQUEST, kind, what.into(), hint).into()
}

pub(super) fn malformed(why: impl std::fmt::Display) -> Status {
    refused(
        Kind::Invalid,
        why.to_string(),
        "send a JSON object: bytes in base64, names as in etcd's API",
    )
}

pub(super) fn too_large() -> Status {
    let hint = "split the request; the limit is limits.request_bytes";
    Fault::new(codes::TOO_LARGE, Kind::Invalid, "etcdserver: request is too large", hint).into()
}

pub(super) fn too_much(bytes: usize) -> Status {
    let what = format!("chainfire: the answer is over {bytes} bytes");
    let hint = "set a limit and read in pages, or use gRPC";
    Fault::new(codes::TOO_LARGE, Kind::Exhausted, what, hint).into()
}

pub(super) fn too_slow() -> Status {
    let hint = "send the whole body at once";
    Fault::new(codes::TIMED_OUT, Kind::Deadline, "chainfire: the body did not come in time", hint)
        .into()
}

pub(super) fn unreadable(why: impl std::fmt::Display) -> Status {
    let what = format!("chainfire: the answer cannot be written as JSON: {why}");
    Fault::new(codes::INTERNAL, Kind::Internal, what, "report this with the member's log").into()
}

pub(super) fn no_such_path() -> Status {
    refused(
        Kind::NotFound,
        "Not Found",
        "the paths are those of etcd's gateway, from /v3/kv/range on",
    )
}

pub(super) fn not_post() -> Status {
    let mut status = refused(Kind::Invalid, "Method Not Allowed", "use POST");
    // etcd's gateway says Unimplemented, which no fault of ours is
    status =
        Status::with_metadata(Code::Unimplemented, status.message(), status.metadata().clone());
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_generations_of_clients_find_code_and_text() {
        let status = malformed("no");
        let line = String::from_utf8(line(&status)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let error = &value["error"];
        assert_eq!((&error["grpc_code"], &error["code"]), (&3.into(), &3.into()));
        assert_eq!((&error["http_code"], &error["message"]), (&400.into(), &"no".into()));
        assert!(error["hint"].as_str().unwrap().contains("base64"));
        assert!(line.ends_with("}\n"));
        assert_eq!(answer(&status).status(), 400);
        assert_eq!(answer(&not_post()).status(), 501);
        assert_eq!(answer(&no_such_path()).status(), 404);
    }
}
