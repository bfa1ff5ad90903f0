//! Each request gets its caller's identity and, for gRPC, the caller's deadline.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::routing::future::RouteFuture;
use futures::future::Either;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tower::Service;

use crate::Peer;

type Answer = Result<Response<Body>, Infallible>;

/// The routes of a listener as one connection sees them.
#[derive(Clone)]
pub(crate) struct Answering {
    pub(crate) routes: axum::Router,
    /// For requests that are not gRPC.
    pub(crate) web: Option<axum::Router>,
    pub(crate) peer: Peer,
    pub(crate) grpc: bool,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<RouteFuture<Infallible>, Pin<Box<dyn Future<Output = Answer> + Send>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        if let Some(web) = &self.web
            && !is_grpc(request.headers())
        {
            return Either::Left(web.clone().call(request));
        }
        let deadline = if self.grpc { grpc_timeout(request.headers()) } else { None };
        let answer = self.routes.clone().call(request);
        match deadline {
            None => Either::Left(answer),
            Some(deadline) => Either::Right(Box::pin(async move {
                tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| {
                    let status = tonic::Status::deadline_exceeded("deadline of the caller is over");
                    Ok(status.into_http())
                })
            })),
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The header `grpc-timeout`: up to eight digits and a unit. A malformed one is no deadline.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let table = [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("2H", Some(Duration::from_secs(7200))),
            ("1M", Some(Duration::from_secs(60))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("5", None),
            ("5x", None),
            ("-5S", None),
            ("+5S", None),
            ("123456789S", None),
        ];
        for (text, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(grpc_timeout(&headers), expected, "{text:?}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }
}
