//! `plasma plan`: what will happen to which machine and which disk, judged by what the boot server
//! was told by a machine with the node's serial number and cards. That is the machine's word, which
//! no certificate vouches for, and what it says of a claim is not whose it is. Only says; orders
//! nothing. The machine's agent decides at the disk, when the time comes.

use std::collections::BTreeMap;
use std::path::Path;

use bootserver::wire;
use inventory::{Disk, DiskMatch, Inventory, Node};
use serde::Serialize;

use crate::home::Home;
use crate::print::{Output, bytes, columns, render, result};
use crate::remote::Remote;
use crate::source;

/// What will happen.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    cluster: String,
    nodes: Vec<NodePlan>,
    /// Machines that are no node: they are told to boot their own disk and are not touched.
    strangers: Vec<String>,
    warnings: Vec<String>,
}

/// What will happen to a node's machine.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NodePlan {
    node: String,
    /// By which it is known, or would be.
    machine: String,
    /// `install`, `localdisk`, `rescue`, `wait`; empty when the boot server does not say.
    decision: String,
    /// What becomes of the disk.
    disk: Fate,
    /// For people.
    words: String,
    reasons: Vec<String>,
}

/// What becomes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    /// Nothing is written to it by an install.
    Kept,
    /// It is empty, or ours already, and will be written.
    Written,
    /// Foreign data on it will be lost, by consent.
    Erased,
    /// The install stops before it touches anything.
    Stops,
    /// Nobody has seen it yet.
    Unknown,
}

/// `plasma plan [FILE]`; false when something would stop.
pub(crate) async fn plan(
    home: &Home,
    remote: &Remote,
    file: Option<&Path>,
    output: Output,
) -> anyhow::Result<bool> {
    let inventory = source::inventory_or_built_in(home, file)?;
    let operator = remote.operator()?;
    let status = operator.status().await?;
    let machines = operator.machines().await?.machines;
    let mut explained = BTreeMap::new();
    for name in inventory.nodes.keys().filter(|name| status.nodes.contains_key(*name)) {
        explained.insert(name.clone(), operator.explain(name).await?);
    }
    let plan = make(&inventory, &status, &machines, &explained);
    result(&render(output, &plan, || table(&plan))?);
    Ok(!plan.nodes.iter().any(|node| node.disk == Fate::Stops))
}

/// Pure.
fn make(
    inventory: &Inventory,
    status: &wire::Status,
    machines: &[wire::MachineSeen],
    explained: &BTreeMap<String, wire::Explained>,
) -> Plan {
    let mut warnings = Vec::new();
    if status.cluster != inventory.cluster.name {
        warnings.push(format!(
            "the boot server serves cluster {:?}, this inventory describes {:?}",
            status.cluster, inventory.cluster.name
        ));
    }
    for name in status.nodes.keys().filter(|name| !inventory.nodes.contains_key(*name)) {
        warnings.push(format!("{name}: the boot server has it, this inventory does not"));
    }
    let of = |(name, node): (&String, &Node)| {
        let seen = machines.iter().find(|m| m.node.as_deref() == Some(name.as_str()));
        node_plan(name, node, status.nodes.get(name), seen, explained.get(name))
    };
    let nodes = inventory.nodes.iter().map(of).collect();
    let strangers = machines
        .iter()
        .filter(|machine| machine.node.is_none())
        .map(|machine| {
            let serial = machine.serial.as_deref().unwrap_or("no serial");
            format!("{} ({serial})", machine.mac)
        })
        .collect();
    Plan { cluster: inventory.cluster.name.clone(), nodes, strangers, warnings }
}

fn node_plan(
    name: &str,
    node: &Node,
    status: Option<&wire::NodeStatus>,
    seen: Option<&wire::MachineSeen>,
    explained: Option<&wire::Explained>,
) -> NodePlan {
    // never what the list of machines holds: anybody may have said that
    let hardware = status.and_then(|status| status.hardware.as_ref());
    let decision = explained.map(|e| e.decision.clone()).unwrap_or_default();
    let (disk, words) = match (normal(&decision).as_str(), &node.disk) {
        _ if node.process => (Fate::Kept, "processes, no machine: no disk is touched".to_owned()),
        ("", _) => (
            Fate::Unknown,
            "the boot server does not know this node: start plasma serve with this inventory"
                .to_owned(),
        ),
        ("install", Some(disk)) => fate(disk, hardware),
        ("install", None) => (Fate::Stops, "stops: the inventory names no disk".to_owned()),
        (other, _) => (Fate::Kept, format!("{}; no disk is erased", decision_words(other))),
    };
    NodePlan {
        node: name.to_owned(),
        machine: machine_words(node, seen),
        decision,
        disk,
        words,
        reasons: explained.map(|e| e.reasons.clone()).unwrap_or_default(),
    }
}

