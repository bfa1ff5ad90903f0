use super::*;

fn inventory() -> Inventory {
    Inventory::parse(Inventory::built_in()).unwrap()
}

fn settings(mode: Mode) -> DhcpSettings {
    DhcpSettings {
        mode,
        interface: "br0".to_owned(),
        range: Some([Ipv4Addr::new(10, 20, 0, 100), Ipv4Addr::new(10, 20, 0, 199)]),
        ..DhcpSettings::default()
    }
}

#[test]
fn full() {
    let text = config(&settings(Mode::Full), &inventory(), 8080).unwrap();
    for line in [
        "port=0",
        "interface=br0",
        "user=nobody",
        "dhcp-authoritative",
        "dhcp-ignore-clid",
        "dhcp-range=10.20.0.100,10.20.0.199,255.255.255.0,3600",
        "dhcp-host=52:54:00:20:00:11,10.20.0.11,node01,3600",
        "dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe,,10.20.0.1",
        "dhcp-boot=tag:uefi,tag:!ipxe,ipxe.efi,,10.20.0.1",
        "dhcp-boot=tag:http,tag:!ipxe,http://10.20.0.1:8080/boot/efi/ipxe.efi,,10.20.0.1",
        "dhcp-boot=tag:ipxe,http://10.20.0.1:8080/boot/autoexec.ipxe,,10.20.0.1",
        "dhcp-option=option:router",
        "dhcp-option=option:dns-server",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}
