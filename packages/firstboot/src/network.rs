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
        files::write(&self.file(), self.text(&nic).as_bytes())?;
        for args in [&["reload"][..], &["reconfigure", &nic.name]] {
            command::run(&self.machine.tool("networkctl"), args).await.map_err(|why| {
                fault(why, "systemd-networkd must run; see journalctl -u systemd-networkd")
            })?;
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
        let text = command::run(&self.machine.tool("ip"), &args)
            .await
            .map_err(|why| fault(why, "the image needs iproute2"))?;
        let links: Vec<Link> = serde_json::from_str(&text)
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
