//! A cluster to test against, whoever made it.

use anyhow::Result;
use chainfire_client::Client;
use std::future::Future;
use testkit::Cluster;
use testkit::etcd::{self, Etcd};

/// A running cluster.
pub(crate) enum World {
    Etcd(Etcd, #[expect(dead_code, reason = "kept as long as the cluster runs")] tempfile::TempDir),
    Chainfire(Box<Cluster>),
}

impl World {
    pub(crate) fn endpoints(&self) -> Vec<String> {
        match self {
            World::Etcd(etcd, _) => etcd.endpoints(),
            World::Chainfire(cluster) => {
                (0..cluster.len()).map(|at| cluster.endpoint(at)).collect()
            }
        }
    }

    pub(crate) fn tls(&self) -> Result<Option<rpc::Tls>> {
        match self {
            World::Etcd(..) => Ok(None),
            World::Chainfire(cluster) => cluster.tls(),
        }
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.endpoints(), self.tls()?)?)
    }

    pub(crate) fn kill(&mut self, place: usize) {
        match self {
            World::Etcd(etcd, _) => etcd.kill(place),
            World::Chainfire(cluster) => cluster.kill(place),
        }
    }

    pub(crate) fn restart(&mut self, place: usize) -> Result<()> {
        match self {
            World::Etcd(etcd, _) => etcd.restart(place),
            World::Chainfire(cluster) => cluster.spawn(place),
        }
    }

    pub(crate) fn pause(&mut self, place: usize) -> Result<()> {
        match self {
            World::Etcd(etcd, _) => etcd.process(place).expect("runs").pause(),
            World::Chainfire(cluster) => cluster.process(place)?.pause(),
        }
    }

    pub(crate) fn resume(&mut self, place: usize) -> Result<()> {
        match self {
            World::Etcd(etcd, _) => etcd.process(place).expect("runs").resume(),
            World::Chainfire(cluster) => cluster.process(place)?.resume(),
        }
    }

    /// Waits until a linearizable read succeeds.
    pub(crate) async fn serving(&self) -> Result<()> {
        let client = self.client()?;
        testkit::eventually("the cluster serves", std::time::Duration::from_secs(60), || async {
            client.get("serving").await?;
            Ok(())
        })
        .await
    }
}

/// Runs a scenario on etcd.
pub(crate) async fn on_etcd<F, Fut>(members: u8, scenario: F) -> Result<()>
where
    F: FnOnce(World) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    if etcd::installed().is_none() {
        println!("skipped: etcd is not installed (package etcd-server)");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let etcd = Etcd::start(members, dir.path()).await?;
    scenario(World::Etcd(etcd, dir)).await
}

/// Runs a scenario on Chainfire.
pub(crate) async fn on_chainfire<F, Fut>(members: u8, scenario: F) -> Result<()>
where
    F: FnOnce(World) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    if testkit::binary("chainfire").is_err() {
        println!("skipped: chainfire is not built (cargo build -p chainfire)");
        return Ok(());
    }
    let cluster = Cluster::start(usize::from(members)).await?;
    scenario(World::Chainfire(Box::new(cluster))).await
}

/// One scenario, a test for each kind of cluster.
macro_rules! scenario {
    ($name:ident, $members:expr) => {
        mod $name {
            #[tokio::test]
            async fn etcd() -> anyhow::Result<()> {
                crate::world::on_etcd($members, super::$name).await
            }

            #[tokio::test]
            async fn chainfire() -> anyhow::Result<()> {
                crate::world::on_chainfire($members, super::$name).await
            }
        }
    };
}
pub(crate) use scenario;
