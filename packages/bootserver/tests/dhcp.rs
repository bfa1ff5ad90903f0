//! The real boot server with the real dnsmasq in a network namespace, and clients in another: what
//! firmware, iPXE and a system ask, and what they get.
//!
//! Each test makes its own namespaces and runs itself again inside the clients' one. Without the
//! rights or the programs for that it says what is left out.
#![allow(clippy::print_stderr)] // to say what is left out

mod lan;

use std::net::Ipv4Addr;
use std::time::Duration;

use lan::{Ask, Kind, OPTION_VENDOR, in_a_lan};

const NODE01: &str = "52:54:00:20:00:11";
const NODE02: &str = "52:54:00:20:00:12";
const UNKNOWN: &str = "52:54:00:99:00:01";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const SCRIPT: &str = "http://10.20.0.1:8080/boot/autoexec.ipxe";
const UEFI_URL: &str = "http://10.20.0.1:8080/boot/efi/ipxe.efi";

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 20, 0, last)
}

/// What each kind of firmware is told to load.
const LOADERS: [(Kind, &str); 5] = [
    (Kind::Bios, "undionly.kpxe"),
    (Kind::Uefi(7), "ipxe.efi"),
    (Kind::Uefi(9), "ipxe.efi"),
    (Kind::UefiHttp, UEFI_URL),
    (Kind::Ipxe, SCRIPT),
];

#[test]
fn full_mode_gives_each_machine_its_address_and_its_loader() {
    in_a_lan("full_mode_gives_each_machine_its_address_and_its_loader", |lan| {
        let _server = lan.boot_server("full", "");
        for (kind, file) in LOADERS {
            for (mac, last) in [(NODE01, 11), (NODE02, 12)] {
                let offer = lan.discover(&Ask::new(mac, kind));
                assert_eq!(offer.address, address(last), "{kind:?}");
                assert_eq!(offer.file, file, "{kind:?}");
                assert_eq!(offer.next_server, SERVER, "{kind:?}");
                let ack = lan.request(&Ask::new(mac, kind), &offer);
                assert_eq!((ack.address, ack.file.as_str()), (address(last), file), "{kind:?}");
            }
        }
        let http = lan.discover(&Ask::new(NODE01, Kind::UefiHttp));
        assert_eq!(http.options[&OPTION_VENDOR], b"HTTPClient");
        // a system is offered nothing to boot, nor a router that is none
        let system = lan.discover(&Ask::new(NODE01, Kind::System));
        assert_eq!((system.address, system.file.as_str()), (address(11), ""));
        assert_eq!(system.options.get(&3), None);
        assert_eq!(system.options[&12], b"node01");
    });
}

#[test]
fn the_card_decides_the_address_whatever_its_client_calls_itself() {
    in_a_lan("the_card_decides_the_address_whatever_its_client_calls_itself", |lan| {
        let _server = lan.boot_server("full", "");
        let mac = [1, 0x52, 0x54, 0, 0x20, 0, 0x11];
        let ids = [None, Some(mac.to_vec()), Some(vec![0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])];
        for (card, expected) in [(NODE01, Some(address(11))), (UNKNOWN, None)] {
            let mut first = expected;
            for id in &ids {
                let mut ask = Ask::new(card, Kind::System);
                ask.client_id.clone_from(id);
                let offer = lan.discover(&ask);
                let ack = lan.request(&ask, &offer);
                assert_eq!(*first.get_or_insert(ack.address), ack.address, "{card} {id:?}");
            }
        }
    });
}

#[test]
fn an_unknown_machine_gets_an_address_of_the_range() {
    in_a_lan("an_unknown_machine_gets_an_address_of_the_range", |lan| {
        let _server = lan.boot_server("full", "");
        let ask = Ask::new(UNKNOWN, Kind::Bios);
        let offer = lan.discover(&ask);
        assert!((address(100)..=address(199)).contains(&offer.address), "{offer:?}");
        assert_eq!(offer.file, "undionly.kpxe");
        let again = lan.discover(&Ask::new(UNKNOWN, Kind::Ipxe));
        assert_eq!((again.address, again.file.as_str()), (offer.address, SCRIPT));
    });
}

#[test]
fn loaders_come_by_tftp_and_nothing_else_does() {
    in_a_lan("loaders_come_by_tftp_and_nothing_else_does", |lan| {
        let _server = lan.boot_server("full", "");
        for name in ["undionly.kpxe", "ipxe.efi"] {
            let expected = std::fs::read(lan.loaders().join(name)).unwrap();
            for block_size in [512, 1428] {
                let got = lan.tftp(SERVER, name, block_size).unwrap();
                assert!(got == expected, "{name}: {} of {}", got.len(), expected.len());
            }
        }
        for name in ["../leases", "/etc/passwd", "ipxe.efi/../../../../etc/hostname", "", "x"] {
            let refused = lan.tftp(SERVER, name, 512).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::Other, "{name}: {refused}");
        }
    });
}

