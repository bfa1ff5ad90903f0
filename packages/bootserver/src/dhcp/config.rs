//! dnsmasq's configuration as a pure function of settings and inventory.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use fault::Fault;
use inventory::{Inventory, Node};

use super::settings::{DhcpSettings, Mode, bad};
use super::stage::{BIOS_LOADER, UEFI_LOADER};
use crate::codes;

/// What dnsmasq reads: one option a line. Paths are not in it; they stand on the command line.
///
/// Nothing that a person wrote gets in except through a type that has no line break and no comma:
/// addresses, MACs, DNS labels, checked names.
pub fn config(
    settings: &DhcpSettings,
    inventory: &Inventory,
    boot_port: u16,
) -> Result<String, Fault> {
    settings.check()?;
    let server = boot_server(inventory)?;
    let networks = networks(inventory);
    let mut text = String::from("# made by the boot server from its settings and the inventory\n");
    let mut line = |args: std::fmt::Arguments<'_>| {
        // writing into a string does not fail
        let _ = text.write_fmt(args);
        text.push('\n');
    };
    // no DNS, and nothing of the host's own files
    line(format_args!("port=0\nno-resolv\nno-hosts"));
    line(format_args!("interface={}\nexcept-interface=lo\nbind-interfaces", settings.interface));
    line(format_args!("user={}", settings.user));
    if !settings.group.is_empty() {
        line(format_args!("group={}", settings.group));
    }
    line(format_args!("enable-tftp"));
    // who asks: firmware by its architecture, then iPXE, which asks once more
    line(format_args!("dhcp-match=set:bios,option:client-arch,0"));
    line(format_args!("dhcp-match=set:uefi,option:client-arch,7"));
    line(format_args!("dhcp-match=set:uefi,option:client-arch,9"));
    line(format_args!("dhcp-match=set:http,option:client-arch,16"));
    line(format_args!("dhcp-userclass=set:ipxe,iPXE\ndhcp-match=set:ipxe,175"));
    let base = format!("http://{server}:{boot_port}/boot");
    line(format_args!("dhcp-boot=tag:ipxe,{base}/autoexec.ipxe,,{server}"));
    line(format_args!("dhcp-boot=tag:http,tag:!ipxe,{base}/efi/{UEFI_LOADER},,{server}"));
    line(format_args!("dhcp-boot=tag:bios,tag:!ipxe,{BIOS_LOADER},,{server}"));
    match settings.mode {
        Mode::Off => {}
        Mode::Full => {
            line(format_args!("dhcp-boot=tag:uefi,tag:!ipxe,{UEFI_LOADER},,{server}"));
            // firmware ignores an offer that does not echo the class
            line(format_args!("dhcp-option-force=tag:http,tag:!ipxe,60,HTTPClient"));
            // iPXE need not wait for a proxy's offer
            line(format_args!("dhcp-option=tag:ipxe,encap:175,176,1b"));
            for leases in full(settings, inventory, server, &networks)? {
                line(format_args!("{leases}"));
            }
        }
        Mode::Proxy => {
            if networks.is_empty() {
                return Err(no_network());
            }
            for network in &networks {
                line(format_args!("dhcp-range={},proxy,{}", network.address, network.mask()));
            }
            // HTTP boot's class counts as a PXE client's, or it would get no answer
            line(format_args!("dhcp-pxe-vendor=PXEClient,HTTPClient"));
            // UEFI asks a proxy once more, on port 4011; only a service is answered there
            for arch in ["BC_EFI", "X86-64_EFI"] {
                line(format_args!(
                    "pxe-service=tag:!ipxe,{arch},PlasmaCloud,{UEFI_LOADER},{server}"
                ));
            }
        }
    }
    Ok(text)
}

