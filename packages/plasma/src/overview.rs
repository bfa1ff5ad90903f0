//! How a cloud is: what the boot server knows of each node, and what Chainfire says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use bootserver::client::Operator;
use bootserver::wire;
use chainfire_client::{Client, EndpointStatus, Member, Options};
use fault::Fault;
use identity::TlsFiles;
use inventory::{Inventory, Role};
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
    pub(crate) endpoints: Vec<String>,
    pub(crate) etcdctl: String,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct NodeView {
    pub(crate) name: String,
    pub(crate) address: String,
    /// Where it is in its first boot.
    pub(crate) step: String,
    pub(crate) state: String,
    pub(crate) detail: String,
    /// What came since without the node's certificate: it lost its folder, or it is not the node.
    pub(crate) claimed: String,
    /// The time of all steps together.
    pub(crate) boot_millis: u64,
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
    inventory: Inventory,
    files: TlsFiles,
    operator: Option<Operator>,
    client: Option<Client>,
}

impl Observer {
    /// For the cloud of a folder; connects when asked.
    pub(crate) fn new(home: &Home, inventory: Inventory) -> Observer {
        Observer { inventory, files: home.operator(), operator: None, client: None }
    }

    /// How it is now. Whoever does not answer is shown as such: this never fails.
    pub(crate) async fn look(&mut self) -> Overview {
        let (boot, chainfire) = (self.boot_status().await, self.chainfire_status().await);
        overview(&self.inventory, &self.files, boot.ok(), chainfire)
    }

    async fn boot_status(&mut self) -> Result<wire::Status, Fault> {
        if self.operator.is_none() {
            self.operator = Some(Operator::new(&base(), &self.files)?);
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
        Client::connect_with(endpoints(&self.inventory), Some(tls), options).ok()
    }
}

#[derive(Default)]
struct Chainfire {
    statuses: BTreeMap<String, EndpointStatus>,
    members: Vec<Member>,
}

fn endpoints(inventory: &Inventory) -> Vec<String> {
    inventory.with_role(Role::Control).map(|(_, node)| node.client_url()).collect()
}

fn overview(
    inventory: &Inventory,
    files: &TlsFiles,
    boot: Option<wire::Status>,
    chainfire: Chainfire,
) -> Overview {
    let answers = boot.is_some();
    let boot = boot.unwrap_or_default();
    let nodes: Vec<NodeView> = inventory
        .nodes
        .iter()
        .map(|(name, node)| {
            let known = boot.nodes.get(name);
            let runs = node.has(Role::Control);
            let status = chainfire.statuses.get(&node.client_url()).filter(|_| runs);
            node_view(name, &node.address.to_string(), runs, known, status)
        })
        .collect();
    let leader = nodes.iter().find(|node| node.chainfire == "leader").map(|n| n.name.clone());
    let learners = chainfire.members.iter().filter(|member| member.learner).count();
    let booted = nodes.iter().all(|node| node.step == "bless" && node.state == "done");
    let serving = nodes.iter().all(|node| matches!(node.health.as_str(), "ok" | "-"));
    Overview {
        cluster: inventory.cluster.name.clone(),
        cluster_id: boot.cluster_id,
        ready: booted && serving && leader.is_some(),
        bootserver: answers,
        leader,
        voters: chainfire.members.len() - learners,
        learners,
        revision: chainfire.statuses.values().map(|s| s.revision).max().unwrap_or_default(),
        nodes,
        endpoints: endpoints(inventory),
        etcdctl: etcdctl(&endpoints(inventory), files),
    }
}

fn node_view(
    name: &str,
    address: &str,
    runs_chainfire: bool,
    known: Option<&wire::NodeStatus>,
    status: Option<&EndpointStatus>,
) -> NodeView {
    let mut view =
        NodeView { name: name.to_owned(), address: address.to_owned(), ..NodeView::default() };
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
        }
        None => {
            "-".clone_into(&mut view.step);
            "starting".clone_into(&mut view.state);
        }
    }
    let Some(status) = status else {
        let (chainfire, health) = if runs_chainfire { ("down", "no answer") } else { ("-", "-") };
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
            phases: BTreeMap::from([("clock".to_owned(), 5), ("join".to_owned(), 7)]),
            uptime_millis: 0,
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
            overview(&one, &files, Some(boot), chainfire)
        };
        assert!(look("bless", Some(1)).ready);
        assert_eq!(look("bless", Some(1)).leader.as_deref(), Some("node01"));
        assert_eq!(look("bless", Some(1)).nodes[0].boot_millis, 12);
        assert!(!look("gates", Some(1)).ready);
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
