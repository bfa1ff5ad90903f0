//! Dialing: TCP, then TLS if the URI says `https`, under one deadline.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::gather::Gather;
use crate::io::ClientIo;
use crate::tls::{Speaks, Tls};

/// TCP and TLS together take no longer.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Dials what a URI names. The server's certificate must be of the cluster's CA and name the host
/// or the address that was dialed.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Option<Dialed>,
    pub(crate) speaks: Speaks,
}

/// With which TLS is dialed.
#[derive(Clone)]
pub(crate) enum Dialed {
    /// The process's, which follows its files.
    Own(Tls),
    /// One that was made for a single call.
    Once(Arc<ClientConfig>),
}

impl Dialed {
    fn client(&self, speaks: Speaks) -> Arc<ClientConfig> {
        match self {
            Dialed::Own(tls) => tls.client(speaks),
            Dialed::Once(config) => config.clone(),
        }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Gather<ClientIo>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialing = self.clone().dial(uri);
        Box::pin(async move {
            tokio::time::timeout(CONNECT_MAX, dialing)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                .map(|io| TokioIo::new(Gather::new(io)))
        })
    }
}

impl Connector {
    async fn dial(self, uri: Uri) -> io::Result<ClientIo> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let host = uri.host().ok_or_else(|| invalid("URI without a host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let encrypted = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        if !encrypted {
            return Ok(ClientIo::Plain(stream));
        }
        let tls = self.tls.ok_or_else(|| invalid("https without certificates"))?;
        let name =
            ServerName::try_from(host).map_err(|_| invalid("host is neither name nor address"))?;
        let stream =
            tokio_rustls::TlsConnector::from(tls.client(self.speaks)).connect(name, stream).await?;
        Ok(ClientIo::Tls(Box::new(stream)))
    }
}
