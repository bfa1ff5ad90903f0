//! The same cluster on one machine: processes on addresses of 127.0.0.0/8.

use std::net::{IpAddr, Ipv4Addr};

use fault::{Fault, Kind};

use crate::{Inventory, Node, Role, codes};

impl Inventory {
    /// This cluster with its first `count` nodes as processes on 127.0.1.1, 127.0.1.2, … and the
    /// boot server on 127.0.0.1. The former comes first; nodes that the inventory lacks are added
    /// with all roles. MACs, serials, disks, gateway and name servers are dropped: nothing is
    /// installed.
    pub fn on_loopback(&self, count: usize) -> Result<Inventory, Fault> {
        if !(1..=254).contains(&count) {
            return Err(Fault::new(
                codes::BAD_COUNT,
                Kind::Invalid,
                format!("{count} nodes on one machine"),
                "use 1 to 254, and 1, 3 or 5 for a cluster that votes",
            ));
        }
        let former = self.cluster.former.as_str();
        let others = self.nodes.keys().map(String::as_str).filter(|n| *n != former);
        let mut names: Vec<String> =
            std::iter::once(former).chain(others).take(count).map(str::to_owned).collect();
        let mut next = 1;
        while names.len() < count {
            let name = format!("node{next:02}");
            if !names.contains(&name) {
                names.push(name);
            }
            next += 1;
        }
        let mut inventory = self.clone();
        inventory.cluster.bootserver.address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        inventory.cluster.gateway = None;
        inventory.cluster.dns = Vec::new();
        inventory.nodes = names
            .into_iter()
            .zip(1..=254u8)
            .map(|(name, last)| {
                let roles =
                    self.nodes.get(&name).map_or_else(|| Role::ALL.to_vec(), |n| n.roles.clone());
                let address = IpAddr::V4(Ipv4Addr::new(127, 0, 1, last));
                let node = Node {
                    roles,
                    address,
                    prefix_length: 8,
                    macs: Vec::new(),
                    serial: None,
                    disk: None,
                    process: true,
                };
                (name, node)
            })
            .collect();
        Ok(inventory)
    }
}
