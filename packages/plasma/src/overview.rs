//! How a cloud is: what the boot server knows of each node, and what Chainfire says of itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bootserver::client::Operator;
use bootserver::wire;
use chainfire_client::{Client, EndpointStatus, Member, Options};
use fault::Fault;
use identity::TlsFiles;
use inventory::{Inventory, Node, Role};
use rpc::Tls;
use serde::Serialize;

use crate::cloud::base;
use crate::home::Home;

/// How a cloud is, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Overview {
    pub(crate) cluster: String,
    pub(crate) cluster_id: String,
    /// Every node is through its first boot, and every voter serves.
    pub(crate) ready: bool,
    /// The boot server answers.
    pub(crate) bootserver: bool,
    pub(crate) leader: Option<String>,
    pub(crate) voters: usize,
    pub(crate) learners: usize,
    pub(crate) revision: i64,
    pub(crate) nodes: Vec<NodeView>,
    /// What must hold for it to be ready, each with its reason while it does not.
    pub(crate) gates: Vec<Gate>,
    pub(crate) endpoints: Vec<String>,
    pub(crate) etcdctl: String,
}

/// One thing that must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Gate {
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// Empty when it holds.
    pub(crate) reason: String,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) address: String,
    /// What its machine is told at its next boot.
    pub(crate) next_boot: String,
    /// Where it is in its first boot.
    pub(crate) step: String,
    pub(crate) state: String,
    pub(crate) detail: String,
    /// What came since without the node's certificate: it lost its folder, or it is not the node.
    pub(crate) claimed: String,
    /// The time of all steps together.
    pub(crate) boot_millis: u64,
    /// Since its kernel started, at its last report.
    pub(crate) uptime_millis: u64,
    /// `leader`, `follower`, `learner`, `down`, or `-` where none should run.
    pub(crate) chainfire: String,
    pub(crate) health: String,
    pub(crate) version: String,
    pub(crate) db_size: i64,
    pub(crate) raft_term: u64,
    pub(crate) raft_index: u64,
}

/// Asks again and again over the same connections.
pub(crate) struct Observer {
    base: String,
    /// Without it, the boot server says which nodes there are.
    inventory: Option<Inventory>,
    /// The nodes that the boot server named when it last answered.
    named: Vec<Known>,
    files: TlsFiles,
    operator: Option<Operator>,
    client: Option<Client>,
}

impl Observer {
    /// Of the cloud on this machine; connects when asked.
    pub(crate) fn new(home: &Home, inventory: Inventory) -> Observer {
        Observer::at(base(), home.operator(), Some(inventory))
    }

    /// Of what a boot server serves.
    pub(crate) fn at(base: String, files: TlsFiles, inventory: Option<Inventory>) -> Observer {
        Observer { base, inventory, named: Vec::new(), files, operator: None, client: None }
    }

    /// How it is now. Whoever does not answer is shown as such: this never fails.
    pub(crate) async fn look(&mut self) -> Overview {
        let boot = self.boot_status().await;
        if let Ok(status) = &boot {
            self.named = status.nodes.iter().filter_map(Known::of_status).collect();
        }
        let chainfire = self.chainfire_status().await;
        let (cluster, nodes): (String, Vec<Known>) = match &self.inventory {
            Some(inventory) => (
                inventory.cluster.name.clone(),
                inventory.nodes.iter().map(|(name, node)| Known::of_node(name, node)).collect(),
            ),
            None => (String::new(), self.named.clone()),
        };
        overview(cluster, &nodes, &self.files, boot, chainfire)
    }

    async fn boot_status(&mut self) -> Result<wire::Status, Fault> {
        if self.operator.is_none() {
            self.operator = Some(Operator::new(&self.base, &self.files)?);
        }
        match &self.operator {
            Some(operator) => operator.status().await,
            None => Ok(wire::Status::default()),
        }
    }

    async fn chainfire_status(&mut self) -> Chainfire {
        if self.client.is_none() {
            self.client = self.connect();
        }
        let Some(client) = &self.client else { return Chainfire::default() };
        let mut chainfire = Chainfire::default();
        for (endpoint, status) in client.status().await {
            if let Ok(status) = status {
                chainfire.statuses.insert(endpoint, status);
            }
        }
        // the members only when a majority can answer: otherwise this would wait in vain
        if chainfire.statuses.values().any(|status| status.leader != 0) {
            chainfire.members = client.members().await.unwrap_or_default();
        }
        chainfire
    }

    fn connect(&self) -> Option<Client> {
        let tls = Tls::load(&self.files).ok()?;
        let patience = Duration::from_secs(1);
        let options = Options { deadline: patience, read_attempt: patience, ..Options::default() };
        let endpoints = match &self.inventory {
            Some(inventory) => {
                inventory.with_role(Role::Control).map(|(_, node)| node.client_url()).collect()
            }
            None => endpoints(&self.named),
        };
        if endpoints.is_empty() {
            return None;
        }
        Client::connect_with(endpoints, Some(tls), options).ok()
    }
}

