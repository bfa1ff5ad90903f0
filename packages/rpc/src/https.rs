//! A small JSON client over HTTPS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fault::{Fault, Kind};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::checked;
use crate::codes;
use crate::connector::{Connector, Dialed};
use crate::tls::{Speaks, Tls};

/// An answer is no longer than this.
const BODY_MAX: usize = 4 << 20;
const TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A JSON client: one call, one answer, no retries (see [`crate::Backoff`]).
#[derive(Clone)]
pub struct Https {
    client: Client<Connector, Full<Bytes>>,
    has_tls: bool,
    timeout: Duration,
}

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpsError {
    /// The URL cannot be called.
    #[error("{0}")]
    Url(Fault),
    /// No connection, or it was lost: whether the call happened is not known.
    #[error("{url} cannot be reached: {why}")]
    Unreachable {
        /// What was called.
        url: String,
        /// The chain of causes.
        why: String,
    },
    /// No answer in time: whether the call happened is not known.
    #[error("{url} did not answer within {within:?}")]
    TimedOut {
        /// What was called.
        url: String,
        /// The limit.
        within: Duration,
    },
    /// The answer is too long.
    #[error("answer of {url} is longer than {BODY_MAX} bytes")]
    TooLarge {
        /// What was called.
        url: String,
    },
    /// The server refused, and said why.
    #[error("{0}")]
    Server(Fault),
    /// The server refused with something that is no fault of ours.
    #[error("{url} answered {status}")]
    Status {
        /// What was called.
        url: String,
        /// With what it answered.
        status: StatusCode,
    },
    /// The answer is not the JSON that was expected.
    #[error("answer of {url} is not understood: {why}")]
    Json {
        /// What was called.
        url: String,
        /// What the parser says.
        why: String,
    },
}

impl HttpsError {
    /// Whether trying again later can help.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Server(fault) => fault.kind.passes(),
            Self::Status { status, .. } => status.is_server_error(),
            Self::Url(_) | Self::TooLarge { .. } | Self::Json { .. } => false,
        }
    }
}

impl From<HttpsError> for Fault {
    fn from(error: HttpsError) -> Self {
        use HttpsError as E;
        let what = error.to_string();
        let (code, kind, hint) = match error {
            E::Url(fault) | E::Server(fault) => return fault,
            E::Unreachable { .. } => (
                codes::UNREACHABLE,
                Kind::Unavailable,
                "check that the server runs, its address, and both certificates",
            ),
            E::TimedOut { .. } => (
                codes::TIMED_OUT,
                Kind::Deadline,
                "check the server's log and load, then try again",
            ),
            E::TooLarge { .. } => (codes::TOO_LARGE, Kind::Exhausted, "ask for less"),
            E::Status { .. } | E::Json { .. } => (
                codes::ANSWER,
                Kind::Internal,
                "check that the URL is this service's, and both versions",
            ),
        };
        Fault::new(code, kind, what, hint)
    }
}

impl Https {
    /// A client with this TLS: an identity ([`Tls::load`]) or only trust ([`Tls::trust`]).
    pub fn new(tls: &Tls) -> Self {
        Self::build(Some(Dialed::Own(tls.clone())))
    }

    /// A client for `http://` URLs alone: ops listeners and tests.
    pub fn plain() -> Self {
        Self::build(None)
    }

    /// A client with a TLS that was made for a single call.
    pub(crate) fn once(config: Arc<ClientConfig>) -> Self {
        Self::build(Some(Dialed::Once(config)))
    }

    /// The same client with another limit of time for a whole call; 15 s without this.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn build(tls: Option<Dialed>) -> Self {
        let has_tls = tls.is_some();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(2)
            .build(Connector { tls, speaks: Speaks::Http });
        Self { client, has_tls, timeout: TIMEOUT }
    }

    /// GET, and the answer from JSON.
    pub async fn get_json<T: DeserializeOwned>(&self, url: &str) -> Result<T, HttpsError> {
        self.call(Method::GET, url, Bytes::new()).await
    }

    /// POST of JSON, and the answer from JSON.
    pub async fn post_json<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
    ) -> Result<T, HttpsError> {
        let body = serde_json::to_vec(body)
            .map_err(|e| HttpsError::Json { url: url.to_owned(), why: e.to_string() })?;
        self.call(Method::POST, url, Bytes::from(body)).await
    }

    /// DELETE, and the answer from JSON.
    pub async fn delete_json<T: DeserializeOwned>(&self, url: &str) -> Result<T, HttpsError> {
        self.call(Method::DELETE, url, Bytes::new()).await
    }

    /// GET of text, whatever its form.
    pub async fn get_text(&self, url: &str) -> Result<String, HttpsError> {
        let body = self.bounded(Method::GET, url, Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
    ) -> Result<T, HttpsError> {
        let body = self.bounded(method, url, body).await?;
        // No content reads as null, so that `()` is an answer.
        let text: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text)
            .map_err(|e| HttpsError::Json { url: url.to_owned(), why: e.to_string() })
    }

    async fn bounded(&self, method: Method, url: &str, body: Bytes) -> Result<Bytes, HttpsError> {
        tokio::time::timeout(self.timeout, self.exchange(method, url, body)).await.unwrap_or_else(
            |_| Err(HttpsError::TimedOut { url: url.to_owned(), within: self.timeout }),
        )
    }

    async fn exchange(&self, method: Method, url: &str, body: Bytes) -> Result<Bytes, HttpsError> {
        let uri = checked(url, self.has_tls).map_err(HttpsError::Url)?;
        let unreachable = |error: &(dyn std::error::Error + 'static)| HttpsError::Unreachable {
            url: url.to_owned(),
            why: causes(error),
        };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|e| unreachable(&e))?;
        let answer = self.client.request(request).await.map_err(|e| unreachable(&e))?;
        let status = answer.status();
        let body = match Limited::new(answer.into_body(), BODY_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(HttpsError::TooLarge { url: url.to_owned() });
            }
            Err(error) => return Err(unreachable(error.as_ref())),
        };
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Fault>(&body) {
            Ok(fault) => Err(HttpsError::Server(fault)),
            Err(_) => Err(HttpsError::Status { url: url.to_owned(), status }),
        }
    }
}

/// An error with its causes, which alone say what happened; repetitions are left out.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
