//! The picture for a terminal.

use std::fmt::Write as _;

use inventory::Inventory;

use super::{disk, has_bootserver, networks, quorum, roles};

pub(super) fn draw(inventory: &Inventory) -> String {
    let cluster = &inventory.cluster;
    let mut out = String::new();
    // writing to a String cannot fail
    let _ = writeln!(out, "cluster {} ({})\n", cluster.name, cluster.domain);
    let address = cluster.bootserver.address;
    let widest = inventory.nodes.keys().map(String::len).max().unwrap_or(0).max(11);
    let mut has_drawn = false;
    for (network, nodes) in networks(inventory) {
        let _ = writeln!(out, "══╤══ {network}");
        if has_bootserver(inventory, &nodes) {
            has_drawn = true;
            let _ = writeln!(out, "  ├── {:<widest$}  {address}", "boot server");
        }
        for (index, (name, node)) in nodes.iter().enumerate() {
            let last = index + 1 == nodes.len();
            let (branch, stem) = if last { ("╰", " ") } else { ("├", "│") };
            let former = if **name == *cluster.former { "   forms the cluster" } else { "" };
            let _ = writeln!(out, "  │");
            let _ = writeln!(
                out,
                "  {branch}─┬ {name:<widest$}  {:<15}  {}{former}",
                node.address.to_string(),
                roles(node)
            );
            let mut parts = Vec::new();
            if node.process {
                parts.push("processes, no machine".to_owned());
            }
            parts.extend(node.macs.iter().map(|mac| format!("card    {mac}")));
            parts.extend(node.disk.as_ref().map(|d| format!("disk    {}", disk(d))));
            parts.extend(node.serial.as_ref().map(|serial| format!("serial  {serial}")));
            for (index, part) in parts.iter().enumerate() {
                let corner = if index + 1 == parts.len() { "╰" } else { "├" };
                let _ = writeln!(out, "  {stem} {corner}─ {part}");
            }
        }
        out.push('\n');
    }
    if !has_drawn {
        let _ = writeln!(out, "boot server {address}: on none of these networks\n");
    }
    let _ = writeln!(out, "Chainfire: {}", quorum(inventory));
    out
}