#[derive(Default)]
struct Chainfire {
    statuses: BTreeMap<String, EndpointStatus>,
    members: Vec<Member>,
}

/// A node, from the inventory or from what the boot server says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    name: String,
    address: String,
    /// Of its Chainfire, where one should run.
    client_url: Option<String>,
    process: bool,
}

impl Known {
    fn of_node(name: &str, node: &Node) -> Known {
        Known {
            name: name.to_owned(),
            address: node.address.to_string(),
            client_url: node.has(Role::Control).then(|| node.client_url()),
            process: node.process,
        }
    }

    fn of_status((name, status): (&String, &wire::NodeStatus)) -> Option<Known> {
        let address: IpAddr = status.address.parse().ok()?;
        let node = Node {
            roles: Role::ALL
                .into_iter()
                .filter(|role| status.roles.iter().any(|named| named == role.name()))
                .collect(),
            address,
            prefix_length: 0,
            macs: Vec::new(),
            serial: None,
            disk: None,
            process: false,
        };
        Some(Known::of_node(name, &node))
    }
}

fn endpoints(nodes: &[Known]) -> Vec<String> {
    nodes.iter().filter_map(|node| node.client_url.clone()).collect()
}

fn overview(
    cluster: String,
    known: &[Known],
    files: &TlsFiles,
    boot: Result<wire::Status, Fault>,
    chainfire: Chainfire,
) -> Overview {
    let (boot, silence) = match boot {
        Ok(boot) => (boot, None),
        Err(fault) => (wire::Status::default(), Some(fault.to_string())),
    };
    let nodes: Vec<NodeView> = known
        .iter()
        .map(|node| {
            let status = node.client_url.as_ref().and_then(|url| chainfire.statuses.get(url));
            node_view(node, boot.nodes.get(&node.name), status)
        })
        .collect();
    let leader = nodes.iter().find(|node| node.chainfire == "leader").map(|n| n.name.clone());
    let learners = chainfire.members.iter().filter(|member| member.learner).count();
    let voters = chainfire.members.len() - learners;
    let gates = gates(known, &nodes, &boot, silence.as_deref(), leader.as_deref());
    Overview {
        cluster: if cluster.is_empty() { boot.cluster } else { cluster },
        cluster_id: boot.cluster_id,
        ready: !nodes.is_empty() && gates.iter().all(|gate| gate.ready),
        bootserver: silence.is_none(),
        leader,
        voters,
        learners,
        revision: chainfire.statuses.values().map(|s| s.revision).max().unwrap_or_default(),
        nodes,
        gates,
        endpoints: endpoints(known),
        etcdctl: etcdctl(&endpoints(known), files),
    }
}

/// What must hold, in the order in which it comes true.
fn gates(
    known: &[Known],
    nodes: &[NodeView],
    boot: &wire::Status,
    silence: Option<&str>,
    leader: Option<&str>,
) -> Vec<Gate> {
    let gate = |name: String, reason: Option<String>| Gate {
        name,
        ready: reason.is_none(),
        reason: reason.unwrap_or_default(),
    };
    let mut gates = Vec::new();
    // a cloud that runs needs no boot server; one that is not there yet does
    let needed = silence.filter(|_| !nodes.iter().all(is_blessed));
    gates.push(gate("boot server".to_owned(), needed.map(str::to_owned)));
    for (known, node) in known.iter().zip(nodes) {
        let status = boot.nodes.get(&node.name);
        let reason = (!is_blessed(node)).then(|| boot_reason(known, node, status));
        gates.push(gate(format!("{} booted", node.name), reason));
        if known.client_url.is_some() {
            let reason = (node.health != "ok").then(|| node.health.clone());
            gates.push(gate(format!("{} serves", node.name), reason));
        }
    }
    let reason = leader.is_none().then(|| "no member leads: a majority must serve".to_owned());
    gates.push(gate("leader".to_owned(), reason));
    gates
}

fn is_blessed(node: &NodeView) -> bool {
    node.step == "bless" && node.state == "done"
}

/// Why a node is not through its first boot.
fn boot_reason(known: &Known, node: &NodeView, status: Option<&wire::NodeStatus>) -> String {
    let Some(status) = status else {
        return "the boot server does not know it, or does not answer".to_owned();
    };
    if status.report.is_some() {
        let colon = if node.detail.is_empty() { "" } else { ": " };
        return format!("{} {}{colon}{}", node.step, node.state, node.detail);
    }
    match (status.enrolled.is_some(), &status.hardware, known.process) {
        (true, ..) => "enrolled, and has reported nothing since".to_owned(),
        (false, Some(_), _) => "its machine is known, and its agent has not enrolled".to_owned(),
        (false, None, true) => "its agent has not called".to_owned(),
        (false, None, false) => {
            "its machine has not called: power it on, with the network first in its boot order"
                .to_owned()
        }
    }
}