/// The lines of full mode: networks, options, reservations.
fn full(
    settings: &DhcpSettings,
    inventory: &Inventory,
    server: Ipv4Addr,
    networks: &BTreeSet<Network>,
) -> Result<Vec<String>, Fault> {
    let lease = settings.lease_seconds;
    let mut lines = vec![
        "dhcp-authoritative".to_owned(),
        // firmware, iPXE, installer and system name themselves differently; the card is the same
        "dhcp-ignore-clid".to_owned(),
    ];
    if let Some(range) = settings.range {
        range_fits(range, inventory, server, networks)?;
    }
    for network in networks {
        lines.push(match settings.range {
            Some([first, last]) if network.contains(first) => {
                format!("dhcp-range={first},{last},{},{lease}", network.mask())
            }
            _ => format!("dhcp-range={},static,{},{lease}", network.address, network.mask()),
        });
    }
    let gateway = settings.gateway.or_else(|| inventory.cluster.gateway.and_then(v4));
    let dns: Vec<Ipv4Addr> = match settings.dns.as_slice() {
        [] => inventory.cluster.dns.iter().copied().filter_map(v4).collect(),
        given => given.to_vec(),
    };
    // an empty option is not sent; without the line dnsmasq would name itself
    let gateway = gateway.map(|a| format!(",{a}")).unwrap_or_default();
    let dns: String = dns.iter().map(|a| format!(",{a}")).collect();
    lines.push(format!("dhcp-option=option:router{gateway}"));
    lines.push(format!("dhcp-option=option:dns-server{dns}"));
    for (name, node, address) in machines(inventory) {
        let macs: Vec<String> = node.macs.iter().map(ToString::to_string).collect();
        let name = if is_word_of_dnsmasq(name) { String::new() } else { format!(",{name}") };
        lines.push(format!("dhcp-host={},{address}{name},{lease}", macs.join(",")));
    }
    Ok(lines)
}

/// A label that would be read as an order or a lease time in a reservation; such a node is not told
/// its name by DHCP, which nothing relies on.
fn is_word_of_dnsmasq(name: &str) -> bool {
    let number = name.strip_suffix(['w', 'd', 'h', 'm', 's']).unwrap_or(name);
    matches!(name, "ignore" | "infinite") || number.bytes().all(|b| b.is_ascii_digit())
}

fn range_fits(
    [first, last]: [Ipv4Addr; 2],
    inventory: &Inventory,
    server: Ipv4Addr,
    networks: &BTreeSet<Network>,
) -> Result<(), Fault> {
    if networks.is_empty() {
        return Err(no_network());
    }
    let whole = |n: &&Network| n.contains(first) && n.contains(last);
    let Some(network) = networks.iter().find(whole) else {
        let known: Vec<String> =
            networks.iter().map(|n| format!("{}/{}", n.address, n.prefix)).collect();
        return Err(bad(
            codes::DHCP_RANGE,
            format!("dhcp.range {first} to {last} is in no network of the nodes"),
            format!("choose it inside {}", known.join(" or ")),
        ));
    };
    let inside = |a: Ipv4Addr| (first..=last).contains(&a);
    let mut taken = machines(inventory)
        .map(|(name, _, address)| (format!("{name}'s address"), address))
        .chain([("the boot server's address".to_owned(), server)])
        .chain(network.edges().map(|address| ("which no machine may have".to_owned(), address)));
    match taken.find(|(_, address)| inside(*address)) {
        None => Ok(()),
        Some((whose, address)) => Err(bad(
            codes::DHCP_RANGE,
            format!("dhcp.range {first} to {last} holds {address}, {whose}"),
            "choose a range of addresses that nobody has",
        )),
    }
}

fn no_network() -> Fault {
    bad(
        codes::DHCP_NETWORK,
        "the inventory has no machine with an IPv4 address, so no network is known".to_owned(),
        "add the machines, or set dhcp.mode = \"off\"",
    )
}

fn boot_server(inventory: &Inventory) -> Result<Ipv4Addr, Fault> {
    let address = inventory.cluster.bootserver.address;
    v4(address).ok_or_else(|| {
        bad(
            codes::DHCP_NETWORK,
            format!("cluster.bootserver.address is {address}; machines boot over IPv4"),
            "give the boot server an IPv4 address, or set dhcp.mode = \"off\"",
        )
    })
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// The nodes that boot from the network and have an IPv4 address.
pub(super) fn machines(inventory: &Inventory) -> impl Iterator<Item = (&str, &Node, Ipv4Addr)> {
    let machine = |n: &&Node| !n.process && !n.macs.is_empty();
    inventory.nodes.iter().filter_map(move |(name, node)| {
        Some(node).filter(machine).and_then(|n| Some((name.as_str(), n, v4(n.address)?)))
    })
}

/// A network of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Network {
    address: Ipv4Addr,
    prefix: u8,
}

impl Network {
    fn of(address: Ipv4Addr, prefix: u8) -> Network {
        let network = Network { address, prefix };
        Network { address: Ipv4Addr::from_bits(address.to_bits() & network.bits()), prefix }
    }

    fn bits(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }

    fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.bits())
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.bits() == self.address.to_bits()
    }

    /// The addresses that no host may have.
    fn edges(self) -> [Ipv4Addr; 2] {
        [self.address, Ipv4Addr::from_bits(self.address.to_bits() | !self.bits())]
    }
}

fn networks(inventory: &Inventory) -> BTreeSet<Network> {
    machines(inventory).map(|(_, node, a)| Network::of(a, node.prefix_length)).collect()
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
