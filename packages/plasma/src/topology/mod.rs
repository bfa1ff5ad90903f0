//! `plasma topology`: a picture of the cluster, from the inventory alone.

mod svg;
mod text;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use inventory::{Disk, Inventory, Node, Role};

use crate::home::Home;
use crate::print::Output;
use crate::{print, source};

pub(crate) fn topology(home: &Home, file: Option<&Path>, output: Output) -> anyhow::Result<()> {
    let inventory = source::inventory_or_built_in(home, file)?;
    let drawn = match output {
        Output::Svg => svg::draw(&inventory),
        other => print::render(other, &inventory, || text::draw(&inventory))?,
    };
    print::result(&drawn);
    Ok(())
}

/// The nodes by the network that they are on.
fn networks(inventory: &Inventory) -> BTreeMap<String, Vec<(&str, &Node)>> {
    let mut networks: BTreeMap<String, Vec<(&str, &Node)>> = BTreeMap::new();
    for (name, node) in &inventory.nodes {
        let network = network(node.address, node.prefix_length);
        networks.entry(network).or_default().push((name, node));
    }
    networks
}

/// `10.20.0.0/24`
fn network(address: IpAddr, prefix: u8) -> String {
    let masked = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::from((v4.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::from((v6.to_bits() & mask).to_be_bytes())
        }
    };
    format!("{masked}/{prefix}")
}

/// Whether the boot server is on this network.
fn has_bootserver(inventory: &Inventory, nodes: &[(&str, &Node)]) -> bool {
    let address = inventory.cluster.bootserver.address;
    let same = |node: &Node| {
        let prefix = node.prefix_length;
        node.address.is_ipv4() == address.is_ipv4()
            && network(node.address, prefix) == network(address, prefix)
    };
    nodes.iter().any(|(_, node)| same(node))
}

fn roles(node: &Node) -> String {
    node.roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(" ")
}

fn disk(disk: &Disk) -> String {
    let names: Vec<&str> = disk
        .members()
        .filter_map(|member| member.serial.as_deref().or(member.wwn.as_deref()))
        .collect();
    let most = disk.max_gib.map(|max| format!(" to {max}")).unwrap_or_default();
    format!("{} ({}, {}{most} GiB)", names.join(" + "), disk.layout.name(), disk.min_gib)
}

/// Who votes, and how many may fail.
fn quorum(inventory: &Inventory) -> String {
    let voters: Vec<&str> = inventory.with_role(Role::Control).map(|(name, _)| name).collect();
    let spare = voters.len().saturating_sub(1) / 2;
    let listed = match voters.len() {
        0..=9 => voters.join(", "),
        count => format!("{count} nodes"),
    };
    let verb = if voters.len() == 1 { "votes" } else { "vote" };
    format!("{listed} {verb}; any {} make the quorum, {spare} may fail", voters.len() / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_named_by_their_first_address() {
        let table = [
            ("10.20.0.11", 24, "10.20.0.0/24"),
            ("10.20.0.11", 32, "10.20.0.11/32"),
            ("10.20.0.11", 0, "0.0.0.0/0"),
            ("fd00::1:2", 64, "fd00::/64"),
        ];
        for (address, prefix, expected) in table {
            assert_eq!(network(address.parse().unwrap(), prefix), expected);
        }
    }
}