/// What an install does, by the rules of the agent's disk step.
fn fate(disk: &Disk, hardware: Option<&wire::Hardware>) -> (Fate, String) {
    let Some(hardware) = hardware else {
        let meant: Vec<String> = disk.members().map(match_words).collect();
        let words = format!("will install on the disk with {}; not seen yet", meant.join(" and "));
        return (Fate::Unknown, words);
    };
    let fates: Vec<(Fate, String)> =
        disk.members().map(|member| member_fate(disk, member, &hardware.disks)).collect();
    let worst = [Fate::Stops, Fate::Unknown, Fate::Erased];
    let fate = worst.into_iter().find(|worst| fates.iter().any(|(fate, _)| fate == worst));
    let words: Vec<String> = match fate {
        // what stops one disk stops all
        Some(Fate::Stops) => fates
            .into_iter()
            .filter(|(fate, _)| *fate == Fate::Stops)
            .map(|(_, words)| words)
            .collect(),
        _ => fates.into_iter().map(|(_, words)| words).collect(),
    };
    (fate.unwrap_or(Fate::Written), words.join("; "))
}

fn member_fate(disk: &Disk, member: &DiskMatch, disks: &[wire::DiskSeen]) -> (Fate, String) {
    let matching: Vec<&wire::DiskSeen> = disks
        .iter()
        .filter(|seen| member.names(seen.serial.as_deref(), seen.wwn.as_deref()))
        .collect();
    let stops = |why: String| (Fate::Stops, format!("stops: {why}"));
    let seen = match matching.as_slice() {
        [seen] => *seen,
        [] => {
            let there: Vec<String> = disks.iter().map(disk_words).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return stops(format!("no disk has {}; there: {there}", match_words(member)));
        }
        many => {
            let names: Vec<&str> = many.iter().map(|seen| seen.name.as_str()).collect();
            let (count, names) = (many.len(), names.join(", "));
            return stops(format!("{count} disks have {}: {names}", match_words(member)));
        }
    };
    let gib = |gib: u32| u64::from(gib) << 30;
    let what = disk_words(&wire::DiskSeen { traces: Vec::new(), ..seen.clone() });
    if seen.traces.iter().any(|trace| trace == wire::READ_ONLY) {
        return stops(format!("{what} is read-only"));
    }
    if seen.bytes < gib(disk.min_gib) {
        return stops(format!("{what} is smaller than minGiB = {}", disk.min_gib));
    }
    if let Some(max) = disk.max_gib.filter(|max| seen.bytes > gib(*max)) {
        return stops(format!("{what} is larger than maxGiB = {max}"));
    }
    let serial = seen.serial.as_deref().or(seen.wwn.as_deref()).unwrap_or("without serial");
    if seen.traces.is_empty() {
        return (Fate::Written, format!("will install on {what}, which is empty"));
    }
    let consents = seen.serial.as_ref().or(seen.wwn.as_ref());
    let consented = consents.is_some_and(|name| disk.consent_to_erase.contains(name));
    let claimed = seen.traces.iter().any(|trace| trace.starts_with("plasma-claim"));
    if claimed && !consented {
        // whose claim it is, only the agent reads
        let words =
            format!("will install on {what} if its claim is this node's; stops if it is another's");
        return (Fate::Written, words);
    }
    let traces = seen.traces.join(", ");
    if consented {
        return (Fate::Erased, format!("would erase disk {serial} (foreign: {traces}, consented)"));
    }
    stops(format!(
        "disk {serial} holds foreign data ({traces}); to erase it: disk.consentToErase = \
         [ \"{serial}\" ]"
    ))
}

