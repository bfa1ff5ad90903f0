//! Step network: the machine holds the address that the inventory gives it, by its own
//! configuration and not by a lease, so no DHCP server can take it away.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bootserver::wire::Nic;
use fault::{Fault, Kind};
use inventory::{Cluster, Node};
use serde::Deserialize;
use steps::Probe;

use crate::{MachineSettings, codes, command, files, hardware, kernel};

/// Sorts before what the image brings, so that it decides for the card.
const FILE: &str = "/run/systemd/network/05-plasma.network";
/// How long networkd may take to set an address before the step waits.
const SETTLES: Duration = Duration::from_secs(10);

/// The node's place in the network, on this machine.
pub(crate) struct Network<'a> {
    pub(crate) machine: &'a MachineSettings,
    pub(crate) cluster: &'a Cluster,
    pub(crate) node: &'a Node,
    /// Whether the configuration is the agent's to write, or the system's own.
    pub(crate) writes: bool,
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    address: String,
    #[serde(default)]
    addr_info: Vec<Held>,
}

#[derive(Deserialize)]
struct Held {
    local: Option<IpAddr>,
    prefixlen: Option<u8>,
}

impl Network<'_> {
    /// The card holds the address now, and will go on holding it.
    pub(crate) async fn probe(&self) -> Result<Probe, Fault> {
        let nic = self.nic()?;
        let held = self.holds(&nic).await?;
        let written = !self.writes
            || files::read(&self.file())?.is_some_and(|text| text == self.text(&nic).as_bytes());
        Ok(match (held, written) {
            (true, true) => Probe::True,
            (false, true) if !self.writes => Probe::Waiting(format!(
                "{} {} does not hold {}",
                codes::ADDRESS,
                nic.name,
                self.node.address
            )),
            _ => Probe::False,
        })
    }

    /// Tells systemd-networkd, and waits until the card holds the address.
    pub(crate) async fn act(&self) -> Result<(), Fault> {
        if !self.writes {
            return Ok(());
        }
        let nic = self.nic()?;
        files::publish(&self.file(), self.text(&nic).as_bytes())?;
        for args in [&["reload"][..], &["reconfigure", &nic.name]] {
            let hint = "systemd-networkd must run; see journalctl -u systemd-networkd";
            let told = command::run(&self.machine.tool("networkctl"), args, SETTLES).await;
            told.map_err(|failed| fault(failed.what, hint))?;
        }
        let settled = async {
            while !self.holds(&nic).await? {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        tokio::time::timeout(SETTLES, settled).await.unwrap_or(Ok(()))
    }

    fn file(&self) -> PathBuf {
        self.machine.path(FILE)
    }

    /// The card on the nodes' network: one that the inventory names; of several the one that
    /// booted, then one with a cable in it. A node known by its serial alone has the one it booted
    /// from.
    fn nic(&self) -> Result<Nic, Fault> {
        let nics = hardware::nics(self.machine);
        let booted = kernel::booted_from(self.machine);
        let declared = |nic: &Nic| self.node.macs.iter().any(|mac| mac.to_string() == nic.mac);
        let from = |nic: &Nic| Some(&nic.mac) == booted.as_ref();
        let best = nics
            .iter()
            .filter(|nic| declared(nic) || from(nic))
            .max_by_key(|nic| (declared(nic), from(nic), nic.link, std::cmp::Reverse(&nic.name)));
        best.cloned().ok_or_else(|| {
            let has: Vec<&str> = nics.iter().map(|nic| nic.mac.as_str()).collect();
            fault(
                format!("none of this machine's cards ({}) is in the inventory", has.join(", ")),
                "write the card's MAC into the node's macs in nodes/cluster.nix",
            )
        })
    }

    async fn holds(&self, nic: &Nic) -> Result<bool, Fault> {
        let args = ["-json", "address", "show"];
        let shown = command::run(&self.machine.tool("ip"), &args, SETTLES)
            .await
            .map_err(|failed| fault(failed.what, "the image needs iproute2"))?;
        let links: Vec<Link> = serde_json::from_slice(&shown)
            .map_err(|error| fault(format!("ip: {error}"), "the image needs iproute2"))?;
        let wanted = (Some(self.node.address), Some(self.node.prefix_length));
        Ok(links
            .iter()
            .filter(|link| link.address.eq_ignore_ascii_case(&nic.mac))
            .any(|link| link.addr_info.iter().any(|held| (held.local, held.prefixlen) == wanted)))
    }

    fn text(&self, nic: &Nic) -> String {
        let (address, prefix) = (self.node.address, self.node.prefix_length);
        let mut text = format!(
            "# written by firstboot from the inventory\n[Match]\nMACAddress={}\n\n[Link]\n\
             RequiredForOnline=no\n\n[Network]\nAddress={address}/{prefix}\nDHCP=no\n\
             IPv6AcceptRA=no\n",
            nic.mac
        );
        let gateway = self.cluster.gateway.iter().map(|ip| format!("Gateway={ip}\n"));
        text.extend(gateway.chain(self.cluster.dns.iter().map(|ip| format!("DNS={ip}\n"))));
        text
    }
}

fn fault(what: String, hint: &str) -> Fault {
    // cables and inventories are mended while the machine waits
    Fault::new(codes::ADDRESS, Kind::Unavailable, what, hint)
}

/// Whether any interface of this host holds the address: for nodes that are processes.
pub(crate) fn probe_process(address: IpAddr) -> Probe {
    match std::net::UdpSocket::bind((address, 0)) {
        Ok(_) => Probe::True,
        Err(error) => Probe::Waiting(format!(
            "{} this machine does not hold {address} ({error})",
            codes::ADDRESS
        )),
    }
}

/// What the kernel calls this machine until its system has a name.
pub(crate) fn set_host_name(machine: &MachineSettings, name: &str) {
    if let Err(error) = fs::write(machine.path("/proc/sys/kernel/hostname"), name) {
        tracing::debug!(%error, "the host name is not set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inventory::Inventory;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    /// A machine of files: two cards, a kernel that says from which it booted, and an `ip` that
    /// shows the address once networkd was told of it.
    fn machine(dir: &Path, booted: &str, cards: &[(&str, &str)]) -> MachineSettings {
        let root = dir.join("root");
        let file = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        file("proc/cmdline", &format!("console=ttyS0 BOOTIF=01-{}", booted.replace(':', "-")));
        for (name, mac) in cards {
            file(&format!("sys/class/net/{name}/address"), mac);
            file(&format!("sys/class/net/{name}/device/x"), "");
        }
        let tools = dir.join("tools");
        fs::create_dir_all(&tools).expect("tools");
        let place = dir.display();
        let tool = |name: &str, text: String| {
            let path = tools.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a tool");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a tool");
        };
        tool("ip", format!("cat {place}/links"));
        tool(
            "networkctl",
            format!("echo $* >>{place}/told; [ $1 = reload ] || cp {place}/after {place}/links"),
        );
        MachineSettings { root, tools: Some(tools) }
    }

    fn links(dir: &Path, name: &str, held: &[(&str, &str, u8)]) {
        let links: Vec<_> = held
            .iter()
            .map(|(mac, local, prefixlen)| {
                serde_json::json!({"ifname": "x", "address": mac, "addr_info": [
                    {"family": "inet", "local": local, "prefixlen": prefixlen, "scope": "global"}]})
            })
            .collect();
        fs::write(dir.join(name), serde_json::to_vec(&links).expect("JSON")).expect("links");
    }

    #[tokio::test]
    async fn the_address_is_its_own_and_not_a_lease() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let inventory = Inventory::parse(Inventory::built_in()).expect("built in");
        let node = &inventory.nodes["node01"];
        let (mac, other) = (node.macs[0].to_string(), "52:54:00:ff:ff:01");
        let machine = machine(dir.path(), &mac, &[("ens3", other), ("ens4", &mac)]);
        let (address, prefix) = (node.address.to_string(), node.prefix_length);
        let cluster = &inventory.cluster;
        let network = Network { machine: &machine, cluster, node, writes: true };

        // another DHCP server has handed out another address
        links(dir.path(), "links", &[(&mac, "10.9.9.9", 24), (other, &address, prefix)]);
        links(dir.path(), "after", &[(&mac, &address, prefix)]);
        assert_eq!(network.probe().await, Ok(Probe::False));
        network.act().await.expect("networkd does as told");
        assert_eq!(network.probe().await, Ok(Probe::True));
        let told = fs::read_to_string(dir.path().join("told")).expect("what networkctl was told");
        assert_eq!(told, "reload\nreconfigure ens4\n");
        let path = machine.path(FILE);
        let text = fs::read_to_string(&path).expect("networkd's file");
        assert!(text.contains(&format!("MACAddress={mac}\n")), "{text}");
        assert!(text.contains(&format!("Address={address}/{prefix}\nDHCP=no\n")), "{text}");
        // networkd is another user
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o644, 0o755));

        // the right address by a lease may be taken away again
        fs::write(&path, "[Match]\n").expect("another file");
        assert_eq!(network.probe().await, Ok(Probe::False));
        // where the system configures itself the agent only looks
        let looks = Network { writes: false, ..network };
        assert_eq!(looks.probe().await, Ok(Probe::True));
        links(dir.path(), "links", &[(&mac, "10.9.9.9", 24)]);
        assert!(matches!(looks.probe().await, Ok(Probe::Waiting(why)) if why.contains(&address)));
    }

    #[tokio::test]
    async fn a_card_that_is_not_declared_is_used_only_if_the_machine_booted_from_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let inventory = Inventory::parse(Inventory::built_in()).expect("built in");
        let (node, cluster) = (&inventory.nodes["node01"], &inventory.cluster);
        let new = "52:54:00:ff:ff:02";
        let one = machine(dir.path(), new, &[("ens3", "52:54:00:ff:ff:01"), ("ens4", new)]);
        let network = Network { machine: &one, cluster, node, writes: true };
        assert_eq!(network.nic().map(|nic| nic.name), Ok("ens4".to_owned()));
        let none = machine(&dir.path().join("2"), "", &[("ens3", "52:54:00:ff:ff:01")]);
        let network = Network { machine: &none, cluster, node, writes: true };
        let fault = network.nic().expect_err("no card is meant");
        assert_eq!((fault.code, fault.kind), (codes::ADDRESS, Kind::Unavailable));
    }
}
