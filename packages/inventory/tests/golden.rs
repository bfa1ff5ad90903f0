//! Whole texts against files in `tests/golden`; `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

use inventory::{ClusterStart, DiskMatch, Inventory, Layout, Paths, Start, chainfire_settings};

#[track_caller]
fn golden(name: &str, actual: &str) {
    let path = Path::new("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{} differs; UPDATE_GOLDEN=1 writes it anew\n--- expected\n{expected}\n--- actual\n{actual}",
        path.display()
    );
}

fn built_in() -> Inventory {
    Inventory::parse(Inventory::built_in()).unwrap()
}

/// The faults of a text, one a line.
fn faults_of(text: &str) -> String {
    let faults = Inventory::parse(text).expect_err("this inventory is wrong");
    faults.iter().map(|f| format!("{f}\n")).collect()
}

#[test]
fn the_built_in_inventory_is_what_nix_writes() {
    golden("../../../../nodes/cluster.json", &sorted(&built_in().to_json()));
}

/// With sorted keys, as Nix writes them.
fn sorted(json: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    format!("{}\n", serde_json::to_string_pretty(&value).unwrap())
}

#[test]
fn an_inventory_survives_its_own_json() {
    let inventory = built_in();
    assert_eq!(Inventory::parse(&inventory.to_json()).unwrap(), inventory);
    let local = inventory.on_loopback(5).unwrap();
    assert_eq!(Inventory::parse(&local.to_json()).unwrap(), local);
}

#[test]
fn every_layout_survives_its_own_json() {
    let mut inventory = built_in();
    inventory.cluster.gateway = Some("10.20.0.1".parse().unwrap());
    inventory.cluster.dns = vec!["10.20.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    for layout in Layout::ALL {
        let disk = inventory.nodes.get_mut("node01").unwrap().disk.as_mut().unwrap();
        disk.layout = layout;
        disk.max_gib = Some(64);
        disk.mirror = (layout == Layout::Mirror)
            .then(|| DiskMatch { serial: None, wwn: Some("0x5000c500a1b2c3d4".into()) });
        assert_eq!(disk.members().count(), if layout == Layout::Mirror { 2 } else { 1 });
        assert_eq!(Inventory::parse(&inventory.to_json()).unwrap(), inventory);
    }
}

#[test]
fn loopback() {
    golden("loopback-3.json", &built_in().on_loopback(3).unwrap().to_json());
    assert_eq!(built_in().on_loopback(1).unwrap().nodes.len(), 1);
    let five = built_in().on_loopback(5).unwrap();
    assert_eq!(five.nodes["node05"].address.to_string(), "127.0.1.5");
    for count in [0, 255, usize::MAX] {
        assert_eq!(built_in().on_loopback(count).unwrap_err().code.0, "INV-1018");
    }
}

#[test]
fn chainfire_on_an_installed_node() {
    let text = chainfire_settings(&built_in(), "node02", &Paths::default()).unwrap();
    golden("chainfire-node02.toml", &text);
}

#[test]
fn chainfire_on_loopback() {
    let paths = Paths {
        data_dir: "/home/me/a \"b\" \\c/node01/chainfire".into(),
        cert: "/n/cert.pem".into(),
        key: "/n/key.pem".into(),
        ca: "/n/ca.pem".into(),
    };
    let start = ClusterStart { cluster_id: "0198".into(), initial: Start::Form };
    let local = built_in().on_loopback(1).unwrap();
    let text = start.toml() + &chainfire_settings(&local, "node01", &paths).unwrap();
    golden("chainfire-loopback.toml", &text);
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["data_dir"].as_str(), paths.data_dir.to_str());
    assert_eq!(table["initial"].as_str(), Some("form"));
    assert_eq!(table["join"].as_array().map(Vec::len), Some(0));
    assert_eq!(start.environment()[1], ("CHAINFIRE_INITIAL", "form".to_owned()));
}

#[test]
fn chainfire_where_it_does_not_run() {
    let mut inventory = built_in();
    inventory.nodes.get_mut("node03").unwrap().roles.remove(0);
    let absent = chainfire_settings(&inventory, "node09", &Paths::default()).unwrap_err();
    let idle = chainfire_settings(&inventory, "node03", &Paths::default()).unwrap_err();
    golden("chainfire-refused.txt", &format!("{absent}\n{idle}\n"));
}

#[test]
fn every_kind_of_fault_at_once() {
    golden("faults.txt", &faults_of(include_str!("golden/faults.json")));
}

#[test]
fn what_does_not_fit_together() {
    golden("faults-between.txt", &faults_of(include_str!("golden/faults-between.json")));
}

#[test]
fn no_inventory_at_all() {
    let texts = ["", "{", "[]", "null", "{}", r#"{"cluster":1,"nodes":[],"operators":{}}"#];
    let all: String = texts.iter().map(|t| format!("{t}\n{}\n", faults_of(t))).collect();
    golden("faults-shape.txt", &all);
    assert_eq!(Inventory::parse(&" ".repeat(5 << 20)).unwrap_err()[0].code.0, "INV-1015");
}

#[test]
fn warnings() {
    let mut all = String::new();
    for count in [2, 3, 9] {
        let local = built_in().on_loopback(count).unwrap();
        for warning in local.warnings() {
            all += &format!("{count} nodes: {warning}\n");
        }
    }
    let mut inventory = built_in();
    inventory.operators.clear();
    inventory.cluster.gateway = Some("10.20.1.254".parse().unwrap());
    inventory.nodes.retain(|name, _| name != "node03");
    inventory.nodes.get_mut("node02").unwrap().address = "10.30.0.12".parse().unwrap();
    for warning in inventory.warnings() {
        all += &format!("machines: {warning}\n");
    }
    golden("warnings.txt", &all);
}
