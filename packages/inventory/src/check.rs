//! What must hold between the parts of an inventory.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fault::{Fault, Kind};

use crate::names::bare_wwn;
use crate::read::invalid;
use crate::{Disk, Inventory, Layout, Role, codes};

/// Past this each further voter slows every write and saves nothing.
const MOST_VOTERS: usize = 7;

pub(crate) fn check(inventory: &Inventory, faults: &mut Vec<Fault>) {
    former(inventory, faults);
    for (name, node) in &inventory.nodes {
        let path = format!("nodes.{name}");
        if node.process && node.disk.is_some() {
            faults.push(invalid(
                codes::BAD_DISK,
                format!("{path}.disk is given, but the node is a process"),
                format!("remove {path}.disk, or set {path}.process = false"),
            ));
        }
        if !node.process && node.disk.is_none() {
            faults.push(invalid(
                codes::BAD_DISK,
                format!("{path}.disk is missing"),
                "say on which disk to install, or set process = true",
            ));
        }
        if !node.process && node.macs.is_empty() {
            faults.push(invalid(
                codes::EMPTY,
                format!("{path}.macs is empty"),
                "give the MAC address of the card that boots",
            ));
        }
        if let Some(disk) = &node.disk {
            layout(&path, disk, faults);
            consent(&path, disk, faults);
        }
    }
    duplicates(inventory, faults);
}

fn former(inventory: &Inventory, faults: &mut Vec<Fault>) {
    let former = &inventory.cluster.former;
    let control: Vec<&str> = inventory.with_role(Role::Control).map(|(name, _)| name).collect();
    let hint = match control.as_slice() {
        [] => "give one node the role control and name it here".to_owned(),
        some => format!("name a control node: {}", some.join(", ")),
    };
    match inventory.nodes.get(former) {
        None => {
            let what = format!("cluster.former is {former:?}, which is none of the nodes");
            faults.push(invalid(codes::BAD_FORMER, what, hint));
        }
        Some(node) if !node.has(Role::Control) => {
            let what = format!("cluster.former is {former:?}, which has not the role control");
            faults.push(invalid(codes::BAD_FORMER, what, hint));
        }
        Some(_) => {}
    }
}

fn layout(path: &str, disk: &Disk, faults: &mut Vec<Fault>) {
    if disk.layout == Layout::Mirror && disk.mirror.is_none() {
        faults.push(invalid(
            codes::BAD_DISK,
            format!("{path}.disk.mirror is missing, but the layout is a mirror"),
            "say which the second disk is, as in match",
        ));
    }
    if disk.layout != Layout::Mirror && disk.mirror.is_some() {
        faults.push(invalid(
            codes::BAD_DISK,
            format!("{path}.disk.mirror is given, but the layout is {}", disk.layout.name()),
            format!("remove it, or set {path}.disk.layout = \"mirror\""),
        ));
    }
    if let Some(max) = disk.max_gib.filter(|max| *max < disk.min_gib) {
        faults.push(invalid(
            codes::OUT_OF_RANGE,
            format!("{path}.disk.maxGiB is {max}, less than minGiB, which is {}", disk.min_gib),
            "no disk fits both; raise maxGiB or lower minGiB",
        ));
    }
}

/// A consent for another disk than those that are meant would be a trap.
fn consent(path: &str, disk: &Disk, faults: &mut Vec<Fault>) {
    let serials: Option<Vec<&str>> = disk.members().map(|m| m.serial.as_deref()).collect();
    // a disk that is known by its WWN alone may have any serial
    let Some(serials) = serials else { return };
    let meant: Vec<String> = serials.iter().map(|s| format!("{s:?}")).collect();
    for (i, consent) in disk.consent_to_erase.iter().enumerate() {
        if !serials.contains(&consent.as_str()) {
            faults.push(invalid(
                codes::BAD_DISK,
                format!(
                    "{path}.disk.consentToErase[{i}] is {consent:?}, another disk than {}",
                    meant.join(" and ")
                ),
                "name only the serial of the disk that is matched",
            ));
        }
    }
}

