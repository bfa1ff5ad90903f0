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
    /// Its SSH host key's public line, as in `known_hosts` without the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
    /// The install that made this node; without it, the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_id: Option<String>,
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
    /// How long each step that is done took, in milliseconds.
    #[serde(default)]
    pub phases: BTreeMap<String, u64>,
    /// Since the kernel's start, at the time of the report.
    #[serde(default)]
    pub uptime_millis: u64,
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
    /// Its SSH host key, once it enrolled with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
    /// What its machine said of itself. It showed the node's serial number and cards, and no
    /// certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// What its machine is told at its next boot: `install`, `localdisk`, …; empty for processes.
    #[serde(default)]
    pub decision: String,
    /// The current install.
    #[serde(default)]
    pub install_id: String,
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

/// A machine as its own kernel sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// Who made it.
    pub vendor: String,
    /// What it is called.
    pub product: String,
    /// The serial number that its firmware reports.
    pub serial: Option<String>,
    /// The UUID that its firmware reports; not always its own.
    pub uuid: Option<String>,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// The processor's name.
    pub cpu: String,
    /// Processors, as the kernel counts them.
    pub cpus: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Its disks.
    pub disks: Vec<DiskSeen>,
    /// Its network cards.
    pub nics: Vec<Nic>,
    /// Whether it has a TPM.
    pub tpm: bool,
}

/// Among a disk's traces: it cannot be written.
pub const READ_ONLY: &str = "read-only";

/// A disk as the kernel sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskSeen {
    /// `vda`, `nvme0n1`, …
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its world wide name.
    pub wwn: Option<String>,
    /// What it is called.
    pub model: Option<String>,
    /// Whether it turns.
    pub rotational: bool,
    /// What is on it: `gpt`, `ext4`, `linux_raid_member`, `LVM2_member`, `plasma-claim`, …; and
    /// [`READ_ONLY`] when nothing can be.
    pub traces: Vec<String>,
}

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nic {
    /// `ens3`, …
    pub name: String,
    /// Its address.
    pub mac: String,
    /// What drives it.
    pub driver: String,
    /// Whether a cable is in it.
    pub link: bool,
}

/// `POST /v1/identify`: which node is this machine, and what is it to do?
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentifyRequest {
    /// By which it is recognised.
    pub identify: Identify,
    /// What it is.
    #[serde(default)]
    pub hardware: Hardware,
    /// Its system was booted as a rescue, by the kernel's arguments.
    #[serde(default)]
    pub rescue: bool,
}

/// The answer to [`IdentifyRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identified {
    /// Its name in the inventory.
    pub node: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The inventory.
    pub inventory: serde_json::Value,
    /// What to do.
    pub order: Order,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// The install that is current: it may erase the disk once.
    pub install_id: String,
    /// 32 hex digits, the same in installer and system.
    pub machine_id: String,
}

/// What a machine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Install itself, or go on with it.
    Install,
    /// Run what is installed.
    Run,
    /// Nothing but to let the operator in.
    Rescue,
    /// Nothing, and ask again.
    Wait,
}

/// `POST /v1/claim`: a declared node without certificates asks for its join token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// Its name in the inventory.
    pub node: String,
    /// SHA-256 of its public key, as [`identity::KeyPair::public_key_hash`].
    pub public_key: String,
    /// What it saw of itself.
    pub identify: Identify,
    /// The install for which it asks.
    pub install_id: String,
}

/// `GET /v1/machines`, for operators.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machines {
    /// The one that was seen last comes first.
    pub machines: Vec<MachineSeen>,
}

/// A machine that asked what to boot, or who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineSeen {
    /// The card that asked.
    pub mac: String,
    /// From where it asked.
    pub address: String,
    /// What its firmware says.
    pub uuid: Option<String>,
    /// What its firmware says.
    pub serial: Option<String>,
    /// `i386`, `x86_64`, …: what its boot loader was built for.
    pub arch: String,
    /// Which node it is, if it is one.
    pub node: Option<String>,
    /// In Unix milliseconds.
    pub first_seen: u64,
    /// In Unix milliseconds.
    pub last_seen: u64,
    /// How often.
    pub asked: u64,
    /// What its agent said, once it had one: anybody's word, as all of this.
    pub hardware: Option<Hardware>,
}

/// What a node's machine is told at its next boot, and why.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Explained {
    /// Its name in the inventory.
    pub node: String,
    /// `install`, `localdisk`, `rescue`, `wait` or `unknown`.
    pub decision: String,
    /// Lines for people.
    pub reasons: Vec<String>,
    /// The iPXE script.
    pub script: String,
}

/// `POST /v1/nodes/{node}/order`, for operators.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// Which.
    pub order: NodeOrder,
    /// A rescue that lasts until the order `run` instead of one boot.
    #[serde(default)]
    pub sticky: bool,
}

/// What an operator orders for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeOrder {
    /// Erase the disk and install again.
    Install,
    /// Another machine takes the node's place: install there, and forget the enrolled key.
    Replace,
    /// Boot the rescue system once.
    Rescue,
    /// Take back what was ordered and has not begun.
    Run,
}
