//! A server: one listener, its routes, a graceful stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fault::{Fault, Kind};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::codes;
use crate::connection::{self, Shared};
use crate::metrics::Metrics;
use crate::tls::{ClientAuth, Speaks, Tls};

/// Connections at once on one listener; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;
const BACKLOG: u32 = 1024;
/// How long a stop waits for answers that are under way.
const GRACE: Duration = Duration::from_secs(10);
/// After an accept that failed (out of files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server will be, before it has a port.
#[derive(Debug)]
pub struct ServerBuilder {
    name: String,
    /// Undecided, plaintext, or TLS: forgetting to choose must not open a port to everybody.
    security: Option<Option<(Tls, ClientAuth)>>,
    grace: Duration,
}

impl ServerBuilder {
    /// Serve TLS.
    pub fn tls(mut self, tls: Tls, auth: ClientAuth) -> Self {
        self.security = Some(Some((tls, auth)));
        self
    }

    /// Serve without TLS; a warning in the log says so.
    pub fn plaintext(mut self) -> Self {
        self.security = Some(None);
        self
    }

    /// How long a stop waits for answers that are under way; 10 s without this.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Listens; port 0 takes a free one.
    pub async fn bind(self, addr: SocketAddr) -> Result<Server, Fault> {
        let listener = listen(addr).map_err(|error| refused(&self.name, addr, &error))?;
        self.listening(listener)
    }

    /// Takes a listener that exists already.
    pub fn listening(self, listener: TcpListener) -> Result<Server, Fault> {
        let Some(tls) = self.security else {
            return Err(Fault::new(
                codes::UNDECIDED,
                Kind::Internal,
                format!("listener {} has neither TLS nor leave to be plaintext", self.name),
                "choose one where the server is made",
            ));
        };
        if let Some((tls, auth)) = &tls {
            tls.server(*auth, Speaks::Http)?;
        }
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let local = listener.local_addr().map_err(|error| refused(&self.name, nowhere, &error))?;
        let metrics = Metrics::new(&self.name);
        Ok(Server { name: self.name, tls, grace: self.grace, listener, local, metrics })
    }
}

/// A server that listens, and answers once it is served.
pub struct Server {
    name: String,
    tls: Option<(Tls, ClientAuth)>,
    grace: Duration,
    listener: TcpListener,
    local: SocketAddr,
    metrics: Metrics,
}

impl Server {
    /// Begins a server; `name` stands in logs and metrics (`chainfire-client`). Choose
    /// [`ServerBuilder::tls`] or [`ServerBuilder::plaintext`] before it is bound.
    #[allow(clippy::new_ret_no_self)] // a server exists once it has a port
    pub fn new(name: impl Into<String>) -> ServerBuilder {
        ServerBuilder { name: name.into(), security: None, grace: GRACE }
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Adds this listener's counters to a registry.
    pub fn register_metrics(&self, registry: &prometheus::Registry) {
        self.metrics.register(registry);
    }

    /// Serves gRPC until `stop`; then answers what is under way, for the grace time at most.
    /// Handlers of endless streams end them by themselves on `stop`, or are cut off.
    pub async fn serve(
        self,
        routes: tonic::service::Routes,
        stop: CancellationToken,
    ) -> Result<(), Fault> {
        self.run(routes.prepare().into_axum_router(), None, Speaks::Grpc, stop).await
    }

    /// Serves gRPC as [`Server::serve`] does, and every request that is not gRPC, over HTTP/1 or
    /// HTTP/2, by `web`.
    pub async fn serve_both(
        self,
        routes: tonic::service::Routes,
        web: axum::Router,
        stop: CancellationToken,
    ) -> Result<(), Fault> {
        self.run(routes.prepare().into_axum_router(), Some(web), Speaks::Both, stop).await
    }

    /// Serves HTTP/1 and HTTP/2 until `stop`, as [`Server::serve`] does. Handlers take the caller
    /// as `axum::Extension<Peer>`.
    pub async fn serve_http(
        self,
        router: axum::Router,
        stop: CancellationToken,
    ) -> Result<(), Fault> {
        self.run(router, None, Speaks::Http, stop).await
    }

    async fn run(
        self,
        routes: axum::Router,
        web: Option<axum::Router>,
        speaks: Speaks,
        stop: CancellationToken,
    ) -> Result<(), Fault> {
        let (name, address) = (self.name.clone(), self.local);
        if self.tls.is_some() {
            tracing::info!(listener = name, %address, "listening");
        } else {
            tracing::warn!(listener = name, %address, "listening without TLS");
        }
        let kill = CancellationToken::new();
        let shared = Arc::new(Shared {
            name: self.name,
            tls: self.tls,
            speaks,
            routes,
            web,
            metrics: self.metrics,
            handshakes: Shared::handshake_slots(),
            stop: stop.clone(),
            kill: kill.clone(),
        });
        // If this future is dropped, its connections end as well.
        let _kill = kill.clone().drop_guard();
        let connections = TaskTracker::new();
        tokio::select! {
            () = stop.cancelled() => {}
            () = accept(&self.listener, &shared, &connections) => {}
        }
        drop(self.listener);
        connections.close();
        if tokio::time::timeout(self.grace, connections.wait()).await.is_err() {
            tracing::info!(listener = name, cut = connections.len(), "connections cut at the stop");
            kill.cancel();
            connections.wait().await;
        }
        tracing::info!(listener = name, %address, "stopped");
        Ok(())
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>, connections: &TaskTracker) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, addr)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    connection::serve(stream, addr, shared).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(listener = shared.name, %error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A port whose old connections linger can be listened on again; one in use cannot.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

fn refused(name: &str, addr: SocketAddr, error: &std::io::Error) -> Fault {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        return Fault::new(
            codes::PORT_IN_USE,
            Kind::Unavailable,
            format!("{name} cannot listen on {addr}: the port is in use"),
            format!(
                "stop the process that has it (ss -ltnp 'sport = :{}'), or set another address",
                addr.port()
            ),
        );
    }
    Fault::new(
        codes::LISTEN,
        Kind::Precondition,
        format!("{name} cannot listen on {addr}: {error}"),
        "set an address of this machine, and a port that this process may take",
    )
}

/// Serves HTTP on an address until `stop`: [`Server::serve_http`] in one call.
pub async fn serve_http(
    name: &str,
    addr: SocketAddr,
    tls: Option<(Tls, ClientAuth)>,
    router: axum::Router,
    stop: CancellationToken,
) -> Result<(), Fault> {
    let mut server = Server::new(name);
    server.security = Some(tls);
    server.bind(addr).await?.serve_http(router, stop).await
}
