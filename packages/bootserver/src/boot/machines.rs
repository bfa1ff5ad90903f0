//! The machines that asked: the list that an operator looks at to find a new one, and beside it what
//! each node's own agent said. Bounded; decides nothing that erases.
//!
//! Anybody may ask under any card, so the list only informs. What decides ([`Seen::known`]) comes
//! from agents that were recognised, and holds only while the inventory still means their machine.

use std::collections::BTreeMap;

use inventory::Inventory;
use serde::{Deserialize, Serialize};

use super::decide::Known;
use super::fit::Asking;
use crate::registry::recognise;
use crate::wire::{DiskSeen, Hardware, Identify, MachineSeen, Machines, Nic};

const MOST_MACHINES: usize = 256;
const MOST_DISKS: usize = 64;
const MOST_NICS: usize = 64;
const MOST_TRACES: usize = 16;
const LONGEST_TEXT: usize = 128;

/// The machines, by the card that asked.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    machines: BTreeMap<String, MachineSeen>,
    /// By node: never more than the inventory has.
    #[serde(default)]
    agents: BTreeMap<String, Agent>,
}

/// What the recognised agent of a node's machine said last.
#[derive(Debug, Serialize, Deserialize)]
struct Agent {
    identify: Identify,
    hardware: Hardware,
}

impl Agent {
    fn is_of(&self, inventory: &Inventory, node: &str) -> bool {
        inventory.node(node).is_ok_and(|line| recognise(node, line, &self.identify).is_ok())
    }
}

impl Seen {
    /// A machine asked, from `address`, and is `node`; with `hardware` only if its agent was
    /// recognised as that node, or it is none.
    pub(crate) fn note(
        &mut self,
        asking: &Asking,
        address: String,
        node: Option<&str>,
        hardware: Option<Hardware>,
        now: u64,
    ) {
        let cards = || asking.macs.iter().map(ToString::to_string);
        // an agent knows more cards than the loader did: it is the same machine
        let seen = cards().find(|mac| self.machines.contains_key(mac));
        let Some(mac) = seen.or_else(|| cards().next()) else { return };
        if !self.machines.contains_key(&mac) {
            self.make_room();
        }
        let machine = self.machines.entry(mac.clone()).or_insert_with(|| MachineSeen {
            mac,
            first_seen: now,
            ..MachineSeen::default()
        });
        machine.address = address;
        machine.node = node.map(str::to_owned);
        machine.last_seen = now;
        machine.asked = machine.asked.saturating_add(1);
        // an agent does not say for what its loader was built, a loader not always its serial
        if !asking.arch.is_empty() {
            machine.arch = plain(&asking.arch);
        }
        if asking.serial.is_some() {
            machine.serial = asking.serial.as_deref().map(plain);
        }
        if asking.uuid.is_some() {
            machine.uuid = asking.uuid.as_deref().map(plain);
        }
        if let Some(hardware) = hardware.map(bounded) {
            machine.hardware = Some(hardware.clone());
            if let Some(node) = node {
                let identify = Identify {
                    serial: asking.serial.as_deref().map(plain),
                    macs: cards().collect(),
                    process: false,
                };
                self.agents.insert(node.to_owned(), Agent { identify, hardware });
            }
        }
    }

    /// Forgets the agents of nodes that are no more.
    pub(crate) fn keep(&mut self, is_node: impl Fn(&str) -> bool) {
        self.agents.retain(|node, _| is_node(node));
    }

    /// The one that was unknown for longest goes first; a node's machine only when all are nodes'.
    fn make_room(&mut self) {
        while self.machines.len() >= MOST_MACHINES {
            let oldest = self
                .machines
                .iter()
                .min_by_key(|(_, machine)| (machine.node.is_some(), machine.last_seen))
                .map(|(mac, _)| mac.clone());
            let Some(mac) = oldest else { return };
            self.machines.remove(&mac);
        }
    }

    /// For operators; the one that was seen last comes first.
    pub(crate) fn list(&self) -> Machines {
        let mut machines: Vec<MachineSeen> = self.machines.values().cloned().collect();
        machines.sort_by_key(|machine| std::cmp::Reverse(machine.last_seen));
        Machines { machines }
    }

    /// What a node's machine said of itself last.
    pub(crate) fn hardware(&self, inventory: &Inventory, node: &str) -> Option<&Hardware> {
        let agent = self.agents.get(node).filter(|agent| agent.is_of(inventory, node))?;
        Some(&agent.hardware)
    }

