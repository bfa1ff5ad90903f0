use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn inventory() -> Inventory {
    Inventory::parse(Inventory::built_in()).unwrap()
}

fn changed(change: impl FnOnce(&mut Value)) -> Inventory {
    let mut value: Value = serde_json::from_str(Inventory::built_in()).unwrap();
    change(&mut value);
    Inventory::from_value(&value).unwrap()
}

fn settings(mode: Mode) -> DhcpSettings {
    DhcpSettings {
        mode,
        interface: "br0".to_owned(),
        range: Some([Ipv4Addr::new(10, 20, 0, 100), Ipv4Addr::new(10, 20, 0, 199)]),
        ..DhcpSettings::default()
    }
}

/// The golden files are what dnsmasq gets for the built-in inventory; `UPDATE_GOLDEN=1` writes
/// them anew.
#[test]
fn golden() {
    for (mode, name) in [(Mode::Full, "full.conf"), (Mode::Proxy, "proxy.conf")] {
        let text = config(&settings(mode), &inventory(), 8080).unwrap();
        let path = std::path::Path::new("src/dhcp/golden").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{name}");
    }
}

#[test]
fn router_and_name_servers_are_the_inventorys_unless_the_settings_say_otherwise() {
    let inventory = changed(|v| {
        v["cluster"]["gateway"] = json!("10.20.0.254");
        v["cluster"]["dns"] = json!(["10.20.0.253", "fd00::1", "10.20.0.252"]);
    });
    let has = |text: &str, line: &str| text.lines().any(|l| l == line);
    let text = config(&settings(Mode::Full), &inventory, 8080).unwrap();
    assert!(has(&text, "dhcp-option=option:router,10.20.0.254"), "{text}");
    assert!(has(&text, "dhcp-option=option:dns-server,10.20.0.253,10.20.0.252"), "{text}");
    let settings = DhcpSettings {
        gateway: Some(Ipv4Addr::new(10, 20, 0, 1)),
        dns: vec![Ipv4Addr::new(9, 9, 9, 9)],
        ..settings(Mode::Full)
    };
    let text = config(&settings, &inventory, 8080).unwrap();
    assert!(has(&text, "dhcp-option=option:router,10.20.0.1"), "{text}");
    assert!(has(&text, "dhcp-option=option:dns-server,9.9.9.9"), "{text}");
}

#[test]
fn every_network_of_the_nodes_is_served_and_every_card_is_named() {
    let inventory = changed(|v| {
        v["nodes"]["node03"]["address"] = json!("10.30.0.13");
        v["nodes"]["node01"]["macs"] = json!(["52:54:00:20:00:11", "52-54-00-20-01-11"]);
    });
    let text = config(&settings(Mode::Full), &inventory, 8080).unwrap();
    assert!(text.contains("dhcp-range=10.30.0.0,static,255.255.255.0,3600\n"), "{text}");
    let both = "dhcp-host=52:54:00:20:00:11,52:54:00:20:01:11,10.20.0.11,node01,3600\n";
    assert!(text.contains(both), "{text}");
    let no_range = DhcpSettings { range: None, ..settings(Mode::Full) };
    let text = config(&no_range, &inventory, 8080).unwrap();
    assert!(text.contains("dhcp-range=10.20.0.0,static,255.255.255.0,3600\n"), "{text}");
}

/// dnsmasq would not serve a machine called `ignore` at all.
#[test]
fn names_that_mean_something_to_dnsmasq_are_left_out() {
    for name in ["ignore", "infinite", "12", "12h", "0"] {
        let inventory = changed(|v| {
            let node = v["nodes"]["node03"].take();
            v["nodes"].as_object_mut().unwrap().remove("node03");
            v["nodes"][name] = node;
        });
        let text = config(&settings(Mode::Full), &inventory, 8080).unwrap();
        assert!(text.contains("dhcp-host=52:54:00:20:00:13,10.20.0.13,3600\n"), "{text}");
    }
}

#[test]
fn ranges_that_cannot_work() {
    let code = |first: [u8; 4], last: [u8; 4]| {
        let settings =
            DhcpSettings { range: Some([first.into(), last.into()]), ..settings(Mode::Full) };
        config(&settings, &inventory(), 8080).map_err(|fault| (fault.code, fault.what))
    };
    for (first, last, words) in [
        ([10, 21, 0, 1], [10, 21, 0, 9], "no network of the nodes"),
        ([10, 20, 0, 100], [10, 20, 1, 9], "no network of the nodes"),
        ([10, 20, 0, 12], [10, 20, 0, 99], "node02's address"),
        ([10, 20, 0, 1], [10, 20, 0, 9], "the boot server's address"),
        ([10, 20, 0, 200], [10, 20, 0, 255], "which no machine may have"),
    ] {
        let (code, what) = code(first, last).unwrap_err();
        assert_eq!(code, codes::DHCP_RANGE);
        assert!(what.contains(words), "{what}");
    }
    code([10, 20, 0, 14], [10, 20, 0, 254]).unwrap();
}

