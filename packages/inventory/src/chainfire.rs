//! The settings of a node's Chainfire, as text: the NixOS module writes the same bytes.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use fault::{Fault, Kind};

use crate::{Inventory, Node, Role, codes};

/// Chainfire's ports on every node.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// UDP.
const GOSSIP_PORT: u16 = 2381;
const OPS_PORT: u16 = 9379;

/// Where one node keeps the files of its Chainfire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The store.
    pub data_dir: PathBuf,
    /// The service's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificate of the cluster's CA.
    pub ca: PathBuf,
}

impl Default for Paths {
    /// As on an installed node; the unit hands the key over as a credential.
    fn default() -> Paths {
        Paths {
            data_dir: "/var/lib/chainfire".into(),
            cert: "/run/credentials/chainfire.service/cert.pem".into(),
            key: "/run/credentials/chainfire.service/key.pem".into(),
            ca: "/run/credentials/chainfire.service/ca.pem".into(),
        }
    }
}

/// Whether a node's empty store forms the cluster or joins it: the boot server's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first member.
    Form,
    /// A member of what others formed.
    Join,
}

impl Start {
    /// As in the settings: `form` or `join`.
    pub fn name(self) -> &'static str {
        match self {
            Start::Form => "form",
            Start::Join => "join",
        }
    }
}

/// What the inventory cannot know and a node learns when it enrols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStart {
    /// The id that the boot server minted for the cluster.
    pub cluster_id: String,
    /// Its verdict.
    pub initial: Start,
}

impl ClusterStart {
    /// Lines that go *before* the text of [`chainfire_settings`] (they belong to no table).
    pub fn toml(&self) -> String {
        format!("cluster_id = {}\ninitial = \"{}\"\n", quote(&self.cluster_id), self.initial.name())
    }

    /// The same as environment, for a unit whose settings file is made by Nix.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("CHAINFIRE_CLUSTER_ID", self.cluster_id.clone()),
            ("CHAINFIRE_INITIAL", self.initial.name().to_owned()),
        ]
    }
}

/// The settings of Chainfire on `node`, all but [`ClusterStart`]. The same input gives the same
/// bytes. `join` names the other control nodes.
pub fn chainfire_settings(
    inventory: &Inventory,
    node: &str,
    paths: &Paths,
) -> Result<String, Fault> {
    let here = inventory.node(node)?;
    if !here.has(Role::Control) {
        return Err(Fault::new(
            codes::LACKS_ROLE,
            Kind::Precondition,
            format!("node {node:?} runs no chainfire: it has not the role control"),
            format!("add control to nodes.{node}.roles, or leave chainfire off there"),
        ));
    }
    let join: Vec<String> = inventory
        .with_role(Role::Control)
        .filter(|(name, _)| *name != node)
        .map(|(_, other)| quote(&other.url(PEER_PORT)))
        .collect();
    let roles: Vec<String> = here.roles.iter().map(|role| quote(role.name())).collect();
    let file = |path: &PathBuf| quote(&path.to_string_lossy());
    let mut text = String::new();
    // writing to a String cannot fail
    let _ = write!(
        text,
        "data_dir = {data_dir}\n\
         join = [{join}]\n\
         name = {name}\n\
         \n[client]\nadvertise = {client_url}\nlisten = {client}\n\
         \n[gossip]\nlisten = {gossip}\nroles = [{roles}]\n\
         \n[ops]\nlisten = {ops}\n\
         \n[peer]\nadvertise = {peer_url}\nlisten = {peer}\n\
         \n[tls]\nca = {ca}\ncert = {cert}\nkey = {key}\n",
        name = quote(node),
        data_dir = file(&paths.data_dir),
        join = join.join(", "),
        client_url = quote(&here.url(CLIENT_PORT)),
        client = quote(&here.socket(CLIENT_PORT).to_string()),
        gossip = quote(&here.socket(GOSSIP_PORT).to_string()),
        roles = roles.join(", "),
        ops = quote(&here.socket(OPS_PORT).to_string()),
        peer_url = quote(&here.url(PEER_PORT)),
        peer = quote(&here.socket(PEER_PORT).to_string()),
        ca = file(&paths.ca),
        cert = file(&paths.cert),
        key = file(&paths.key),
    );
    Ok(text)
}

impl Node {
    /// Its Chainfire for clients: `https://10.20.0.11:2379`.
    pub fn client_url(&self) -> String {
        self.url(CLIENT_PORT)
    }

    /// Its Chainfire for peers: `https://10.20.0.11:2380`.
    pub fn peer_url(&self) -> String {
        self.url(PEER_PORT)
    }

    /// Where its Chainfire answers for health and metrics.
    pub fn ops_address(&self) -> SocketAddr {
        self.socket(OPS_PORT)
    }

    /// All sockets that its Chainfire listens on: client, peer, ops.
    pub fn chainfire_sockets(&self) -> [SocketAddr; 3] {
        [CLIENT_PORT, PEER_PORT, OPS_PORT].map(|port| self.socket(port))
    }

    fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Where one of the node's services is reached over TLS: `https://10.20.0.11:2379`.
    pub fn url(&self, port: u16) -> String {
        format!("https://{}", self.socket(port))
    }
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