    /// The machines whose agents were recognised as nodes.
    pub(crate) fn known(&self, inventory: &Inventory) -> BTreeMap<String, Known> {
        let its = |(node, agent): (&String, &Agent)| {
            let asking = Asking::of(&agent.identify, agent.hardware.uuid.as_deref());
            (node.clone(), Known { macs: asking.macs, uuid: asking.uuid })
        };
        self.agents.iter().filter(|(node, agent)| agent.is_of(inventory, node)).map(its).collect()
    }
}

/// Shown on an operator's terminal: short, and no control characters.
pub(crate) fn plain(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(LONGEST_TEXT).collect::<String>().trim().to_owned()
}

fn bounded(hardware: Hardware) -> Hardware {
    let some = |text: Option<String>| text.as_deref().map(plain).filter(|t| !t.is_empty());
    let disk = |disk: DiskSeen| DiskSeen {
        name: plain(&disk.name),
        serial: some(disk.serial),
        wwn: some(disk.wwn),
        model: some(disk.model),
        traces: disk.traces.iter().take(MOST_TRACES).map(|trace| plain(trace)).collect(),
        ..disk
    };
    let nic = |nic: Nic| Nic {
        name: plain(&nic.name),
        mac: plain(&nic.mac).to_lowercase(),
        driver: plain(&nic.driver),
        ..nic
    };
    Hardware {
        vendor: plain(&hardware.vendor),
        product: plain(&hardware.product),
        serial: some(hardware.serial),
        uuid: some(hardware.uuid),
        firmware: plain(&hardware.firmware),
        cpu: plain(&hardware.cpu),
        disks: hardware.disks.into_iter().take(MOST_DISKS).map(disk).collect(),
        nics: hardware.nics.into_iter().take(MOST_NICS).map(nic).collect(),
        ..hardware
    }
}

#[cfg(test)]
mod tests {
    use inventory::Mac;

    use super::*;

    fn asking(last: u16) -> Asking {
        let [a, b] = last.to_be_bytes();
        Asking { macs: vec![Mac([0x52, 0x54, 0, 0, a, b])], ..Asking::default() }
    }

    #[test]
    fn the_list_is_bounded_and_keeps_nodes() {
        let mut seen = Seen::default();
        seen.note(&asking(1), "10.20.0.11".into(), Some("node01"), None, 1);
        for i in 2..2000 {
            seen.note(&asking(i), "10.20.0.9".into(), None, None, u64::from(i));
        }
        let list = seen.list().machines;
        assert_eq!(list.len(), MOST_MACHINES);
        assert_eq!(list[0].last_seen, 1999, "the latest comes first");
        assert!(list.iter().any(|m| m.node.as_deref() == Some("node01")));
    }

    #[test]
    fn an_agent_adds_to_what_the_loader_said() {
        let mut seen = Seen::default();
        let loader = Asking { arch: "i386".into(), ..asking(7) };
        seen.note(&loader, "10.20.0.11".into(), Some("node01"), None, 1);
        let inventory = Inventory::parse(Inventory::built_in()).unwrap();
        let line = inventory.node("node01").unwrap();
        let mut agent = Asking { serial: line.serial.clone(), ..asking(3) };
        agent.macs.extend(asking(7).macs);
        agent.macs.extend(&line.macs);
        let hardware = Hardware {
            vendor: "\u{1b}[2JQEMU".into(),
            disks: vec![DiskSeen { traces: vec!["x".repeat(500); 100], ..DiskSeen::default() }; 99],
            nics: agent
                .macs
                .iter()
                .map(|mac| Nic { mac: mac.to_string().to_uppercase(), ..Nic::default() })
                .collect(),
            ..Hardware::default()
        };
        seen.note(&agent, "10.20.0.11".into(), Some("node01"), Some(hardware), 2);
        let list = seen.list().machines;
        assert_eq!(list.len(), 1, "{list:?}");
        assert_eq!((list[0].asked, list[0].arch.as_str()), (2, "i386"));
        let kept = seen.hardware(&inventory, "node01").unwrap();
        assert_eq!(kept.vendor, "[2JQEMU");
        assert_eq!((kept.disks.len(), kept.disks[0].traces.len()), (MOST_DISKS, MOST_TRACES));
        assert_eq!(kept.disks[0].traces[0].len(), LONGEST_TEXT);
        assert_eq!(seen.known(&inventory)["node01"].macs, agent.macs);

        let mut replaced = inventory.clone();
        replaced.nodes.get_mut("node01").unwrap().serial = Some("ANOTHER".into());
        assert!(seen.known(&replaced).is_empty(), "the inventory means another machine now");
        assert_eq!(seen.hardware(&replaced, "node01"), None);
    }
}
