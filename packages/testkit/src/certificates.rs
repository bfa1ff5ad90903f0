//! A CA of the test's own, and certificates from it.

use anyhow::Result;
use identity::{Authority, KeyPair, San, SpiffeId, TlsFiles};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Signs what a test needs.
pub struct Certificates {
    authority: Authority,
    cluster: String,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Certificates").field("cluster", &self.cluster).finish()
    }
}

impl Certificates {
    /// A new CA for this cluster, kept in `dir`.
    pub fn create(cluster: &str, dir: &Path) -> Result<Certificates> {
        std::fs::create_dir_all(dir)?;
        Ok(Certificates {
            authority: Authority::create(cluster, dir)?,
            cluster: cluster.to_owned(),
        })
    }

    /// The certificate of a service on a node that is reached at `address`, in `dir`.
    pub fn service(
        &self,
        service: &str,
        node: &str,
        address: Ipv4Addr,
        dir: &Path,
    ) -> Result<TlsFiles> {
        let id = SpiffeId::service(&self.cluster, service, node)?;
        self.write(&id, &[San::Ip(IpAddr::V4(address)), San::Dns(node.to_owned())], dir)
    }

    /// As [`Certificates::service`], and no longer valid.
    pub fn expired(
        &self,
        service: &str,
        node: &str,
        address: Ipv4Addr,
        dir: &Path,
    ) -> Result<TlsFiles> {
        let id = SpiffeId::service(&self.cluster, service, node)?;
        let key = KeyPair::create()?;
        let now = time::OffsetDateTime::now_utc();
        let cert = self.authority.sign_between(
            &key.csr_pem()?,
            &id,
            &[San::Ip(IpAddr::V4(address))],
            now - 2 * DAY,
            now - DAY,
        )?;
        self.store(&key, &cert, dir)
    }

    /// The certificate of an operator, in `dir`.
    pub fn operator(&self, name: &str, dir: &Path) -> Result<TlsFiles> {
        let id = SpiffeId::operator(&self.cluster, name)?;
        self.write(&id, &[], dir)
    }

    fn write(&self, id: &SpiffeId, sans: &[San], dir: &Path) -> Result<TlsFiles> {
        let key = KeyPair::create()?;
        let cert = self.authority.sign(&key.csr_pem()?, id, sans, 30 * DAY)?;
        self.store(&key, &cert, dir)
    }

    fn store(&self, key: &KeyPair, cert: &str, dir: &Path) -> Result<TlsFiles> {
        std::fs::create_dir_all(dir)?;
        let files = TlsFiles::in_dir(dir);
        key.save(&files.key)?;
        std::fs::write(&files.cert, cert)?;
        std::fs::write(&files.ca, self.authority.ca_pem())?;
        Ok(files)
    }
}
