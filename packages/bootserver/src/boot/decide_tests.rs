use super::*;
use crate::wire::{Identify, NodeOrder};

const UUID: &str = "5c0e0f0e-0000-4000-8000-000000000011";
const M1: &str = "52:54:00:20:00:11";
const M2: &str = "52:54:00:20:00:12";
const OTHER: &str = "52:54:00:99:00:99";

/// The world of one row: node01 as the row says, everything else fresh.
#[derive(Clone, Copy, Default)]
struct Row {
    enrolled: bool,
    order: Option<NodeOrder>,
    known: bool,
    no_images: bool,
    agent: bool,
}

fn world(row: Row, mac: &str, serial: Option<&str>, uuid: Option<&str>, arch: &str) -> Choice {
    let inventory = Inventory::parse(Inventory::built_in()).unwrap();
    let mut registry = Registry::default();
    registry.ensure_installs(&inventory);
    if row.enrolled {
        enroll(&mut registry, &inventory, "node01");
    }
    if let Some(order) = row.order {
        registry.order(&inventory, "node01", order, false).unwrap();
    }
    let mut known = BTreeMap::new();
    if row.known {
        let macs = [M1, OTHER].map(|mac| Mac::parse(mac).unwrap()).to_vec();
        known.insert("node01".to_owned(), Known { macs, uuid: Some(UUID.to_uppercase()) });
    }
    let facts = Facts {
        inventory: &inventory,
        registry: &registry,
        known: &known,
        no_images: row.no_images.then_some("there is no manifest"),
        moment: if row.agent { Moment::Agent { rescue: false } } else { Moment::Boot },
    };
    let asking = Asking {
        macs: Mac::parse(mac).into_iter().collect(),
        serial: serial.map(str::to_owned),
        uuid: uuid.map(str::to_owned),
        arch: arch.to_owned(),
    };
    decide(&facts, &asking)
}

pub(crate) fn enroll(registry: &mut Registry, inventory: &Inventory, node: &str) {
    let now = std::time::SystemTime::now();
    let hour = std::time::Duration::from_secs(3600);
    let minted = registry.mint(inventory, node, hour, now).unwrap();
    let line = &inventory.nodes[node];
    let identify = Identify {
        serial: line.serial.clone(),
        macs: line.macs.iter().map(ToString::to_string).collect(),
        process: line.process,
    };
    let asked = crate::registry::Enrolling {
        node,
        token: &minted.token,
        public_key: "key",
        identify: &identify,
        host_key: None,
        install_id: None,
    };
    registry.enroll(inventory, &asked, now).unwrap();
}

/// What it shows, the world, then what the machine says: card, serial, UUID, architecture.
type Line = (
    &'static str,
    Row,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
    &'static str,
    Decision,
);

