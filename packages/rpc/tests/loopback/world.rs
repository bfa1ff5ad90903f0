//! A cluster of its own for each test: a CA, certificates, servers on free ports.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Json, Router};
use fault::Fault;
use identity::{Authority, KeyPair, LEAF_TTL, San, SpiffeId, TlsFiles, write_file};
use prometheus::Registry;
use rpc::{ClientAuth, Peer, Server, Tls};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ca: Authority,
}

pub(crate) fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::create("plasma", &dir.path().join("ca")).unwrap();
    World { dir, ca }
}

pub(crate) fn loopback() -> Vec<San> {
    vec!["127.0.0.1".parse().unwrap(), "localhost".parse().unwrap()]
}

impl World {
    /// The files of a service, valid now, on 127.0.0.1 and localhost.
    pub(crate) fn service(&self, service: &str) -> TlsFiles {
        let id = SpiffeId::service("plasma", service, "node01").unwrap();
        self.files(service, &id, &loopback())
    }

    pub(crate) fn files(&self, folder: &str, id: &SpiffeId, sans: &[San]) -> TlsFiles {
        let key = KeyPair::create().unwrap();
        let cert = self.ca.sign(&key.csr_pem().unwrap(), id, sans, LEAF_TTL).unwrap();
        self.write(folder, &key, &cert)
    }

    /// The files of a service with this window of validity, in minutes from now.
    pub(crate) fn window(&self, service: &str, from: i64, to: i64) -> TlsFiles {
        let id = SpiffeId::service("plasma", service, "node01").unwrap();
        let key = KeyPair::create().unwrap();
        let at = |minutes| OffsetDateTime::now_utc() + time::Duration::minutes(minutes);
        let csr = key.csr_pem().unwrap();
        let cert = self.ca.sign_between(&csr, &id, &loopback(), at(from), at(to)).unwrap();
        self.write(service, &key, &cert)
    }

    fn write(&self, folder: &str, key: &KeyPair, cert: &str) -> TlsFiles {
        let dir = self.dir.path().join(folder);
        std::fs::create_dir_all(&dir).unwrap();
        let files = TlsFiles::in_dir(&dir);
        key.save(&files.key).unwrap();
        write_file(&files.cert, cert.as_bytes(), 0o644).unwrap();
        write_file(&files.ca, self.ca.ca_pem().as_bytes(), 0o644).unwrap();
        files
    }

    pub(crate) fn tls(&self, service: &str) -> Tls {
        Tls::load(&self.service(service)).unwrap()
    }

    pub(crate) fn ca_path(&self) -> std::path::PathBuf {
        self.dir.path().join("ca/ca.pem")
    }
}

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Remembers a panic of any task: one that the runtime swallows is a failure all the same.
fn note_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.store(true, Ordering::SeqCst);
            print(panic);
        }));
    });
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), Fault>>,
}

impl Running {
    /// Stops it and waits for its end.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        within(self.task).await.unwrap().unwrap();
        assert!(!PANICKED.load(Ordering::SeqCst), "a task of the server panicked");
    }

    pub(crate) fn https(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }

    pub(crate) fn count(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }
}

pub(crate) enum Kind {
    Grpc,
    Http,
}

/// Serves gRPC health and `/who`, which answers the caller's id.
pub(crate) async fn serve(tls: Option<(Tls, ClientAuth)>, kind: Kind, more: Router) -> Running {
    note_panics();
    let builder = Server::new("test").grace(Duration::from_millis(500));
    let builder = match tls {
        Some((tls, auth)) => builder.tls(tls, auth),
        None => builder.plaintext(),
    };
    let server = builder.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let registry = Registry::new();
    server.register_metrics(&registry);
    let (addr, stop) = (server.local_addr(), CancellationToken::new());
    let router = more.route("/who", get(who));
    let stopped = stop.clone();
    let task = match kind {
        Kind::Http => tokio::spawn(server.serve_http(router, stopped)),
        Kind::Grpc => {
            let (reporter, health) = rpc::health();
            let mut routes = tonic::service::Routes::from(router);
            routes = routes.add_service(health);
            // Dropping the reporter must not end the health of the server.
            tokio::spawn(async move {
                let _reporter = reporter;
                server.serve(routes, stopped).await
            })
        }
    };
    Running { addr, registry, stop, task }
}

async fn who(Extension(peer): Extension<Peer>) -> Json<Option<SpiffeId>> {
    Json(peer.id)
}

/// Waits for something that must happen soon.
pub(crate) async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it happens in time")
}

/// Waits until a condition holds.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    within(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(crate) fn overwrite(from: &Path, to: &Path) {
    write_file(to, &std::fs::read(from).unwrap(), 0o600).unwrap();
}
