//! Which node of the inventory is this machine?

use inventory::{Inventory, Mac, Node};

use crate::wire::Identify;

/// More cards than any machine has.
const MAX_CARDS: usize = 256;

/// What a machine says of itself: to its boot loader one card, to its agent all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asking {
    /// Its network cards, as far as known.
    pub macs: Vec<Mac>,
    /// The serial number that its firmware reports.
    pub serial: Option<String>,
    /// The UUID that its firmware reports.
    pub uuid: Option<String>,
    /// For what its boot loader was built; empty when it does not say.
    pub arch: String,
}

impl Asking {
    /// As an agent says it.
    pub fn of(identify: &Identify, uuid: Option<&str>) -> Asking {
        let macs = identify.macs.iter().take(MAX_CARDS);
        Asking {
            macs: macs.filter_map(|mac| Mac::parse(mac)).collect(),
            serial: some(identify.serial.as_deref()),
            uuid: some(uuid),
            arch: String::new(),
        }
    }

    /// Its cards, for people.
    pub fn cards(&self) -> String {
        if self.macs.is_empty() {
            return "(none)".to_owned();
        }
        let cards: Vec<String> = self.macs.iter().map(ToString::to_string).collect();
        cards.join(", ")
    }

    fn serial(&self) -> String {
        self.serial.as_ref().map_or("(none)".to_owned(), |serial| format!("{serial:?}"))
    }
}

/// Firmware pads, and says nothing in several ways.
fn some(text: Option<&str>) -> Option<String> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Which node a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// This one.
    Node(String),
    /// It looks like this one, and something speaks against it.
    Doubtful {
        /// The node.
        node: String,
        /// What speaks against it.
        why: String,
    },
    /// None, or more than one.
    Nobody(String),
}

/// The node whose serial number or network cards these are. A serial number decides before the
/// cards do; two answers are none. What a node's own line in the inventory contradicts is no fit:
/// it would be refused at its enrolment, after its disk was erased.
pub fn find(inventory: &Inventory, asking: &Asking) -> Fit {
    let machines = || inventory.nodes.iter().filter(|(_, node)| !node.process);
    let names = |test: &dyn Fn(&Node) -> bool| -> Vec<&str> {
        machines().filter(|(_, node)| test(node)).map(|(name, _)| name.as_str()).collect()
    };
    let by_serial = names(&|node| node.serial.is_some() && node.serial == asking.serial);
    let by_card = names(&|node| node.macs.iter().any(|mac| asking.macs.contains(mac)));
    match (by_serial.as_slice(), by_card.as_slice()) {
        ([], []) => Fit::Nobody(format!(
            "no node has its serial {} nor one of its cards {}",
            asking.serial(),
            asking.cards()
        )),
        ([one], cards) if cards == [*one] => Fit::Node((*one).to_owned()),
        ([one], []) => Fit::Doubtful {
            node: (*one).to_owned(),
            why: format!(
                "it has the serial of {one} but none of its cards ({} not in nodes.{one}.macs): \
                 a second machine with the same serial, or another card",
                asking.cards()
            ),
        },
        ([], [one]) => by_card_alone(one, inventory.nodes.get(*one), asking),
        (serials, cards) => Fit::Nobody(format!(
            "its serial {} fits {serials:?} and its cards {} fit {cards:?}: that is not one node",
            asking.serial(),
            asking.cards()
        )),
    }
}

fn by_card_alone(name: &str, node: Option<&Node>, asking: &Asking) -> Fit {
    match (node.and_then(|node| node.serial.as_ref()), &asking.serial) {
        // strangers read this: it never tells the serial that would fit
        (Some(_), Some(has)) => Fit::Doubtful {
            node: name.to_owned(),
            why: format!(
                "it has a card of {name} and the serial {has:?}, which is not nodes.{name}.serial"
            ),
        },
        // some boot loaders see no serial; the agent, which does, is asked again
        _ => Fit::Node(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(serial: Option<&str>, macs: &[&str]) -> Fit {
        let inventory = Inventory::parse(Inventory::built_in()).unwrap();
        let macs = macs.iter().map(|mac| Mac::parse(mac).unwrap()).collect();
        let serial = serial.map(str::to_owned);
        find(&inventory, &Asking { macs, serial, ..Asking::default() })
    }

    #[test]
    fn serial_and_card_name_the_node_and_two_answers_are_none() {
        let (s1, s9) = (Some("PLASMA-NODE01"), Some("FOREIGN"));
        let (m1, m2, m9) = ("52:54:00:20:00:11", "52:54:00:20:00:12", "52:54:00:99:00:99");
        let node = |name: &str| Fit::Node(name.to_owned());
        for (serial, macs, wanted) in [
            (s1, vec![m1], node("node01")),
            (s1, vec![m9, m1], node("node01")),
            (None, vec![m1], node("node01")),
            (None, vec![m2], node("node02")),
        ] {
            assert_eq!(look(serial, &macs), wanted, "{serial:?} {macs:?}");
        }
        for (serial, macs) in [
            (None, vec![]),
            (s9, vec![m9]),
            (None, vec![m9]),
            (s1, vec![m2]),
            (s1, vec![m1, m2]),
            (None, vec![m1, m2]),
        ] {
            assert!(matches!(look(serial, &macs), Fit::Nobody(_)), "{serial:?} {macs:?}");
        }
        for (serial, macs) in [(s1, vec![]), (s1, vec![m9]), (s9, vec![m1])] {
            let fit = look(serial, &macs);
            assert!(
                matches!(&fit, Fit::Doubtful { node, .. } if node == "node01"),
                "{serial:?} {macs:?}: {fit:?}"
            );
        }
    }

    #[test]
    fn processes_are_no_machines() {
        let inventory = Inventory::parse(Inventory::built_in()).unwrap().on_loopback(3).unwrap();
        let asking = Asking {
            macs: vec![Mac::parse("52:54:00:20:00:11").unwrap()],
            serial: Some("PLASMA-NODE01".to_owned()),
            ..Asking::default()
        };
        assert!(matches!(find(&inventory, &asking), Fit::Nobody(_)));
    }
}
