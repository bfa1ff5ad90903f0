//! Step identify: which node of the inventory is this machine?

use std::fs;

use bootserver::wire::Identify;
use fault::{Fault, Kind};
use inventory::Inventory;

use crate::{Mode, Settings, codes};

/// What the machine says of itself.
pub(crate) fn seen(settings: &Settings) -> Identify {
    if settings.mode == Mode::Process {
        return Identify { serial: None, macs: Vec::new(), process: true };
    }
    Identify { serial: serial(), macs: macs(), process: false }
}

fn serial() -> Option<String> {
    let text = fs::read_to_string("/sys/class/dmi/id/product_serial").ok()?;
    let serial = text.trim();
    (!serial.is_empty()).then(|| serial.to_owned())
}

/// Addresses of real network cards: virtual ones have no device behind them.
fn macs() -> Vec<String> {
    let Ok(cards) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut macs: Vec<String> = cards
        .filter_map(Result::ok)
        .filter(|card| card.path().join("device").exists())
        .filter_map(|card| fs::read_to_string(card.path().join("address")).ok())
        .map(|text| text.trim().to_lowercase())
        .collect();
    macs.sort();
    macs
}

/// The node whose serial number or network cards these are. A serial number decides before the
/// cards do; two answers are none.
pub(crate) fn find(inventory: &Inventory, seen: &Identify) -> Result<String, Fault> {
    let by_serial: Vec<&str> = inventory
        .nodes
        .iter()
        .filter(|(_, node)| node.serial.is_some() && node.serial == seen.serial)
        .map(|(name, _)| name.as_str())
        .collect();
    let by_mac: Vec<&str> = inventory
        .nodes
        .iter()
        .filter(|(_, node)| node.macs.iter().any(|mac| seen.macs.contains(&mac.to_string())))
        .map(|(name, _)| name.as_str())
        .collect();
    match (by_serial.as_slice(), by_mac.as_slice()) {
        ([one], []) | ([], [one]) => Ok((*one).to_owned()),
        ([one], [same]) if one == same => Ok((*one).to_owned()),
        (serials, cards) => Err(Fault::new(
            codes::UNKNOWN,
            // the inventory may be mended while the machine waits
            Kind::Unavailable,
            format!(
                "serial {:?} fits {serials:?} and network cards {:?} fit {cards:?}: that is not one node",
                seen.serial, seen.macs
            ),
            "write this machine's serial number or a MAC into exactly one node of nodes/cluster.nix",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(serial: Option<&str>, macs: &[&str]) -> Result<String, Fault> {
        let inventory = Inventory::parse(Inventory::built_in()).expect("built in");
        let macs = macs.iter().map(|&mac| mac.to_owned()).collect();
        find(&inventory, &Identify { serial: serial.map(Into::into), macs, process: false })
    }

    #[test]
    fn serial_or_card_names_the_node_and_two_answers_are_none() {
        let inventory = Inventory::parse(Inventory::built_in()).expect("built in");
        let (first, second) = (&inventory.nodes["node01"], &inventory.nodes["node02"]);
        let (mac1, mac2) = (first.macs[0].to_string(), second.macs[0].to_string());
        assert_eq!(look(first.serial.as_deref(), &[]).as_deref(), Ok("node01"));
        assert_eq!(look(None, &[&mac2]).as_deref(), Ok("node02"));
        assert_eq!(look(first.serial.as_deref(), &[&mac1]).as_deref(), Ok("node01"));
        assert_eq!(look(None, &[]).map_err(|fault| fault.code), Err(codes::UNKNOWN));
        assert_eq!(look(None, &[&mac1, &mac2]).map_err(|fault| fault.code), Err(codes::UNKNOWN));
        assert_eq!(
            look(first.serial.as_deref(), &[&mac2]).map_err(|fault| fault.code),
            Err(codes::UNKNOWN)
        );
    }
}
