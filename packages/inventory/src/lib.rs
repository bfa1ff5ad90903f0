//! The cluster as an operator describes it: nodes, roles, addresses, disks. Pure: no I/O.
//!
//! The source is `nodes/cluster.nix`; the flake makes `nodes/cluster.json` of it, and everything
//! that is not Nix reads that. [`Inventory::parse`] is the only way in: whatever it returns has
//! passed every check, so no reader of an [`Inventory`] checks again. What is wrong is reported
//! all at once, each fault naming its path (`nodes.node02.macs[0]`) and what to change.
//!
//! Absent on purpose: secrets, state (who has joined, the cluster's id), and files.

mod chainfire;
mod check;
pub mod codes;
mod loopback;
mod names;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use fault::{Fault, Kind};
use serde::Serialize;

pub use chainfire::{ClusterStart, Paths, Start, chainfire_settings};
pub use names::Mac;

/// A cluster: what it is called, who runs it, and its nodes by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// What holds for the cluster as a whole.
    pub cluster: Cluster,
    /// The people who may log in to the nodes.
    pub operators: Vec<Operator>,
    /// The nodes, by name.
    pub nodes: BTreeMap<String, Node>,
}

/// What holds for the cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// A DNS label; the trust domain of every SPIFFE id.
    pub name: String,
    /// The domain under which nodes have their names: `node01.plasma.internal`.
    pub domain: String,
    /// The one node that may form the cluster; all others join.
    pub former: String,
    /// Where nodes find the boot server.
    pub bootserver: Bootserver,
    /// The router of the nodes' network, when they may leave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The name servers that nodes ask, best first; none when they know each other by address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
}

/// Where nodes find the boot server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bootserver {
    /// Its address on the nodes' network.
    pub address: IpAddr,
}

/// A person with access to the nodes by SSH key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Operator {
    /// A DNS label.
    pub name: String,
    /// Public keys, one line each, as in `authorized_keys`.
    pub ssh_keys: Vec<String>,
}

/// One machine, or one set of processes that stands for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// What it does; not empty, in the order of [`Role`].
    pub roles: Vec<Role>,
    /// Where others reach it.
    pub address: IpAddr,
    /// The length of its network's prefix.
    pub prefix_length: u8,
    /// Its network cards; never empty unless `process`.
    pub macs: Vec<Mac>,
    /// The serial number that its firmware reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Where the system is installed; present unless `process`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// Processes on a running system instead of a machine: nothing is installed, no disk touched.
    pub process: bool,
}

/// The disk on which a node is installed; two for a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Which disk it is; all that is given must match, and exactly one disk may.
    #[serde(rename = "match")]
    pub matches: DiskMatch,
    /// A smaller disk is not the one that is meant.
    #[serde(rename = "minGiB")]
    pub min_gib: u32,
    /// A larger disk is not the one that is meant either.
    #[serde(rename = "maxGiB", skip_serializing_if = "Option::is_none")]
    pub max_gib: Option<u32>,
    /// How it is divided.
    pub layout: Layout,
    /// The other disk of a mirror; given exactly when `layout` is [`Layout::Mirror`]. The sizes
    /// hold for both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<DiskMatch>,
    /// Serials of disks whose foreign data may be erased.
    pub consent_to_erase: Vec<String>,
}

impl Disk {
    /// The disks that are meant, the one that boots first.
    pub fn members(&self) -> impl Iterator<Item = &DiskMatch> {
        std::iter::once(&self.matches).chain(&self.mirror)
    }
}

/// How a node's disk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One disk as it is.
    Single,
    /// Two disks that hold the same; either may be lost.
    Mirror,
    /// One disk, encrypted but for what boots.
    Luks,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Layout; 3] = [Layout::Single, Layout::Mirror, Layout::Luks];

    /// As written in the inventory.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Single => "single",
            Layout::Mirror => "mirror",
            Layout::Luks => "luks",
        }
    }
}

/// What identifies a disk; at least one is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskMatch {
    /// The serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The world wide name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
}

impl DiskMatch {
    /// Whether it names the disk with this serial number and world wide name: all that is given
    /// must be the disk's. One that gives nothing names nothing.
    pub fn names(&self, serial: Option<&str>, wwn: Option<&str>) -> bool {
        let by_serial = self.serial.as_deref().is_none_or(|wanted| serial == Some(wanted));
        let same = |wanted| wwn.is_some_and(|wwn| names::bare_wwn(wwn) == names::bare_wwn(wanted));
        let by_wwn = self.wwn.as_deref().is_none_or(same);
        (self.serial.is_some() || self.wwn.is_some()) && by_serial && by_wwn
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs Chainfire and the control planes; votes.
    Control,
    /// Stores data: FlareDB, Chronik.
    Data,
    /// Runs workloads: VMs, pods.
    Compute,
}

impl Role {
    /// All roles, in order.
    pub const ALL: [Role; 3] = [Role::Control, Role::Data, Role::Compute];

    /// As written in the inventory.
    pub fn name(self) -> &'static str {
        match self {
            Role::Control => "control",
            Role::Data => "data",
            Role::Compute => "compute",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Node {
    /// Whether the node has this role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

impl Inventory {
    /// Reads and checks an inventory; every fault that can be found is found.
    pub fn parse(text: &str) -> Result<Inventory, Vec<Fault>> {
        if text.len() > read::MAX_BYTES {
            return Err(vec![read::too_large(text.len())]);
        }
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| vec![read::not_json(&error)])?;
        Inventory::from_value(&value)
    }

    /// As [`Inventory::parse`], of JSON that has been read already.
    pub fn from_value(value: &serde_json::Value) -> Result<Inventory, Vec<Fault>> {
        let (inventory, mut faults) = read::inventory(value);
        if let Some(inventory) = &inventory {
            check::check(inventory, &mut faults);
        }
        match inventory {
            Some(inventory) if faults.is_empty() => Ok(inventory),
            _ => Err(faults),
        }
    }

    /// The inventory that comes with PlasmaCloud: the three nodes of `nodes/cluster.nix`.
    pub fn built_in() -> &'static str {
        include_str!("../../../nodes/cluster.json")
    }

    /// The JSON that [`Inventory::parse`] reads; the same inventory gives the same bytes.
    pub fn to_json(&self) -> String {
        // a tree of strings and numbers with string keys cannot fail to serialize
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The node of this name, or a fault that names the nodes there are.
    pub fn node(&self, name: &str) -> Result<&Node, Fault> {
        self.nodes.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
            Fault::new(
                codes::UNKNOWN_NODE,
                Kind::NotFound,
                format!("the inventory has no node {name:?}"),
                format!("use one of {}, or add it to nodes/cluster.nix", known.join(", ")),
            )
        })
    }

    /// The nodes with this role, by name.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().filter(move |(_, n)| n.has(role)).map(|(name, n)| (name.as_str(), n))
    }

    /// The full name of a node: `node01.plasma.internal`.
    pub fn fqdn(&self, node: &str) -> String {
        format!("{node}.{}", self.cluster.domain)
    }

    /// What is allowed but seldom meant, such as an even number of voters.
    pub fn warnings(&self) -> Vec<Fault> {
        check::warnings(self)
    }
}
