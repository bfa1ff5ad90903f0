//! The bodies that cross the wire, for the server, the nodes' agents and the operator's tools.
//! An error's body is a [`fault::Fault`] as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `POST /v1/enroll`: a node asks for its certificates.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// Its name in the inventory.
    pub node: String,
    /// The join token.
    pub token: String,
    /// The node's own request, PEM.
    pub csr_node: String,
    /// Requests of its services, PEM, by service.
    #[serde(default)]
    pub csrs: BTreeMap<String, String>,
    /// What the node saw of itself.
    pub identify: Identify,
}

/// What a node saw of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identify {
    /// The serial number that its firmware reports.
    #[serde(default)]
    pub serial: Option<String>,
    /// Its network cards.
    #[serde(default)]
    pub macs: Vec<String>,
    /// Whether it is processes on a running system instead of a machine.
    #[serde(default)]
    pub process: bool,
}

/// The answer to [`EnrollRequest`] and [`RenewRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// `node` and each service that asked: certificate chains, PEM.
    pub certs: BTreeMap<String, String>,
    /// The cluster CA, PEM.
    pub ca: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The inventory.
    pub inventory: serde_json::Value,
}

/// `POST /v1/renew`, with the node's certificate: the same certificates again, for longer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Its name in the inventory.
    pub node: String,
    /// The node's own request, PEM.
    pub csr_node: String,
    /// Requests of its services, PEM, by service.
    #[serde(default)]
    pub csrs: BTreeMap<String, String>,
}

/// `POST /v1/form`, with the node's certificate: form or join?
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormRequest {
    /// Its name in the inventory.
    pub node: String,
    /// `form` turns the verdict *join* into a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insist: Option<Verdict>,
}

/// The answer to [`FormRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FormAnswer {
    /// What to do with an empty store.
    pub verdict: Verdict,
    /// The cluster's id.
    pub cluster_id: String,
    /// The other control nodes' peer URLs.
    pub peers: Vec<String>,
}

/// What a node does with an empty store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Form the cluster.
    Form,
    /// Join what another node forms or has formed.
    Join,
}

/// `POST /v1/progress`: where a node is in its first boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Its name in the inventory.
    pub node: String,
    /// The step it is at.
    pub step: String,
    /// `running`, `waiting`, `failed`, `done`, …
    pub state: String,
    /// The reason or the fault, for people.
    #[serde(default)]
    pub detail: String,
    /// The generation of the node's ledger.
    #[serde(default)]
    pub generation: u64,
    /// How long each step that is done took.
    #[serde(default)]
    pub phases: BTreeMap<String, u64>,
}

/// `GET /v1/status`, for operators.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The node that was told to form the cluster, once it was.
    pub former: Option<String>,
    /// Every node of the inventory, by name.
    pub nodes: BTreeMap<String, NodeStatus>,
}

/// What the boot server knows of a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// From the inventory.
    pub address: String,
    /// From the inventory.
    pub roles: Vec<String>,
    /// When it got its certificates, in Unix milliseconds.
    pub enrolled: Option<u64>,
    /// The latest report: a verified one if there is any.
    pub report: Option<Report>,
    /// What came since without a certificate: a node that lost its folder, or somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Report>,
}

/// A node's report, as it was received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What it said.
    #[serde(flatten)]
    pub progress: Progress,
    /// Whether it came with the node's certificate; without, anybody may have sent it.
    pub verified: bool,
    /// When, in Unix milliseconds.
    pub received: u64,
}

/// `GET /v1/time`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Time {
    /// The boot server's wall clock.
    pub unix_millis: u64,
}

/// `POST /v1/tokens`, for operators.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The node that may use it.
    pub node: String,
    /// How long; without it, the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// The answer to [`TokenRequest`]; the token is never shown again.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenMinted {
    /// For `DELETE /v1/tokens/{id}`.
    pub id: String,
    /// The secret to give to the node.
    pub token: String,
    /// In Unix seconds.
    pub expires: u64,
}

/// `GET /v1/tokens`, for operators.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tokens {
    /// In the order in which they expire.
    pub tokens: Vec<TokenInfo>,
}

/// A token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenInfo {
    /// For `DELETE /v1/tokens/{id}`.
    pub id: String,
    /// The node that may use it.
    pub node: String,
    /// In Unix seconds.
    pub expires: u64,
    /// `fresh`, `used` or `expired`.
    pub state: String,
}
