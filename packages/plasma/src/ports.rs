//! The sockets that a cloud on this machine needs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use fault::{Fault, Kind};
use inventory::{Inventory, Role};

use crate::codes;
use crate::process::holder;

/// Where the boot server enrols.
pub(crate) const ENROL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);
/// Where the boot server's health is read.
pub(crate) const OPS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9080);

/// All that this inventory needs.
pub(crate) fn needed(inventory: &Inventory) -> Vec<SocketAddr> {
    let nodes = inventory.with_role(Role::Control).flat_map(|(_, node)| node.chainfire_sockets());
    [ENROL, OPS].into_iter().chain(nodes).collect()
}

/// Each socket that somebody else has, and who.
pub(crate) fn check(sockets: &[SocketAddr]) -> Vec<Fault> {
    sockets.iter().filter_map(|socket| check_one(*socket)).collect()
}

fn check_one(socket: SocketAddr) -> Option<Fault> {
    let error = TcpListener::bind(socket).err()?;
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return Some(Fault::new(
            codes::PORT_IN_USE,
            Kind::Unavailable,
            format!("{socket} cannot be listened on: {error}"),
            "the cloud needs the addresses of 127.0.0.0/8 and ports above 1023",
        ));
    }
    let (by, hint) = match holder(socket) {
        Some(process) => (
            format!(" by {} (pid {})", process.name(), process.pid),
            format!("stop it: kill {}", process.pid),
        ),
        None => {
            let port = socket.port();
            (String::new(), format!("see who has it: ss -ltnp 'sport = :{port}' (as root)"))
        }
    };
    Some(Fault::new(codes::PORT_IN_USE, Kind::Unavailable, format!("{socket} is in use{by}"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let faults = check(&[taken]);
        assert_eq!(faults.len(), 1);
        let me = format!("(pid {})", std::process::id());
        assert!(faults[0].what.contains(&me), "{}", faults[0]);
        drop(listener);
        assert!(check(&[taken]).is_empty());
    }

    #[test]
    fn three_nodes_need_eleven_sockets() {
        let inventory = Inventory::parse(Inventory::built_in()).unwrap();
        let needed = needed(&inventory.on_loopback(3).unwrap());
        assert_eq!(needed.len(), 11);
        assert!(needed.contains(&"127.0.1.3:9379".parse().unwrap()));
    }
}
