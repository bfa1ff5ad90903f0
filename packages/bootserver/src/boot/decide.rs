//! What a machine boots. Pure.
//!
//! | the machine | decision |
//! |---|---|
//! | is a node, rescue ordered | rescue |
//! | is a node, enrolled under the current install | its local disk |
//! | is a node, otherwise | install |
//! | looks like a node, and something speaks against it | wait |
//! | is no node | its local disk, after a pause; nothing is touched |
//!
//! Install needs three things at once: exactly one node, nothing against it, and no enrolment since
//! the last order. So an installed node cannot be caught in an install loop.

use std::collections::BTreeMap;

use inventory::{Inventory, Mac};

use super::fit::{Asking, Fit, find};
use crate::registry::Registry;

/// What a machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The installer.
    Install,
    /// What is on its disk.
    LocalDisk,
    /// The same system as the installer, which lets the operator in and does nothing else.
    Rescue,
    /// Nothing now; it asks again.
    Wait,
    /// It is no node: its own disk, after a pause.
    Unknown,
}

impl Decision {
    /// As on the wire and on a terminal.
    pub fn name(self) -> &'static str {
        match self {
            Decision::Install => "install",
            Decision::LocalDisk => "localdisk",
            Decision::Rescue => "rescue",
            Decision::Wait => "wait",
            Decision::Unknown => "unknown",
        }
    }
}

/// A decision, for whom, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What the machine boots.
    pub decision: Decision,
    /// Which node it is, or seems to be.
    pub node: Option<String>,
    /// Lines for people; never empty.
    pub reasons: Vec<String>,
}

/// Who asks: a boot loader, or the agent of a system that runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before there is a kernel.
    Boot,
    /// The agent; `rescue` is whether its system was booted as a rescue.
    Agent {
        /// By the kernel's arguments.
        rescue: bool,
    },
}

/// What is known beside what the machine says.
pub struct Facts<'a> {
    /// The nodes.
    pub inventory: &'a Inventory,
    /// Who has enrolled, and what is ordered.
    pub registry: &'a Registry,
    /// The machines whose agents were recognised as a node before.
    pub known: &'a BTreeMap<String, Known>,
    /// Why no image can be served, if so.
    pub no_images: Option<&'a str>,
    /// Who asks.
    pub moment: Moment,
}

/// What the agent of a node's machine said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// All its cards, also those that the inventory does not name.
    pub macs: Vec<Mac>,
    /// Its UUID.
    pub uuid: Option<String>,
}

/// What a machine boots.
pub fn decide(facts: &Facts<'_>, asking: &Asking) -> Choice {
    match find(facts.inventory, asking) {
        Fit::Node(node) => decide_node(facts, &node, &asking.arch),
        Fit::Doubtful { node, why } => doubtful(facts, asking, node, why),
        Fit::Nobody(why) => nobody(facts, asking, why),
    }
}

/// What a node's own machine boots.
pub fn decide_node(facts: &Facts<'_>, node: &str, arch: &str) -> Choice {
    let choice = |decision, reasons| Choice { decision, node: Some(node.to_owned()), reasons };
    if facts.inventory.nodes.get(node).is_some_and(|node| node.process) {
        let reason = format!("nodes.{node}.process is set: processes boot nothing");
        return choice(Decision::Wait, vec![reason]);
    }
    let (decision, reason) = match facts.registry.rescue(node, facts.moment) {
        true => (Decision::Rescue, "the operator ordered the rescue system".to_owned()),
        false if facts.registry.is_installed(node) => {
            return choice(Decision::LocalDisk, vec!["it is installed and enrolled".to_owned()]);
        }
        false => (Decision::Install, facts.registry.why_install(node)),
    };
    if !can_run(arch) {
        let why = format!("there is no image for a machine of kind {arch:?}");
        return choice(Decision::Wait, vec![reason, why]);
    }
    match facts.no_images {
        Some(why) => choice(Decision::Wait, vec![reason, format!("no image can be served: {why}")]),
        None => choice(decision, vec![reason]),
    }
}

/// What iPXE calls the machine kinds that a 64-bit PC kernel may boot on; its BIOS loader is built
/// for the oldest.
fn can_run(arch: &str) -> bool {
    matches!(arch, "" | "i386" | "x86_64")
}

/// A known machine of the node, on a card that the inventory does not name, may boot its disk. It
/// is never told to install.
fn doubtful(facts: &Facts<'_>, asking: &Asking, node: String, why: String) -> Choice {
    let known = facts.known.get(&node);
    let is_known = known.is_some_and(|known| {
        !asking.macs.is_empty() && asking.macs.iter().all(|mac| known.macs.contains(mac))
    });
    if is_known && facts.registry.is_installed(&node) {
        let reason = "it is installed and enrolled; this card is one of its machine's".to_owned();
        return Choice { decision: Decision::LocalDisk, node: Some(node), reasons: vec![reason] };
    }
    let hint = format!("correct nodes.{node} if this is its machine, or take the machine away");
    Choice { decision: Decision::Wait, node: Some(node), reasons: vec![why, hint] }
}

fn nobody(facts: &Facts<'_>, asking: &Asking, why: String) -> Choice {
    let twin = asking.uuid.as_ref().filter(|uuid| is_real(uuid)).and_then(|uuid| {
        let same =
            |known: &Known| known.uuid.as_ref().is_some_and(|k| k.eq_ignore_ascii_case(uuid));
        facts.known.iter().find(|(_, known)| same(known)).map(|(node, _)| node)
    });
    match twin {
        Some(node) => Choice {
            decision: Decision::Wait,
            node: None,
            reasons: vec![
                why,
                format!("its UUID is the one of {node}'s machine: a second machine, or new cards"),
                format!("correct nodes.{node} if this is its machine, or take the machine away"),
            ],
        },
        None => Choice {
            decision: Decision::Unknown,
            node: None,
            reasons: vec![why, "add it to nodes/cluster.nix to make it a node".to_owned()],
        },
    }
}

/// Some makers give all machines one UUID; it says nothing then.
fn is_real(uuid: &str) -> bool {
    let Ok(uuid) = uuid::Uuid::parse_str(uuid) else { return false };
    const PLACEHOLDER: u128 = 0x0300_0200_0400_0500_0006_0007_0008_0009;
    ![0, u128::MAX, PLACEHOLDER].contains(&uuid.as_u128())
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
