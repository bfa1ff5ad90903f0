//! A store that the crate `etcd-client` talks to: Chainfire, or etcd itself, to see whether a test
//! asks for what etcd does.
//!
//! ```sh
//! cargo build -p chainfire                                                           # in the workspace
//! cargo test --manifest-path tests/etcd-client/Cargo.toml                            # Chainfire
//! PLASMA_PEER=etcd cargo test --manifest-path tests/etcd-client/Cargo.toml           # etcd
//! ```
//!
//! `PLASMA_BIN_ETCD` says which etcd.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Result, bail};
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use testkit::etcd::Etcd;
use testkit::{Cluster, Options};

/// How long anything may take on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A store of a test's own; it ends with the test.
#[derive(Debug)]
pub enum World {
    /// Chainfire, by its own program.
    Chainfire(Box<Cluster>),
    /// etcd, with the folder that holds its data.
    Etcd(Etcd, tempfile::TempDir),
}

impl World {
    /// So many members, without TLS.
    pub async fn start(members: u8) -> Result<World> {
        if std::env::var_os("PLASMA_PEER").is_some_and(|peer| peer == "etcd") {
            let dir = tempfile::tempdir()?;
            return Ok(World::Etcd(Etcd::start(members, dir.path()).await?, dir));
        }
        let options = Options { members: members.into(), tls: false, ..Options::default() };
        Ok(World::Chainfire(Box::new(Cluster::start_with(options).await?)))
    }

    /// One member and a client of it.
    pub async fn one() -> Result<(World, Client)> {
        let world = World::start(1).await?;
        let client = world.client().await?;
        Ok((world, client))
    }

    /// Where clients reach each member.
    pub fn endpoints(&self) -> Vec<String> {
        match self {
            World::Chainfire(cluster) => {
                (0..cluster.len()).map(|place| cluster.endpoint(place)).collect()
            }
            World::Etcd(etcd, _) => etcd.endpoints(),
        }
    }

    /// A client of all members.
    pub async fn client(&self) -> Result<Client> {
        self.client_with(ConnectOptions::new()).await
    }

    /// As told.
    pub async fn client_with(&self, options: ConnectOptions) -> Result<Client> {
        Ok(Client::connect(self.endpoints(), Some(options)).await?)
    }

    /// True where etcd itself is tried.
    pub fn is_etcd(&self) -> bool {
        matches!(self, World::Etcd(..))
    }
}

/// What the crate needs for mutual TLS, as the operator of a cluster.
pub fn mutual_tls(cluster: &Cluster) -> Result<ConnectOptions> {
    let files = cluster.operator();
    let identity = Identity::from_pem(std::fs::read(&files.cert)?, std::fs::read(&files.key)?);
    let ca = Certificate::from_pem(std::fs::read(&files.ca)?);
    Ok(ConnectOptions::new().with_tls(TlsOptions::new().ca_certificate(ca).identity(identity)))
}

/// What a call was refused with: etcd's code, by number, and words. Anything else fails the test.
pub fn refusal<T: std::fmt::Debug>(outcome: Result<T, Error>) -> Result<(i32, String)> {
    match outcome {
        Err(Error::GRpcStatus(status)) => Ok((status.code().into(), status.message().to_owned())),
        other => bail!("not refused: {other:?}"),
    }
}
