//! A lab: a network, a boot server, and machines that are off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bootserver::wire::NodeStatus;
use chainfire_client::{Client, Member};
use fault::{Fault, Kind};
use rpc::Tls;
use serde_json::{Value, json};
use testkit::binary;

use crate::codes;
use crate::disk::Disk;
use crate::foreign::ForeignDhcp;
use crate::machine::{Accel, Firmware, Machine, Spec};
use crate::netns::Network;
use crate::server::{BootServer, ServerOptions};

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything of it lies; a folder that is there is gone on with.
    pub dir: PathBuf,
    /// The folder of binaries; without it, those beside this one.
    pub bins: Option<PathBuf>,
    /// The folder of the image.
    pub images: PathBuf,
    /// Which nodes of the inventory have machines; the first of them forms the cluster.
    pub nodes: Vec<usize>,
    /// Their firmware.
    pub firmware: Firmware,
    /// Who computes.
    pub accel: Accel,
    /// A foreign DHCP server gives out the addresses.
    pub proxy_dhcp: bool,
    /// The size of their disks.
    pub disk_gib: u64,
    /// The boot server.
    pub server: ServerOptions,
}

impl Options {
    /// Three BIOS machines under software emulation.
    pub fn new(dir: &Path, images: &Path) -> Options {
        Options {
            dir: dir.to_owned(),
            bins: None,
            images: images.to_owned(),
            nodes: vec![1, 2, 3],
            firmware: Firmware::Bios,
            accel: Accel::Tcg,
            proxy_dhcp: false,
            disk_gib: 8,
            server: ServerOptions::default(),
        }
    }
}

/// A network, a boot server, and machines. Dropping it ends all of them.
#[derive(Debug)]
pub struct Lab {
    /// The machines, in the order in which their nodes were named.
    pub machines: Vec<Machine>,
    /// The boot server.
    pub server: BootServer,
    /// What the boot server was told.
    pub inventory: Value,
    dir: PathBuf,
    foreign: Option<ForeignDhcp>,
    // last: what runs inside is gone when it is removed
    network: Network,
}