fn match_words(member: &DiskMatch) -> String {
    let parts = [("serial", &member.serial), ("wwn", &member.wwn)];
    let given: Vec<String> = parts
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value}")))
        .collect();
    given.join(" and ")
}

/// `vda D1 4.0 GiB ext4`
pub(crate) fn disk_words(seen: &wire::DiskSeen) -> String {
    let serial = seen.serial.as_deref().or(seen.wwn.as_deref()).unwrap_or("no serial");
    let size = bytes(seen.bytes.try_into().unwrap_or(i64::MAX));
    format!("{} {serial} {size} {}", seen.name, seen.traces.join("+")).trim_end().to_owned()
}

fn machine_words(node: &Node, seen: Option<&wire::MachineSeen>) -> String {
    match seen {
        Some(machine) => match &machine.serial {
            Some(serial) => format!("{serial} {}", machine.mac),
            None => machine.mac.clone(),
        },
        None if node.process => "-".to_owned(),
        None => {
            let known_by = node.serial.clone().or(node.macs.first().map(ToString::to_string));
            format!("{} (not seen)", known_by.unwrap_or_default())
        }
    }
}

fn normal(decision: &str) -> String {
    decision.to_ascii_lowercase().replace(['-', '_', ' '], "")
}

/// A decision, for people.
pub(crate) fn decision_words(decision: &str) -> String {
    match normal(decision).as_str() {
        "install" => "will install itself at its next boot",
        "localdisk" | "run" => "boots its own disk",
        "rescue" => "boots the rescue system",
        "wait" => "waits, and asks again",
        "unknown" => "is no node: boots its own disk, untouched",
        "" => "unknown to the boot server",
        _ => return decision.to_owned(),
    }
    .to_owned()
}

