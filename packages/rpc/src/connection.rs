//! One connection of a server: handshake, first bytes, requests, end. Each stage has a deadline, and
//! nothing that a stranger sends costs more than a debug line and a count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use crate::Peer;
use crate::deadline::Answering;
use crate::gather::Gather;
use crate::io::{Prefixed, ServerIo};
use crate::metrics::Metrics;
use crate::tls::{ClientAuth, Speaks, Tls};

/// A handshake that takes longer is given up.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// So many handshakes at once; more wait. Each costs a signature.
const HANDSHAKES_MAX: usize = 256;
/// The first bytes of a request must come within this.
const FIRST_BYTES_MAX: Duration = Duration::from_secs(10);
/// An HTTP/1 connection that asks nothing for so long is closed.
const HTTP1_QUIET_MAX: Duration = Duration::from_secs(60);
/// HTTP/2 pings an idle caller, and gives it up when it does not answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER_MAX: Duration = Duration::from_secs(10);
/// TCP asks a peer that is quiet for so long, this often, and gives it up after so many times.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// Requests at once on one connection; watches are streams too.
const STREAMS_MAX: u32 = 4096;
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
pub(crate) const HEADERS_MAX: u32 = 64 << 10;
/// How every HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What all connections of a listener share.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) tls: Option<(Tls, ClientAuth)>,
    pub(crate) speaks: Speaks,
    pub(crate) routes: axum::Router,
    /// For requests that are not gRPC, where both are spoken.
    pub(crate) web: Option<axum::Router>,
    pub(crate) metrics: Metrics,
    pub(crate) handshakes: Semaphore,
    /// Answer what was asked, take nothing new.
    pub(crate) stop: CancellationToken,
    /// Time is over.
    pub(crate) kill: CancellationToken,
}

impl Shared {
    pub(crate) fn handshake_slots() -> Semaphore {
        Semaphore::new(HANDSHAKES_MAX)
    }
}

/// Why a connection ended before its first request.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error("it said nothing for too long")]
    TooSlow,
    #[error("first bytes are not {0}")]
    Garbage(&'static str),
    #[error("connection lost: {0}")]
    Lost(std::io::Error),
    #[error("certificates cannot be used: {0}")]
    Certificates(fault::Fault),
}

pub(crate) async fn serve(stream: TcpStream, addr: SocketAddr, shared: Arc<Shared>) {
    let _open = Open::new(&shared.metrics);
    let begun = tokio::select! {
        begun = begin(stream, addr, &shared) => begun,
        () = shared.stop.cancelled() => return,
    };
    let (io, http2, peer) = match begun {
        Ok(begun) => begun,
        Err(why) => {
            match &why {
                Refused::Handshake(_) => shared.metrics.handshakes_failed.inc(),
                Refused::TooSlow => shared.metrics.too_slow.inc(),
                Refused::Garbage(_) => shared.metrics.garbage.inc(),
                Refused::Lost(_) | Refused::Certificates(_) => {}
            }
            tracing::debug!(listener = shared.name, %addr, %why, "connection refused");
            return;
        }
    };
    let answering = Answering {
        routes: shared.routes.clone(),
        web: shared.web.clone(),
        peer,
        grpc: shared.speaks != Speaks::Http,
    };
    let served = tokio::select! {
        served = converse(io, http2, answering, &shared.stop) => served,
        () = shared.kill.cancelled() => return,
    };
    if let Err(error) = served {
        tracing::debug!(listener = shared.name, %addr, %error, "connection ended");
    }
}

async fn begin(
    stream: TcpStream,
    addr: SocketAddr,
    shared: &Shared,
) -> Result<(TokioIo<Gather<Prefixed>>, bool, Peer), Refused> {
    stream.set_nodelay(true).map_err(Refused::Lost)?;
    probe_when_quiet(&stream).map_err(|error| Refused::Lost(error.into()))?;
    let (mut io, peer) = match &shared.tls {
        None => (ServerIo::Plain(stream), Peer::unknown(addr)),
        Some((tls, auth)) => {
            let config = tls.server(*auth, shared.speaks).map_err(Refused::Certificates)?;
            let handshake = async {
                // Whoever has not said hello holds no slot: silence must not keep others out.
                let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
                let _slot = shared.handshakes.acquire().await;
                hello.into_stream(config).await
            };
            let stream = tokio::time::timeout(HANDSHAKE_MAX, handshake)
                .await
                .map_err(|_| Refused::TooSlow)?
                .map_err(Refused::Handshake)?;
            let peer = Peer::verified(addr, stream.get_ref().1.peer_certificates());
            (ServerIo::Tls(Box::new(stream)), peer)
        }
    };
    let first = tokio::time::timeout(FIRST_BYTES_MAX, first_bytes(&mut io))
        .await
        .map_err(|_| Refused::TooSlow)?
        .map_err(Refused::Lost)?;
    let http2 = first == PREFACE;
    if !http2 && shared.speaks == Speaks::Grpc {
        return Err(Refused::Garbage("HTTP/2"));
    }
    if !http2 && !first.first().is_some_and(u8::is_ascii_uppercase) {
        return Err(Refused::Garbage("HTTP"));
    }
    Ok((TokioIo::new(Gather::new(Prefixed { first, rest: io })), http2, peer))
}

/// Whoever is gone without a word is noticed, also where the protocol has no pings: an answer that
/// streams over HTTP/1 would stay for ever.
fn probe_when_quiet(stream: &TcpStream) -> rustix::io::Result<()> {
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, PROBE_AFTER)?;
    set_tcp_keepintvl(stream, PROBE_EVERY)?;
    set_tcp_keepcnt(stream, PROBES)
}

/// Reads until it is clear whether this is HTTP/2: its whole preface, or the first difference.
async fn first_bytes(io: &mut ServerIo) -> std::io::Result<Bytes> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    let mut bytes = [0u8; PREFACE.len()];
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let count = io.read(&mut bytes[..PREFACE.len() - first.len()]).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        first.extend_from_slice(&bytes[..count]);
    }
    Ok(first.freeze())
}

async fn converse(
    io: TokioIo<Gather<Prefixed>>,
    http2: bool,
    answering: Answering,
    stop: &CancellationToken,
) -> Result<(), hyper::Error> {
    // After `stop` the connection says so, and ends when all that was asked is answered.
    macro_rules! until_done {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            tokio::select! {
                served = connection.as_mut() => return served,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }};
    }
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX)
            .max_send_buf_size(1 << 20)
            .max_pending_accept_reset_streams(64)
            .max_local_error_reset_streams(256)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER_MAX);
        until_done!(builder.serve_connection(io, answering))
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HTTP1_QUIET_MAX)
            .max_buf_size(HEADERS_MAX as usize)
            .keep_alive(true);
        until_done!(builder.serve_connection(io, answering))
    }
}

/// Counts a connection while it is open.
struct Open(Metrics);

impl Open {
    fn new(metrics: &Metrics) -> Self {
        metrics.accepted.inc();
        metrics.open.inc();
        Self(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{socket_keepalive, tcp_keepcnt, tcp_keepidle, tcp_keepintvl};

    use super::*;

    #[tokio::test]
    async fn who_vanishes_is_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        probe_when_quiet(&accepted).unwrap();
        assert!(socket_keepalive(&accepted).unwrap() && !socket_keepalive(&caller).unwrap());
        assert_eq!(tcp_keepidle(&accepted).unwrap(), PROBE_AFTER);
        assert_eq!(tcp_keepintvl(&accepted).unwrap(), PROBE_EVERY);
        assert_eq!(tcp_keepcnt(&accepted).unwrap(), PROBES);
    }
}