#[test]
fn inventories_that_give_no_network() {
    let processes = inventory().on_loopback(3).unwrap();
    for mode in [Mode::Full, Mode::Proxy] {
        let fault = config(&settings(mode), &processes, 8080).unwrap_err();
        assert_eq!(fault.code, codes::DHCP_NETWORK, "{fault}");
    }
    let six = changed(|v| v["cluster"]["bootserver"]["address"] = json!("fd00::1"));
    let fault = config(&settings(Mode::Full), &six, 8080).unwrap_err();
    assert_eq!(fault.code, codes::DHCP_NETWORK, "{fault}");
}

/// Every line that may be in a configuration, as a whole.
fn is_known(line: &str) -> bool {
    const WHOLE: [&str; 6] = [
        "port=0",
        "no-resolv",
        "no-hosts",
        "bind-interfaces",
        "except-interface=lo",
        "enable-tftp",
    ];
    const MORE: [&str; 2] = ["dhcp-authoritative", "dhcp-ignore-clid"];
    const KEYS: [&str; 11] = [
        "interface",
        "user",
        "group",
        "dhcp-match",
        "dhcp-userclass",
        "dhcp-boot",
        "dhcp-range",
        "dhcp-option",
        "dhcp-option-force",
        "dhcp-host",
        "pxe-service",
    ];
    let plain = |b: u8| {
        b.is_ascii_lowercase()
            || b.is_ascii_digit()
            || b.is_ascii_uppercase()
            || b"=,:.!-_/".contains(&b)
    };
    line.starts_with("# made by")
        || (line.bytes().all(plain)
            && (WHOLE.contains(&line)
                || MORE.contains(&line)
                || line == "dhcp-pxe-vendor=PXEClient,HTTPClient"
                || line.split_once('=').is_some_and(|(key, _)| KEYS.contains(&key))))
}

/// Text that tries to be more than a name.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,20}",
        "[a-z0-9-]{1,12}",
        "(node|br0|x)[\n\r,#\" \t=:]{1,3}(dhcp-script=/bin/sh|conf-file=/etc/passwd|set:ipxe)?",
        "[a-z]{1,5}\ndhcp-script=/tmp/x",
    ]
}

proptest! {
    /// Whatever the inventory's and the settings' author wrote: either it is refused, or each
    /// line is one of ours and there are as many reservations as machines.
    #[test]
    fn nobody_writes_lines_of_their_own(
        names in proptest::collection::vec(hostile(), 1..4),
        mac in prop_oneof![hostile(), Just("52:54:00:20:00:77".to_owned())],
        domain in prop_oneof![hostile(), Just("plasma.internal".to_owned())],
        serial in prop_oneof![hostile(), Just("S1".to_owned())],
        interface in prop_oneof![hostile(), Just("br0".to_owned())],
        user in prop_oneof![hostile(), Just("nobody".to_owned())],
        group in prop_oneof![hostile(), Just(String::new())],
        full in any::<bool>(),
    ) {
        let mut value: Value = serde_json::from_str(Inventory::built_in()).unwrap();
        value["cluster"]["domain"] = json!(domain);
        value["nodes"]["node01"]["serial"] = json!(serial);
        for (i, name) in names.iter().enumerate() {
            let mut node = value["nodes"]["node02"].clone();
            node["address"] = json!(format!("10.20.0.{}", 20 + i));
            node["macs"] = json!([format!("52:54:00:20:01:{i:02}")]);
            node["serial"] = json!(format!("S-{i}"));
            node["disk"]["match"]["serial"] = json!(format!("D-{i}"));
            if i == 0 {
                node["macs"] = json!([mac]);
            }
            value["nodes"][name] = node;
        }
        let Ok(inventory) = Inventory::from_value(&value) else { return Ok(()) };
        let mode = if full { Mode::Full } else { Mode::Proxy };
        let settings = DhcpSettings { interface, user, group, ..settings(mode) };
        let Ok(text) = config(&settings, &inventory, 8080) else { return Ok(()) };
        for line in text.lines() {
            prop_assert!(is_known(line), "{line:?} in\n{text}");
        }
        let hosts = text.lines().filter(|l| l.starts_with("dhcp-host=")).count();
        prop_assert_eq!(hosts, if full { inventory.nodes.len() } else { 0 });
    }
}