#[test]
fn proxy_mode_tells_what_to_boot_and_leaves_addresses_to_the_other_server() {
    in_a_lan("proxy_mode_tells_what_to_boot_and_leaves_addresses_to_the_other_server", |lan| {
        let _foreign = lan.foreign_dhcp();
        let _server = lan.boot_server("proxy", "");
        for (kind, file) in LOADERS {
            let offers = lan.offers(&Ask::new(NODE01, kind), 2);
            let (ours, theirs): (Vec<_>, Vec<_>) =
                offers.iter().partition(|offer| offer.address.is_unspecified());
            let ([ours], [theirs]) = (ours.as_slice(), theirs.as_slice()) else {
                panic!("one offer of each server: {offers:?}")
            };
            assert!((address(50)..=address(60)).contains(&theirs.address), "{theirs:?}");
            assert_eq!(theirs.file, "", "{theirs:?}");
            assert_eq!(ours.server, SERVER);
            let class: &[u8] = if kind == Kind::UefiHttp { b"HTTPClient" } else { b"PXEClient" };
            assert_eq!(ours.options[&OPTION_VENDOR], class, "{kind:?}");
            // firmware that got no file asks the boot server itself
            let told = if ours.file.is_empty() {
                lan.ask_boot_server(&Ask::new(NODE01, kind), SERVER)
            } else {
                (*ours).clone()
            };
            assert_eq!(told.file, file, "{kind:?}");
        }
        // a system that boots nothing hears only the foreign server
        let offers =
            lan.offers_before(&Ask::new(NODE01, Kind::System), &Ask::new(NODE02, Kind::Ipxe));
        assert_eq!(offers.len(), 1, "{offers:?}");
        assert_ne!(offers[0].server, SERVER);
        assert!(lan.tftp(SERVER, "undionly.kpxe", 1428).is_ok());
    });
}

#[test]
fn a_killed_dnsmasq_is_started_again_and_remembers() {
    in_a_lan("a_killed_dnsmasq_is_started_again_and_remembers", |lan| {
        let server = lan.boot_server("full", "");
        let ask = Ask::new(UNKNOWN, Kind::System);
        let before = lan.request(&ask, &lan.discover(&ask)).address;
        let pid = lan.dnsmasq_pid();
        lan.kill(pid);
        lan.until("another dnsmasq", || lan.dnsmasq_pid() != pid && lan.is_ready());
        assert_eq!(lan.discover(&ask).address, before);
        // it ends with a boot server that is killed
        let left = lan.dnsmasq_pid();
        server.kill();
        lan.until("dnsmasq's end", || !lan.is_alive(left));
        // and where it cannot, the next boot server ends the one that is left
        let server = lan.boot_server_without_setpriv();
        let left = lan.dnsmasq_pid();
        server.kill();
        assert!(lan.is_alive(left));
        let server = lan.boot_server("full", "");
        assert!(!lan.is_alive(left));
        assert_eq!(lan.discover(&ask).address, before);
        // an ordinary stop leaves nothing behind
        let last = lan.dnsmasq_pid();
        server.stop();
        assert!(!lan.is_alive(last));
    });
}

#[test]
fn a_replaced_machine_does_not_wait_for_the_old_ones_lease() {
    in_a_lan("a_replaced_machine_does_not_wait_for_the_old_ones_lease", |lan| {
        let server = lan.boot_server("full", "");
        let old = Ask::new(NODE02, Kind::System);
        assert_eq!(lan.request(&old, &lan.discover(&old)).address, address(12));
        server.stop();
        lan.change_inventory(NODE02, UNKNOWN);
        let _server = lan.boot_server("full", "");
        assert_eq!(lan.discover(&Ask::new(UNKNOWN, Kind::Bios)).address, address(12));
        assert_ne!(lan.discover(&old).address, address(12));
    });
}

#[test]
fn dnsmasq_is_not_root() {
    in_a_lan("dnsmasq_is_not_root", |lan| {
        let _server = lan.boot_server("full", "");
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", lan.dnsmasq_pid())).unwrap();
        let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        assert!(!uids.split_whitespace().skip(1).any(|id| id == "0"), "{uids}");
        // so the cluster's secrets are behind a door that is closed to it
        let door = std::fs::metadata(lan.state()).unwrap().permissions();
        let mode = std::os::unix::fs::PermissionsExt::mode(&door);
        assert_eq!(mode & 0o077, 0);
    });
}

#[test]
fn mistakes_are_named() {
    in_a_lan("mistakes_are_named", |lan| {
        for (mode, more, code) in [
            ("full", "interface = \"\"\n", "BS-6001"),
            ("full", "range = [\"10.99.0.1\", \"10.99.0.2\"]\n", "BS-6002"),
            ("full", "dnsmasq = \"/nonexistent/dnsmasq\"\n", "BS-6004"),
            ("full", "dnsmasq = \"false\"\n", "BS-6005"),
            ("proxy", "lease_seconds = 1\n", "BS-1008"),
        ] {
            let said = lan.refused(mode, more);
            assert!(said.contains(code), "{code} for {more}: {said}");
        }
        // a card that is not there yet is waited for
        let server = lan.start(&lan.settings("full", "interface = \"br7\"\n"));
        lan.until("a closed gate", || lan.readyz().contains("dhcp"));
        lan.until("its reason", || lan.readyz().contains("interface is missing"));
        lan.server_ip(&["link", "add", "br7", "type", "bridge"]);
        lan.server_ip(&["addr", "add", "10.20.0.2/24", "dev", "br7"]);
        lan.server_ip(&["link", "set", "br7", "up"]);
        lan.until("an open gate", || lan.is_ready());
        server.stop();
    });
}

#[test]
fn many_clients_at_once() {
    in_a_lan("many_clients_at_once", |lan| {
        let _server = lan.boot_server("full", "");
        let asks: Vec<Ask> =
            (11..14).map(|n| Ask::new(&format!("52:54:00:20:00:{n}"), Kind::Ipxe)).collect();
        let begun = std::time::Instant::now();
        for (ask, last) in asks.iter().zip(11..) {
            assert_eq!(lan.discover(ask).address, address(last));
        }
        // nodes are not pinged before they get what is theirs
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
}
