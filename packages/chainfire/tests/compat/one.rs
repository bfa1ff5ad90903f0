//! One member in this process, with certificates.

use std::path::Path;

use anyhow::{Context, Result};
use chainfire::{Member, Settings};
use identity::TlsFiles;
use testkit::certificates::Certificates;
use tokio_util::sync::CancellationToken;

use crate::ctl::Ctl;

pub(crate) struct One {
    pub(crate) member: Member,
    pub(crate) operator: TlsFiles,
    pub(crate) dir: tempfile::TempDir,
}

impl One {
    pub(crate) async fn start() -> Result<One> {
        One::start_with("").await
    }

    /// With more settings.
    pub(crate) async fn start_with(more: &str) -> Result<One> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let authority = Certificates::create("test", &at("ca"))?;
        let local = std::net::Ipv4Addr::LOCALHOST;
        let service = authority.service("chainfire", "one", local, &at("service"))?;
        let operator = authority.operator("admin", &at("operator"))?;
        let text = format!(
            r#"
            name = "one"
            data_dir = "{}"
            cluster_id = "018f0000-0000-7000-8000-000000000001"
            initial = "form"
            [client]
            listen = "127.0.0.1:0"
            [peer]
            listen = "127.0.0.1:0"
            [plaintext]
            listen = "127.0.0.1:0"
            [tls]
            cert = "{}"
            key = "{}"
            ca = "{}"
            {more}
            "#,
            at("data").display(),
            service.cert.display(),
            service.key.display(),
            service.ca.display(),
        );
        let settings: Settings = settings::parse(Path::new("test.toml"), &text)?;
        let member = chainfire::start(settings, CancellationToken::new()).await?;
        Ok(One { member, operator, dir })
    }

    /// `host:port` of the listener with TLS.
    pub(crate) fn address(&self) -> Result<String> {
        self.member.endpoints().client.clone().context("no client listener")
    }

    /// `host:port` of the one without.
    pub(crate) fn plain(&self) -> Result<String> {
        self.member.endpoints().plaintext.clone().context("no plaintext listener")
    }

    /// The system's etcdctl, if it is there.
    pub(crate) fn ctl(&self) -> Result<Option<Ctl>> {
        let endpoint = format!("https://{}", self.address()?);
        let Some(binary) = crate::ctl::system() else { return Ok(None) };
        Ok(Some(Ctl::new(binary, vec![endpoint], self.operator.clone())))
    }
}