fn node_view(
    node: &Known,
    known: Option<&wire::NodeStatus>,
    status: Option<&EndpointStatus>,
) -> NodeView {
    let mut view = NodeView {
        name: node.name.clone(),
        address: node.address.clone(),
        next_boot: known.map(|known| known.decision.clone()).unwrap_or_default(),
        ..NodeView::default()
    };
    if let Some(claimed) = known.and_then(|known| known.claimed.as_ref()) {
        let said = &claimed.progress;
        view.claimed = format!("{} {} {}", said.step, said.state, said.detail).trim().to_owned();
    }
    match known.and_then(|known| known.report.as_ref()) {
        Some(report) => {
            view.step.clone_from(&report.progress.step);
            view.state.clone_from(&report.progress.state);
            view.detail.clone_from(&report.progress.detail);
            view.boot_millis = report.progress.phases.values().sum();
            view.uptime_millis = report.progress.uptime_millis;
        }
        None => {
            "-".clone_into(&mut view.step);
            "starting".clone_into(&mut view.state);
        }
    }
    let Some(status) = status else {
        let (chainfire, health) =
            if node.client_url.is_some() { ("down", "no answer") } else { ("-", "-") };
        view.chainfire = chainfire.to_owned();
        view.health = health.to_owned();
        return view;
    };
    let role = match status {
        s if s.leader != 0 && s.leader == s.member => "leader",
        s if s.learner => "learner",
        _ => "follower",
    };
    view.chainfire = role.to_owned();
    view.health = match status.errors.first() {
        _ if status.leader == 0 => "no leader".to_owned(),
        Some(error) => error.clone(),
        None => "ok".to_owned(),
    };
    view.version.clone_from(&status.version);
    view.db_size = status.db_size;
    view.raft_term = status.raft_term;
    view.raft_index = status.raft_index;
    view
}

/// A command line of etcd's own client, ready to be pasted and added to.
fn etcdctl(endpoints: &[String], files: &TlsFiles) -> String {
    format!(
        "ETCDCTL_API=3 etcdctl --endpoints={} --cacert={} --cert={} --key={}",
        endpoints.join(","),
        shell(&files.ca.to_string_lossy()),
        shell(&files.cert.to_string_lossy()),
        shell(&files.key.to_string_lossy()),
    )
}

fn shell(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@%".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(member: u64, leader: u64) -> EndpointStatus {
        EndpointStatus {
            endpoint: String::new(),
            member,
            leader,
            learner: false,
            version: "3.5.0".into(),
            revision: 7,
            raft_term: 2,
            raft_index: 9,
            raft_applied: 9,
            db_size: 4096,
            errors: Vec::new(),
        }
    }

    fn report(step: &str, state: &str) -> wire::Report {
        let progress = wire::Progress {
            node: "n".into(),
            step: step.into(),
            state: state.into(),
            detail: String::new(),
            generation: 1,
            uptime_millis: 9,
            phases: BTreeMap::from([("clock".to_owned(), 5), ("join".to_owned(), 7)]),
        };
        wire::Report { progress, verified: true, received: 1 }
    }

    #[test]
    fn ready_means_blessed_and_served_by_a_leader() {
        let built_in = Inventory::parse(Inventory::built_in()).unwrap();
        let one = built_in.on_loopback(1).unwrap();
        let files = TlsFiles::in_dir("/p/op");
        let look = |step: &str, leader: Option<u64>| {
            let node =
                wire::NodeStatus { report: Some(report(step, "done")), ..Default::default() };
            let boot = wire::Status {
                nodes: BTreeMap::from([("node01".into(), node)]),
                ..Default::default()
            };
            let mut chainfire = Chainfire::default();
            if let Some(leader) = leader {
                chainfire.statuses.insert("https://127.0.1.1:2379".into(), status(1, leader));
            }
            let known: Vec<Known> =
                one.nodes.iter().map(|(n, node)| Known::of_node(n, node)).collect();
            overview("plasma".into(), &known, &files, Ok(boot), chainfire)
        };
        assert!(look("bless", Some(1)).ready);
        assert_eq!(look("bless", Some(1)).leader.as_deref(), Some("node01"));
        assert_eq!(look("bless", Some(1)).nodes[0].boot_millis, 12);
        let late = look("gates", Some(1));
        assert!(!late.ready);
        let open: Vec<String> = late
            .gates
            .iter()
            .filter(|gate| !gate.ready)
            .map(|gate| format!("{}: {}", gate.name, gate.reason))
            .collect();
        assert_eq!(open, ["node01 booted: gates done"]);
        assert_eq!(look("bless", Some(0)).nodes[0].health, "no leader");
        assert!(!look("bless", None).ready);
        assert_eq!(look("bless", None).nodes[0].chainfire, "down");
    }

    #[test]
    fn the_command_can_be_pasted() {
        let files = TlsFiles::in_dir("/home/it's me/op");
        assert_eq!(
            etcdctl(&["https://127.0.1.1:2379".into(), "https://127.0.1.2:2379".into()], &files),
            "ETCDCTL_API=3 etcdctl --endpoints=https://127.0.1.1:2379,https://127.0.1.2:2379 \
             --cacert='/home/it'\\''s me/op/ca.pem' --cert='/home/it'\\''s me/op/cert.pem' \
             --key='/home/it'\\''s me/op/key.pem'"
        );
    }
}
