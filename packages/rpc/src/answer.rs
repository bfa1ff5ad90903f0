//! Faults as HTTP answers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use fault::Fault;

/// The answer for a fault: its status, and `{code, kind, what, hint}` as JSON.
pub fn http_error(fault: Fault) -> Response {
    (fault.http(), Json(fault)).into_response()
}
