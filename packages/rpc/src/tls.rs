//! The TLS of a process: its own certificate and the cluster's CA, followed when the files change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fault::{Fault, Kind};
use identity::{SpiffeId, TlsFiles};
use parking_lot::Mutex;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::codes;
use crate::server_time::ServerTime;
use crate::tls_files::{self, Stamp, client_verifier, provider};

/// Files are looked at again at a new connection, at most this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Whether callers of a server need a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A connection without a certificate of the cluster is refused.
    Required,
    /// A connection without a certificate is served, with no id in [`crate::Peer`]; a wrong
    /// certificate is still refused.
    Optional,
}

/// What a listener or a client speaks inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/2 only: gRPC.
    Grpc,
    /// HTTP/2 or HTTP/1.1.
    Http,
    /// gRPC, and HTTP/2 or HTTP/1.1 beside it.
    Both,
}

impl Speaks {
    pub(crate) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Speaks::Grpc => vec![b"h2".to_vec()],
            Speaks::Http | Speaks::Both => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// The TLS of a process. Clones share it. When the files change, new connections use the new ones;
/// if the new ones are wrong, the old ones stay and a warning says why.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    source: Source,
    current: ArcSwap<Loaded>,
    looked: Mutex<Looked>,
}

enum Source {
    Identity(TlsFiles),
    CaOnly(PathBuf, Option<ServerTime>),
}

struct Looked {
    at: Instant,
    stamps: [Stamp; 3],
}

struct Loaded {
    identity: Option<Identity>,
    client_grpc: Arc<ClientConfig>,
    client_http: Arc<ClientConfig>,
}

struct Identity {
    id: Option<SpiffeId>,
    required_grpc: Arc<ServerConfig>,
    required_http: Arc<ServerConfig>,
    optional_grpc: Arc<ServerConfig>,
    optional_http: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.source {
            Source::Identity(files) => write!(f, "Tls({})", files.cert.display()),
            Source::CaOnly(ca, _) => write!(f, "Tls(trusts {})", ca.display()),
        }
    }
}

impl Tls {
    /// Loads an identity and checks it: readable, PEM, key and certificate belong together, signed
    /// by the CA, valid now.
    pub fn load(files: &TlsFiles) -> Result<Tls, Fault> {
        Tls::from_source(Source::Identity(files.clone()))
    }

    /// Trusts servers of the cluster and shows no certificate: for calls before enrolment.
    pub fn trust(ca: &Path) -> Result<Tls, Fault> {
        Tls::from_source(Source::CaOnly(ca.to_owned(), None))
    }

    /// As [`Tls::trust`], with the dates of certificates checked against this time instead of the
    /// machine's clock: for calls before that clock is set.
    pub fn trust_by(ca: &Path, time: ServerTime) -> Result<Tls, Fault> {
        Tls::from_source(Source::CaOnly(ca.to_owned(), Some(time)))
    }

    /// Who this process is.
    pub fn id(&self) -> Option<SpiffeId> {
        self.now().identity.as_ref().and_then(|identity| identity.id.clone())
    }

    /// Looks at the files at once, rather than at the next connection. An error means that the old
    /// ones stay in use.
    pub fn reload(&self) -> Result<(), Fault> {
        let stamps = self.0.source.stamps();
        let loaded = Loaded::read(&self.0.source)?;
        self.0.current.store(Arc::new(loaded));
        *self.0.looked.lock() = Looked { at: Instant::now(), stamps };
        Ok(())
    }

    fn from_source(source: Source) -> Result<Tls, Fault> {
        // Stamps first: a change while reading is then seen at the next look.
        let stamps = source.stamps();
        let current = ArcSwap::from_pointee(Loaded::read(&source)?);
        let looked = Mutex::new(Looked { at: Instant::now(), stamps });
        Ok(Tls(Arc::new(Inner { source, current, looked })))
    }

    pub(crate) fn server(
        &self,
        auth: ClientAuth,
        speaks: Speaks,
    ) -> Result<Arc<ServerConfig>, Fault> {
        let loaded = self.now();
        let Some(identity) = &loaded.identity else {
            return Err(Fault::new(
                codes::TLS_NO_IDENTITY,
                Kind::Precondition,
                "a TLS server needs a certificate of its own",
                "set tls.cert and tls.key",
            ));
        };
        Ok(match (auth, speaks) {
            (ClientAuth::Required, Speaks::Grpc) => identity.required_grpc.clone(),
            (ClientAuth::Required, Speaks::Http | Speaks::Both) => identity.required_http.clone(),
            (ClientAuth::Optional, Speaks::Grpc) => identity.optional_grpc.clone(),
            (ClientAuth::Optional, Speaks::Http | Speaks::Both) => identity.optional_http.clone(),
        })
    }