fn table(plan: &Plan) -> String {
    let mut rows =
        vec![["NODE", "MACHINE", "NEXT BOOT", "WHAT HAPPENS"].map(str::to_owned).to_vec()];
    for node in &plan.nodes {
        let decision = if node.decision.is_empty() { "-" } else { &node.decision };
        rows.push(vec![
            node.node.clone(),
            node.machine.clone(),
            decision.to_owned(),
            node.words.clone(),
        ]);
    }
    let mut text = columns(&rows);
    for node in plan.nodes.iter().filter(|node| normal(&node.decision) == "wait") {
        for reason in &node.reasons {
            text.push_str(&format!("{}: waits because {reason}\n", node.node));
        }
    }
    for stranger in &plan.strangers {
        text.push_str(&format!("{stranger}: no node of the inventory, nothing is touched\n"));
    }
    for warning in &plan.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    let erased = plan.nodes.iter().filter(|n| n.disk == Fate::Erased).count();
    let stops = plan.nodes.iter().filter(|n| n.disk == Fate::Stops).count();
    let written = plan.nodes.iter().filter(|n| n.disk == Fate::Written).count();
    let is_told = |n: &NodePlan| matches!(n.disk, Fate::Written | Fate::Erased | Fate::Stops);
    if plan.nodes.iter().any(is_told) {
        text.push_str(
            "disks are as their machines say; each machine's agent looks again before it writes\n",
        );
    }
    text.push_str(&format!(
        "plan: {written} to install, {erased} to erase and install, {stops} would stop\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, serial: &str, gib: u64, traces: &[&str]) -> wire::DiskSeen {
        wire::DiskSeen {
            name: name.into(),
            bytes: gib << 30,
            serial: Some(serial.into()),
            traces: traces.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    fn built_in() -> Inventory {
        Inventory::parse(Inventory::built_in()).unwrap()
    }

    fn words(disks: Vec<wire::DiskSeen>, change: impl FnOnce(&mut Disk)) -> (Fate, String) {
        let mut disk = built_in().nodes["node01"].disk.clone().unwrap();
        change(&mut disk);
        let hardware = wire::Hardware { disks, ..Default::default() };
        fate(&disk, Some(&hardware))
    }

    #[test]
    fn what_becomes_of_a_disk() {
        let ours = |traces: &[&str]| disk("vda", "PLASMA-DISK01", 16, traces);
        let other = disk("vdb", "X", 100, &["ext4"]);
        let nothing = |_: &mut Disk| {};
        let table = [
            (
                words(vec![ours(&[]), other.clone()], nothing),
                Fate::Written,
                "will install on vda PLASMA-DISK01 16.0 GiB, which is empty",
            ),
            (
                words(vec![ours(&["gpt", "plasma-claim"])], nothing),
                Fate::Written,
                "will install on vda PLASMA-DISK01 16.0 GiB if its claim is this node's; stops if it \
                 is another's",
            ),
            (
                words(vec![ours(&["gpt", "ext4"])], nothing),
                Fate::Stops,
                "stops: disk PLASMA-DISK01 holds foreign data (gpt, ext4); to erase it: \
                 disk.consentToErase = [ \"PLASMA-DISK01\" ]",
            ),
            (
                words(vec![ours(&["ext4"])], |d| d.consent_to_erase.push("PLASMA-DISK01".into())),
                Fate::Erased,
                "would erase disk PLASMA-DISK01 (foreign: ext4, consented)",
            ),
            (
                words(vec![other], nothing),
                Fate::Stops,
                "stops: no disk has serial PLASMA-DISK01; there: vdb X 100.0 GiB ext4",
            ),
            (
                words(vec![ours(&[]), disk("vdc", "PLASMA-DISK01", 16, &[])], nothing),
                Fate::Stops,
                "stops: 2 disks have serial PLASMA-DISK01: vda, vdc",
            ),
            (
                words(vec![disk("vda", "PLASMA-DISK01", 1, &[])], nothing),
                Fate::Stops,
                "stops: vda PLASMA-DISK01 1.0 GiB is smaller than minGiB = 8",
            ),
            (
                words(vec![ours(&["read-only"])], nothing),
                Fate::Stops,
                "stops: vda PLASMA-DISK01 16.0 GiB is read-only",
            ),
            (
                words(vec![ours(&["data of no known kind within 1 MiB of byte 0"])], nothing),
                Fate::Stops,
                "stops: disk PLASMA-DISK01 holds foreign data (data of no known kind within 1 MiB \
                 of byte 0); to erase it: disk.consentToErase = [ \"PLASMA-DISK01\" ]",
            ),
        ];
        for ((fate, words), expected, sentence) in table {
            assert_eq!((fate, words.as_str()), (expected, sentence));
        }
    }

    #[test]
    fn the_whole_plan() {
        let inventory = built_in();
        let explained = |decision: &str| wire::Explained {
            decision: decision.into(),
            reasons: vec!["it lives elsewhere".into()],
            ..Default::default()
        };
        let hardware = wire::Hardware {
            disks: vec![disk("vda", "PLASMA-DISK01", 16, &[])],
            ..Default::default()
        };
        let machine = wire::MachineSeen {
            mac: "52:54:00:20:00:11".into(),
            serial: Some("PLASMA-NODE01".into()),
            node: Some("node01".into()),
            // anybody's word: not what is judged by
            hardware: Some(wire::Hardware::default()),
            ..Default::default()
        };
        let stranger = wire::MachineSeen { mac: "52:54:00:00:00:01".into(), ..Default::default() };
        let mut status = wire::Status {
            cluster: "plasma".into(),
            nodes: inventory.nodes.keys().map(|n| (n.clone(), Default::default())).collect(),
            ..Default::default()
        };
        status.nodes.get_mut("node01").unwrap().hardware = Some(hardware);
        let explained = BTreeMap::from([
            ("node01".to_owned(), explained("install")),
            ("node02".to_owned(), explained("localdisk")),
            ("node03".to_owned(), explained("wait")),
        ]);
        let plan = make(&inventory, &status, &[machine, stranger], &explained);
        let expected = "\
NODE    MACHINE                          NEXT BOOT  WHAT HAPPENS
node01  PLASMA-NODE01 52:54:00:20:00:11  install    will install on vda PLASMA-DISK01 16.0 GiB, which is empty
node02  PLASMA-NODE02 (not seen)         localdisk  boots its own disk; no disk is erased
node03  PLASMA-NODE03 (not seen)         wait       waits, and asks again; no disk is erased
node03: waits because it lives elsewhere
52:54:00:00:00:01 (no serial): no node of the inventory, nothing is touched
disks are as their machines say; each machine's agent looks again before it writes
plan: 1 to install, 0 to erase and install, 0 would stop
";
        assert_eq!(super::table(&plan), expected);
    }
}