fn duplicates(inventory: &Inventory, faults: &mut Vec<Fault>) {
    let mut seen = Seen { places: BTreeMap::new(), faults };
    seen.add(
        "address",
        canonical(inventory.cluster.bootserver.address),
        "cluster.bootserver.address".into(),
    );
    // the boot server may well be the router
    let gateway = inventory.cluster.gateway.map(canonical);
    if let Some(gateway) = gateway.filter(|g| *g != canonical(inventory.cluster.bootserver.address))
    {
        seen.add("address", gateway, "cluster.gateway".into());
    }
    for (i, operator) in inventory.operators.iter().enumerate() {
        seen.add("operator", &operator.name, format!("operators[{i}].name"));
    }
    for (name, node) in &inventory.nodes {
        seen.add("address", canonical(node.address), format!("nodes.{name}.address"));
        for (i, mac) in node.macs.iter().enumerate() {
            seen.add("MAC address", mac, format!("nodes.{name}.macs[{i}]"));
        }
        if let Some(serial) = &node.serial {
            seen.add("serial", serial, format!("nodes.{name}.serial"));
        }
        let Some(disk) = &node.disk else { continue };
        for (key, member) in ["match", "mirror"].into_iter().zip(disk.members()) {
            if let Some(serial) = &member.serial {
                seen.add("disk serial", serial, format!("nodes.{name}.disk.{key}.serial"));
            }
            if let Some(wwn) = &member.wwn {
                // spellings of one name are one disk
                seen.add("disk wwn", bare_wwn(wwn), format!("nodes.{name}.disk.{key}.wwn"));
            }
        }
    }
}

/// `::ffff:10.0.0.1` and `10.0.0.1` are one host.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

struct Seen<'a> {
    places: BTreeMap<(&'static str, String), String>,
    faults: &'a mut Vec<Fault>,
}

impl Seen<'_> {
    fn add(&mut self, kind: &'static str, value: impl ToString, path: String) {
        let value = value.to_string();
        match self.places.get(&(kind, value.clone())) {
            None => drop(self.places.insert((kind, value), path)),
            Some(first) => self.faults.push(invalid(
                codes::DUPLICATE,
                format!("{path} is {value:?}, the same {kind} as {first}"),
                "give each its own",
            )),
        }
    }
}

pub(crate) fn warnings(inventory: &Inventory) -> Vec<Fault> {
    let mut warnings = Vec::new();
    let mut warn = |code, what: String, hint: String| {
        warnings.push(Fault::new(code, Kind::Precondition, what, hint));
    };
    let voters = inventory.with_role(Role::Control).count();
    if voters > 0 && voters.is_multiple_of(2) {
        warn(
            codes::EVEN_VOTERS,
            format!(
                "{voters} control nodes vote, which survives {} failed, as {} would",
                voters / 2 - 1,
                voters - 1
            ),
            format!("use {} or {}", voters - 1, voters + 1),
        );
    }
    if voters > MOST_VOTERS {
        warn(
            codes::MANY_VOTERS,
            format!("{voters} control nodes vote, and each slows every write"),
            "use 3 or 5 control nodes and give the others data or compute".to_owned(),
        );
    }
    let machines = inventory.nodes.iter().filter(|(_, n)| !n.process);
    if machines.clone().next().is_some()
        && inventory.operators.iter().all(|o| o.ssh_keys.is_empty())
    {
        warn(
            codes::NO_OPERATORS,
            "no operator has an SSH key, so nobody can log in to a node".to_owned(),
            "add the line of your id_ed25519.pub to operators in nodes/cluster.nix".to_owned(),
        );
    }
    let bootserver = inventory.cluster.bootserver.address;
    for (name, node) in machines {
        if !same_network(node.address, bootserver, node.prefix_length) {
            warn(
                codes::OTHER_NETWORK,
                format!(
                    "nodes.{name}.address {}/{} is on another network than the boot server {bootserver}",
                    node.address, node.prefix_length
                ),
                "netboot needs one network; check address and prefixLength".to_owned(),
            );
        }
        let gateway = inventory.cluster.gateway;
        if let Some(gateway) = gateway
            && !same_network(node.address, gateway, node.prefix_length)
        {
            warn(
                codes::FAR_GATEWAY,
                format!(
                    "nodes.{name}.address {}/{} is on another network than the gateway {gateway}",
                    node.address, node.prefix_length
                ),
                "a router is reached on its own network; check cluster.gateway".to_owned(),
            );
        }
    }
    warnings
}

fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    let (a, b, bits) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let host = bits - u32::from(prefix).min(bits);
    a.checked_shr(host).unwrap_or(0) == b.checked_shr(host).unwrap_or(0)
}