    pub(crate) fn client(&self, speaks: Speaks) -> Arc<ClientConfig> {
        let loaded = self.now();
        match speaks {
            Speaks::Grpc => loaded.client_grpc.clone(),
            Speaks::Http | Speaks::Both => loaded.client_http.clone(),
        }
    }

    /// The configuration for a new connection.
    fn now(&self) -> Arc<Loaded> {
        let stamps = {
            let mut looked = self.0.looked.lock();
            if looked.at.elapsed() < LOOK_EVERY {
                return self.0.current.load_full();
            }
            looked.at = Instant::now();
            let stamps = self.0.source.stamps();
            if stamps == looked.stamps {
                return self.0.current.load_full();
            }
            // Noted before reading: a wrong set of files is tried, and complained of, once.
            looked.stamps = stamps;
            stamps
        };
        match Loaded::read(&self.0.source) {
            Ok(loaded) => {
                tracing::info!(tls = ?self, "certificates reloaded");
                self.0.current.store(Arc::new(loaded));
            }
            Err(fault) => {
                tracing::warn!(%fault, files = stamps.len(), "changed certificates not taken, the old stay");
            }
        }
        self.0.current.load_full()
    }
}

impl Source {
    fn stamps(&self) -> [Stamp; 3] {
        match self {
            Source::Identity(files) => [
                tls_files::stamp(&files.cert),
                tls_files::stamp(&files.key),
                tls_files::stamp(&files.ca),
            ],
            Source::CaOnly(ca, _) => [tls_files::stamp(ca), None, None],
        }
    }
}

impl Loaded {
    fn read(source: &Source) -> Result<Loaded, Fault> {
        match source {
            Source::CaOnly(ca, time) => {
                let roots = tls_files::read_roots(ca)?;
                Ok(Loaded {
                    identity: None,
                    client_grpc: client(&roots, None, *time, Speaks::Grpc)?,
                    client_http: client(&roots, None, *time, Speaks::Http)?,
                })
            }
            Source::Identity(files) => {
                let roots = tls_files::read_roots(&files.ca)?;
                let key = tls_files::read_identity(files, &roots)?;
                let server = |auth, speaks| server(&roots, &key, auth, speaks, &files.ca);
                let id = key.cert.first().and_then(|der| identity::spiffe_of_cert_der(der));
                let identity = Identity {
                    id,
                    required_grpc: server(ClientAuth::Required, Speaks::Grpc)?,
                    required_http: server(ClientAuth::Required, Speaks::Http)?,
                    optional_grpc: server(ClientAuth::Optional, Speaks::Grpc)?,
                    optional_http: server(ClientAuth::Optional, Speaks::Http)?,
                };
                Ok(Loaded {
                    identity: Some(identity),
                    client_grpc: client(&roots, Some(&key), None, Speaks::Grpc)?,
                    client_http: client(&roots, Some(&key), None, Speaks::Http)?,
                })
            }
        }
    }
}

fn server(
    roots: &Arc<RootCertStore>,
    key: &Arc<CertifiedKey>,
    auth: ClientAuth,
    speaks: Speaks,
    ca: &Path,
) -> Result<Arc<ServerConfig>, Fault> {
    let verifier = client_verifier(roots, auth == ClientAuth::Required, ca)?;
    let resolver: Arc<dyn ResolvesServerCert> =
        Arc::new(SingleCertAndKey::from(CertifiedKey::clone(key)));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unsupported)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = speaks.alpn();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client(
    roots: &Arc<RootCertStore>,
    key: Option<&Arc<CertifiedKey>>,
    time: Option<ServerTime>,
    speaks: Speaks,
) -> Result<Arc<ClientConfig>, Fault> {
    let time: Arc<dyn TimeProvider> = match time {
        Some(time) => Arc::new(time),
        None => Arc::new(DefaultTimeProvider),
    };
    let builder = ClientConfig::builder_with_details(provider(), time)
        .with_safe_default_protocol_versions()
        .map_err(unsupported)?
        .with_root_certificates(roots.clone());
    let mut config = match key {
        Some(key) => builder
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(key)))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = speaks.alpn();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn unsupported(error: rustls::Error) -> Fault {
    Fault::new(codes::TLS_CA, Kind::Internal, format!("TLS cannot be set up: {error}"), "")
}
