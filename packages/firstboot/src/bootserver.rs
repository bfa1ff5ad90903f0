//! The agent's side of the boot server's API.

use std::time::Duration;

use bootserver::wire;
use fault::{Fault, Kind};
use identity::TlsFiles;
use rpc::Https;

use crate::{Settings, codes};

/// Calls to the boot server. Before enrolment the agent has no certificate and is known by its
/// token alone; afterwards every call carries the node's certificate.
pub(crate) struct BootServer {
    base: String,
    https: Https,
}

impl BootServer {
    /// Trusts the CA that came with the image; presents a certificate once there is one.
    pub(crate) fn new(settings: &Settings, own: Option<&TlsFiles>) -> Result<Self, Fault> {
        let https = match own {
            Some(files) => Https::new(&rpc::Tls::load(files)?),
            None => Https::new(&rpc::Tls::trust(&settings.ca)?),
        };
        let base = settings.bootserver.trim_end_matches('/').to_owned();
        Ok(BootServer { base, https })
    }

    pub(crate) async fn time(&self) -> Result<Duration, Fault> {
        let time: wire::Time = self.https.get_json(&self.url("/v1/time")).await?;
        Ok(Duration::from_millis(time.unix_millis))
    }

    pub(crate) async fn inventory(&self) -> Result<inventory::Inventory, Fault> {
        let value: serde_json::Value = self.https.get_json(&self.url("/v1/inventory")).await?;
        parse_inventory(&value)
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

/// The inventory as the boot server sent it.
pub(crate) fn parse_inventory(value: &serde_json::Value) -> Result<inventory::Inventory, Fault> {
    inventory::Inventory::from_value(value).map_err(|faults| {
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        Fault::new(
            codes::ANSWER,
            Kind::Internal,
            format!("the boot server's inventory has {} faults: {first}", faults.len()),
            "run plasma inventory check on it, and mend it there",
        )
    })
}