impl Lab {
    /// Makes it and takes this thread into its network, so that whatever runtime is made next lives
    /// there. Nothing is started but a foreign DHCP server.
    pub fn prepare(options: &Options) -> Result<Lab> {
        let dir = &options.dir;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let key = ssh_key(dir)?;
        let inventory = inventory(&options.nodes, &key)?;
        let network = Network::create("10.20.0.1/24")?;
        let mut machines = Vec::new();
        for &number in &options.nodes {
            network.tap(&format!("tap{number}"))?;
            machines.push(Machine::new(&dir.join(name(number)), spec(options, number)?)?);
        }
        let mut server_options = options.server.clone();
        server_options.proxy = options.proxy_dhcp;
        let foreign = match options.proxy_dhcp {
            true => Some(ForeignDhcp::start(dir, &network)?),
            false => None,
        };
        let bin = match &options.bins {
            Some(bins) => bins.join("bootserver"),
            None => binary("bootserver")?,
        };
        let server = BootServer::init(dir, &bin, &options.images, &inventory, server_options)?;
        let about = json!({
            "netns": network.name(),
            "bootserver": crate::server::URL,
            "operator": dir.join("bootserver/operator"),
            "ssh_key": dir.join("ssh_key"),
            "inventory": dir.join("cluster.json"),
        });
        fs::write(dir.join("lab.json"), serde_json::to_string_pretty(&about)?)?;
        network.enter()?;
        let dir = dir.clone();
        Ok(Lab { machines, server, inventory, dir, foreign, network })
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Makes the foreign DHCP server lend these addresses to these cards from now on.
    pub fn foreign_dhcp(&mut self, leases: &[(&str, &str)]) -> Result<()> {
        self.foreign.as_mut().context("no foreign DHCP server")?.lend(leases)
    }

    /// Powers all machines on.
    pub fn power_on(&mut self) -> Result<()> {
        self.machines.iter_mut().try_for_each(Machine::power_on)
    }

    /// Cuts the power of all machines at once.
    pub fn power_cut(&mut self) {
        self.machines.iter_mut().for_each(Machine::power_cut);
    }

    /// Looks at everything once: reads the consoles, fails when something ended by itself.
    pub fn look(&mut self) -> Result<()> {
        for machine in &mut self.machines {
            machine.console.poll();
            machine.check()?;
        }
        Ok(())
    }

    /// Waits until a node's status is as it should be; the report of a failure has the end of its
    /// console.
    pub async fn wait<F>(
        &mut self,
        number: usize,
        what: &str,
        deadline: Duration,
        is: F,
    ) -> Result<NodeStatus>
    where
        F: Fn(&NodeStatus, &Machine) -> bool,
    {
        let begun = Instant::now();
        let node = self.machine(number)?.spec.name.clone();
        loop {
            self.look()?;
            let asked = self.server.status().await;
            let status = asked.as_ref().ok().and_then(|status| status.nodes.get(&node));
            let machine = self.machine(number)?;
            if let Some(status) = status
                && is(status, machine)
            {
                return Ok(status.clone());
            }
            if begun.elapsed() > deadline {
                let seen = match &asked {
                    Ok(_) => format!("{:?}", status.and_then(|status| status.report.as_ref())),
                    Err(error) => format!("{error:#}"),
                };
                let said = machine.console.tail(40);
                return Err(late(format!(
                    "{node} after {:?}: waited for: {what}; last seen: {seen}\n--- its console:\n{said}\n---",
                    begun.elapsed()
                )));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until all machines have joined since they were last powered on.
    pub async fn wait_joined(&mut self, deadline: Duration) -> Result<()> {
        for number in 1..=self.machines.len() {
            self.wait(number, "it has joined", deadline, joined).await?;
        }
        Ok(())
    }

    /// Waits until a machine has said something.
    pub async fn wait_said(
        &mut self,
        number: usize,
        words: &str,
        deadline: Duration,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.look()?;
            let console = &self.machine(number)?.console;
            if console.text().contains(words) {
                return Ok(());
            }
            if begun.elapsed() > deadline {
                return Err(late(format!(
                    "{} has not said {words:?} in {deadline:?}:\n{}\n---",
                    name(number),
                    console.tail(40)
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A client of the cluster, with the operator's certificate.
    pub fn client(&self) -> Result<Client> {
        let endpoints =
            self.machines.iter().map(|machine| format!("https://{}:2379", machine.spec.address));
        let endpoints: Vec<String> = endpoints.collect();
        Ok(Client::connect(endpoints, Some(Tls::load(&self.server.operator_files())?))?)
    }

    /// The proof that a cluster has formed: `count` voting members, and a key that is written and
    /// read back over the quorum.
    pub async fn prove(&self, count: usize) -> Result<Vec<Member>> {
        self.try_cluster(count).await.map_err(|error| {
            let hint = "look at the nodes' consoles, and at the boot server's log";
            Fault::new(codes::NO_CLUSTER, Kind::Internal, format!("{error:#}"), hint).into()
        })
    }

    async fn try_cluster(&self, count: usize) -> Result<Vec<Member>> {
        let client = self.client()?;
        let members = client.members().await.context("list the members")?;
        let voters = members.iter().filter(|member| !member.learner).count();
        if voters != count {
            bail!("{voters} voting members instead of {count}: {members:?}");
        }
        client.put("lab/proof", "written").await.context("write a key")?;
        let read = client.get("lab/proof").await.context("read it back")?;
        if read.is_none_or(|pair| pair.value != "written") {
            bail!("the key that was written is not there");
        }
        Ok(members)
    }

    fn machine(&self, number: usize) -> Result<&Machine> {
        self.machines.get(number.wrapping_sub(1)).with_context(|| format!("no machine {number}"))
    }
}

/// Every step is true, and the node itself said so since the machine was powered on.
pub fn joined(status: &NodeStatus, machine: &Machine) -> bool {
    status.report.as_ref().is_some_and(|report| {
        report.verified
            && report.received > machine.powered_unix()
            && report.progress.step == "bless"
            && report.progress.state == "done"
    })
}

/// What did not come in time.
pub(crate) fn late(what: String) -> anyhow::Error {
    let hint = "look whether the host is busy; consoles and logs are in the lab's folder";
    Fault::new(codes::NOT_IN_TIME, Kind::Deadline, what, hint).into()
}

/// A program that this host lacks, or that fails.
fn program(what: String, hint: &str) -> anyhow::Error {
    Fault::new(codes::PROGRAM, Kind::Precondition, what, hint).into()
}

/// The name of a node by its place.
pub fn name(number: usize) -> String {
    format!("node{number:02}")
}

/// The address of a node by its place.
pub fn address(number: usize) -> String {
    format!("10.20.0.{}", 10 + number)
}

fn mac(number: usize) -> String {
    format!("52:54:00:20:00:{:02}", 10 + number)
}

fn spec(options: &Options, number: usize) -> Result<Spec> {
    let dir = options.dir.join(name(number));
    fs::create_dir_all(&dir)?;
    Ok(Spec {
        name: name(number),
        serial: format!("PLASMA-NODE{number:02}"),
        uuid: format!("00000000-0000-4000-8000-0000000000{number:02}"),
        mac: mac(number),
        address: address(number),
        tap: format!("tap{number}"),
        disks: vec![Disk::blank(&dir, &format!("PLASMA-DISK{number:02}"), options.disk_gib)?],
        firmware: options.firmware,
        accel: options.accel,
        memory: 1024,
        cpus: 1,
        clock: None,
    })
}

/// The inventory that comes with the project, with these nodes and the lab's key.
fn inventory(numbers: &[usize], key: &str) -> Result<Value> {
    let mut value: Value = serde_json::from_str(inventory::Inventory::built_in())?;
    let model = value["nodes"]["node01"].clone();
    let known = value["nodes"].as_object_mut().context("nodes")?;
    known.clear();
    for &number in numbers {
        let mut node = model.clone();
        node["address"] = json!(address(number));
        node["macs"] = json!([mac(number)]);
        node["serial"] = json!(format!("PLASMA-NODE{number:02}"));
        node["disk"]["match"] = json!({ "serial": format!("PLASMA-DISK{number:02}") });
        known.insert(name(number), node);
    }
    value["cluster"]["former"] = json!(name(*numbers.first().context("no nodes")?));
    value["operators"] = json!([{ "name": "admin", "sshKeys": [key] }]);
    Ok(value)
}

fn ssh_key(dir: &Path) -> Result<String> {
    let key = dir.join("ssh_key");
    if !key.exists() {
        let out = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"])
            .arg(&key)
            .output()
            .map_err(|e| program(format!("run ssh-keygen: {e}"), "install openssh-client"))?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(program(format!("ssh-keygen: {}", said.trim()), ""));
        }
    }
    Ok(fs::read_to_string(key.with_extension("pub"))?.trim().to_owned())
}
