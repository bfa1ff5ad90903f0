//! Leases that stand in the way of a reservation.
//!
//! dnsmasq keeps a reserved address from its node as long as another card has a lease of it: a
//! machine that was replaced would block its successor until the lease ends.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use inventory::{Inventory, Mac};

use super::config::machines;

/// The lease file without the leases of reserved addresses that other cards hold, and without
/// those that a node's card holds of an address not its own; `None` when there are none of them.
pub(super) fn prune(leases: &str, inventory: &Inventory) -> Option<String> {
    let mut owners: BTreeMap<Ipv4Addr, &[Mac]> = BTreeMap::new();
    let mut addresses: BTreeMap<Mac, Ipv4Addr> = BTreeMap::new();
    for (_, node, address) in machines(inventory) {
        owners.insert(address, &node.macs);
        addresses.extend(node.macs.iter().map(|mac| (*mac, address)));
    }
    // a line is: expiry, MAC, address, name, client id
    let stays = |line: &&str| {
        let mut words = line.split(' ').skip(1);
        let (mac, address) = (words.next().and_then(Mac::parse), words.next());
        let Some(address) = address.and_then(|a| a.parse::<Ipv4Addr>().ok()) else { return true };
        let owned = owners.get(&address).is_none_or(|macs| mac.is_some_and(|m| macs.contains(&m)));
        let own = mac.and_then(|m| addresses.get(&m)).is_none_or(|own| *own == address);
        owned && own
    };
    let kept: Vec<&str> = leases.lines().filter(stays).collect();
    (kept.len() < leases.lines().count())
        .then(|| kept.into_iter().flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_blocks_a_reservation_goes() {
        let inventory = Inventory::parse(Inventory::built_in()).unwrap();
        let own = "1700000000 52:54:00:20:00:11 10.20.0.11 node01 *\n";
        let unknown = "1700000000 52:54:00:99:00:11 10.20.0.101 * *\n";
        let v6 = "duid 00:01:00:01\n";
        let all_good = format!("{own}{unknown}{v6}");
        assert_eq!(prune(&all_good, &inventory), None);
        assert_eq!(prune("", &inventory), None);
        let old_machine = "1700000000 52:54:00:99:00:12 10.20.0.12 * *\n";
        let old_address = "1700000000 52:54:00:20:00:13 10.20.0.130 * *\n";
        let text = format!("{own}{old_machine}{unknown}{old_address}{v6}");
        assert_eq!(prune(&text, &inventory), Some(all_good));
    }
}
