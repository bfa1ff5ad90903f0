//! The handle and its options.

use crate::endpoints::Endpoints;
use crate::{Credentials, Error};
use rpc::Tls;
use std::sync::Arc;
use std::time::Duration;

/// How long a call may take.
#[derive(Debug, Clone)]
pub struct Options {
    /// From the first try to giving up.
    pub deadline: Duration,
    /// How long one endpoint may take to answer a read before the next is asked.
    pub read_attempt: Duration,
    /// A watch that hears nothing for this long asks whether the member is still there.
    pub watch_idle: Duration,
    /// Who calls, where a cluster asks for a user; a certificate can say it, too.
    pub credentials: Option<Credentials>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            deadline: Duration::from_secs(10),
            read_attempt: Duration::from_secs(2),
            watch_idle: Duration::from_secs(2),
            credentials: None,
        }
    }
}

/// A handle to a cluster. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) endpoints: Arc<Endpoints>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Client").field("endpoints", &self.endpoints.urls()).finish()
    }
}

impl Client {
    /// A client of these endpoints (`https://host:port`, or `http://` without TLS). Connects when
    /// first used; fails only where an endpoint cannot be understood.
    pub fn connect(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        tls: Option<Tls>,
    ) -> Result<Client, Error> {
        Client::connect_with(endpoints, tls, Options::default())
    }

    /// As [`Client::connect`], with other limits of time.
    pub fn connect_with(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        tls: Option<Tls>,
        options: Options,
    ) -> Result<Client, Error> {
        let urls = endpoints.into_iter().map(Into::into).collect();
        Ok(Client { endpoints: Arc::new(Endpoints::new(urls, tls.as_ref(), options)?) })
    }

    /// The endpoints it was made with.
    pub fn endpoints(&self) -> &[String] {
        self.endpoints.urls()
    }
}
