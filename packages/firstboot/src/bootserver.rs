//! The agent's side of the boot server's API.

use bootserver::wire;
use fault::{Fault, Kind};
use identity::TlsFiles;
use rpc::{Https, ServerTime};

use crate::{Settings, clock, codes};

/// Calls to the boot server. Before enrolment the agent has no certificate and is known by its
/// token alone; afterwards every call carries the node's certificate.
pub(crate) struct BootServer {
    base: String,
    https: Https,
}

impl BootServer {
    /// Trusts the CA that came with the image; presents a certificate once there is one.
    pub(crate) fn new(settings: &Settings, own: Option<&TlsFiles>) -> Result<Self, Fault> {
        let tls = match own {
            Some(files) => rpc::Tls::load(files)?,
            None => rpc::Tls::trust(&settings.ca)?,
        };
        Ok(BootServer { base: base(settings).to_owned(), https: Https::new(&tls) })
    }

    /// For calls before this machine's clock is right.
    pub(crate) fn by_its_time(settings: &Settings, time: ServerTime) -> Result<Self, Fault> {
        let tls = rpc::Tls::trust_by(&settings.ca, time)?;
        Ok(BootServer { base: base(settings).to_owned(), https: Https::new(&tls) })
    }

    /// What time it is, whatever this machine's clock says.
    pub(crate) async fn time(settings: &Settings) -> Result<ServerTime, Fault> {
        let url = format!("{}/v1/time", base(settings));
        rpc::server_time(&settings.ca, &url, clock::floor(settings)).await
    }

    pub(crate) async fn identify(
        &self,
        request: &wire::IdentifyRequest,
    ) -> Result<wire::Identified, Fault> {
        Ok(self.https.post_json(&self.url("/v1/identify"), request).await?)
    }

    pub(crate) async fn claim(
        &self,
        request: &wire::ClaimRequest,
    ) -> Result<wire::TokenMinted, Fault> {
        Ok(self.https.post_json(&self.url("/v1/claim"), request).await?)
    }

    pub(crate) async fn enroll(
        &self,
        request: &wire::EnrollRequest,
    ) -> Result<wire::Enrolled, Fault> {
        Ok(self.https.post_json(&self.url("/v1/enroll"), request).await?)
    }

    pub(crate) async fn renew(
        &self,
        request: &wire::RenewRequest,
    ) -> Result<wire::Enrolled, Fault> {
        Ok(self.https.post_json(&self.url("/v1/renew"), request).await?)
    }

    pub(crate) async fn form(&self, node: &str) -> Result<wire::FormAnswer, Fault> {
        let request = wire::FormRequest { node: node.to_owned(), insist: None };
        Ok(self.https.post_json(&self.url("/v1/form"), &request).await?)
    }

    pub(crate) async fn progress(&self, progress: &wire::Progress) -> Result<(), Fault> {
        let _: serde_json::Value =
            self.https.post_json(&self.url("/v1/progress"), progress).await?;
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

fn base(settings: &Settings) -> &str {
    settings.bootserver.trim_end_matches('/')
}

/// A fault of the boot server, or on the way to it: something to wait for, never the end. It may be
/// away, be of another version for a while, or have its inventory mended.
pub(crate) fn patient(fault: Fault) -> Fault {
    if fault.kind.passes() { fault } else { Fault { kind: Kind::Unavailable, ..fault } }
}

/// The inventory as the boot server sent it.
pub(crate) fn parse_inventory(value: &serde_json::Value) -> Result<inventory::Inventory, Fault> {
    inventory::Inventory::from_value(value).map_err(|faults| {
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        Fault::new(
            codes::ANSWER,
            Kind::Internal,
            format!("the boot server's inventory has {} faults: {first}", faults.len()),
            "run plasma check on it, and mend it there",
        )
    })
}