#[test]
fn what_a_machine_boots() {
    let s1 = Some("PLASMA-NODE01");
    let (fresh, in_use) = (Row::default(), Row { enrolled: true, ..Row::default() });
    let ordered = |order| Row { order: Some(order), ..in_use };
    use Decision as D;
    let table: [Line; 30] = [
        ("new", fresh, M1, s1, None, "", D::Install),
        ("new, no serial seen", fresh, M1, None, None, "", D::Install),
        ("new, BIOS loader", fresh, M1, s1, None, "i386", D::Install),
        ("new, UEFI loader", fresh, M1, s1, None, "x86_64", D::Install),
        ("new, another architecture", fresh, M1, s1, None, "arm64", D::Wait),
        ("new, no images", Row { no_images: true, ..fresh }, M1, s1, None, "", D::Wait),
        ("new, asks again as agent", Row { agent: true, ..fresh }, M1, s1, None, "", D::Install),
        ("installed", in_use, M1, s1, None, "", D::LocalDisk),
        ("installed, no serial seen", in_use, M1, None, None, "", D::LocalDisk),
        ("installed, no images", Row { no_images: true, ..in_use }, M1, s1, None, "", D::LocalDisk),
        ("installed, odd loader", in_use, M1, s1, None, "arm64", D::LocalDisk),
        ("installed, agent", Row { agent: true, ..in_use }, M1, s1, None, "", D::LocalDisk),
        ("wiped", ordered(NodeOrder::Install), M1, s1, None, "", D::Install),
        ("replaced", ordered(NodeOrder::Replace), M1, s1, None, "", D::Install),
        ("rescue", ordered(NodeOrder::Rescue), M1, s1, None, "", D::Rescue),
        (
            "rescue, before an install",
            Row { order: Some(NodeOrder::Rescue), ..fresh },
            M1,
            s1,
            None,
            "",
            D::Rescue,
        ),
        (
            "rescue, no images",
            Row { no_images: true, ..ordered(NodeOrder::Rescue) },
            M1,
            s1,
            None,
            "",
            D::Wait,
        ),
        (
            "rescue, but the system from the disk asks",
            Row { agent: true, ..ordered(NodeOrder::Rescue) },
            M1,
            s1,
            None,
            "",
            D::LocalDisk,
        ),
        ("run", ordered(NodeOrder::Run), M1, s1, None, "", D::LocalDisk),
        ("a twin by serial, new", fresh, OTHER, s1, None, "", D::Wait),
        ("a twin by serial, installed", in_use, OTHER, s1, None, "", D::Wait),
        (
            "not a twin but the node's other card",
            Row { known: true, ..in_use },
            OTHER,
            s1,
            None,
            "",
            D::LocalDisk,
        ),
        (
            "the node's other card never installs",
            Row { known: true, ..fresh },
            OTHER,
            s1,
            None,
            "",
            D::Wait,
        ),
        ("the card with another serial", fresh, M1, Some("FOREIGN"), None, "", D::Wait),
        ("serial and card of two nodes", fresh, M2, s1, None, "", D::Unknown),
        ("unknown", fresh, OTHER, Some("FOREIGN"), None, "", D::Unknown),
        ("unknown, with a UUID", fresh, OTHER, None, Some(UUID), "", D::Unknown),
        (
            "a twin by UUID",
            Row { known: true, ..in_use },
            "52:54:00:99:00:77",
            None,
            Some(UUID),
            "",
            D::Wait,
        ),
        (
            "a UUID that many have",
            Row { known: true, ..in_use },
            "52:54:00:99:00:77",
            None,
            Some("03000200-0400-0500-0006-000700080009"),
            "",
            D::Unknown,
        ),
        (
            "another node with the same UUID",
            Row { known: true, ..in_use },
            M2,
            Some("PLASMA-NODE02"),
            Some(UUID),
            "",
            D::Install,
        ),
    ];
    for (what, row, mac, serial, uuid, arch, wanted) in table {
        let choice = world(row, mac, serial, uuid, arch);
        assert_eq!(choice.decision, wanted, "{what}: {choice:?}");
        assert!(!choice.reasons.is_empty() && !choice.reasons[0].is_empty(), "{what}");
    }
}

#[test]
fn whatever_is_said_an_enrolled_node_never_installs() {
    use proptest::prelude::*;
    let macs = prop::sample::select(vec![M1, M2, OTHER, ""]);
    let serials =
        prop::sample::select(vec![None, Some("PLASMA-NODE01"), Some("PLASMA-NODE02"), Some("X")]);
    let arches = prop::sample::select(vec!["", "i386", "x86_64", "arm64"]);
    let ask = (macs, serials, arches, any::<bool>(), any::<bool>(), any::<bool>());
    proptest!(|((mac, serial, arch, known, no_images, agent) in ask)| {
        let row = Row { enrolled: true, order: None, known, no_images, agent };
        let choice = world(row, mac, serial, Some(UUID), arch);
        if choice.node.as_deref() == Some("node01") {
            prop_assert_ne!(choice.decision, Decision::Install);
        }
        prop_assert_ne!(choice.decision, Decision::Rescue);
    });
}

#[test]
fn processes_boot_nothing() {
    let inventory = Inventory::parse(Inventory::built_in()).unwrap().on_loopback(3).unwrap();
    let mut registry = Registry::default();
    registry.ensure_installs(&inventory);
    let facts = Facts {
        inventory: &inventory,
        registry: &registry,
        known: &BTreeMap::new(),
        no_images: None,
        moment: Moment::Boot,
    };
    assert_eq!(decide_node(&facts, "node01", "").decision, Decision::Wait);
}
