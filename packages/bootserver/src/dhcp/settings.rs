//! The table `[dhcp]`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use fault::{Fault, Kind};
use serde::Deserialize;

use crate::codes;

/// dnsmasq refuses shorter leases.
const MIN_LEASE_SECONDS: u32 = 120;
const MAX_LEASE_SECONDS: u32 = 30 * 24 * 3600;
/// More name servers than a resolver asks are a mistake.
const MAX_DNS: usize = 8;

/// What the boot server does on the nodes' network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing: machines are booted in another way, or another server is configured by hand.
    #[default]
    Off,
    /// The only DHCP server of the network.
    Full,
    /// Boot information beside a foreign DHCP server.
    Proxy,
}

/// DHCP and TFTP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DhcpSettings {
    /// What to do.
    pub mode: Mode,
    /// The card on the nodes' network.
    pub interface: String,
    /// First and last address for machines that the inventory does not know (full mode); without
    /// it they get none.
    pub range: Option<[Ipv4Addr; 2]>,
    /// How long an address is lent.
    pub lease_seconds: u32,
    /// The router that clients are told; the inventory's when missing.
    pub gateway: Option<Ipv4Addr>,
    /// The name servers that clients are told.
    pub dns: Vec<Ipv4Addr>,
    /// The program; looked up in PATH unless a path.
    pub dnsmasq: PathBuf,
    /// Whom dnsmasq becomes when the boot server runs as root.
    pub user: String,
    /// Its group; dnsmasq's own choice when empty.
    pub group: String,
}

impl Default for DhcpSettings {
    fn default() -> DhcpSettings {
        DhcpSettings {
            mode: Mode::Off,
            interface: String::new(),
            range: None,
            lease_seconds: 3600,
            gateway: None,
            dns: Vec::new(),
            dnsmasq: "dnsmasq".into(),
            user: "nobody".to_owned(),
            group: String::new(),
        }
    }
}

impl DhcpSettings {
    /// What no type can say. What depends on the inventory, [`super::config`] checks.
    pub fn check(&self) -> Result<(), Fault> {
        if self.mode == Mode::Off {
            return Ok(());
        }
        if !is_interface(&self.interface) {
            return Err(bad(
                codes::DHCP_INTERFACE,
                format!("dhcp.interface is {:?}, which is no name of a card", self.interface),
                "name the card on the nodes' network, as `ip link` shows it",
            ));
        }
        if !(MIN_LEASE_SECONDS..=MAX_LEASE_SECONDS).contains(&self.lease_seconds) {
            let what = format!(
                "dhcp.lease_seconds is {}, outside {MIN_LEASE_SECONDS} to {MAX_LEASE_SECONDS}",
                self.lease_seconds
            );
            return Err(bad(codes::BAD_SETTING, what, "correct it in the settings"));
        }
        if self.dns.len() > MAX_DNS {
            let what = format!("dhcp.dns has {} addresses, more than {MAX_DNS}", self.dns.len());
            return Err(bad(codes::BAD_SETTING, what, "name the nearest ones"));
        }
        let group_is_good = self.group.is_empty() || is_account(&self.group);
        let accounts =
            [("user", &self.user, is_account(&self.user)), ("group", &self.group, group_is_good)];
        for (key, name, good) in accounts {
            if !good {
                return Err(bad(
                    codes::BAD_SETTING,
                    format!("dhcp.{key} is {name:?}, which is no name of a {key}"),
                    "use letters, digits, - and _",
                ));
            }
        }
        if self.dnsmasq.as_os_str().is_empty() {
            let what = "dhcp.dnsmasq is empty".to_owned();
            return Err(bad(codes::BAD_SETTING, what, "name the program: dnsmasq"));
        }
        if let Some([first, last]) = self.range.filter(|[first, last]| first > last) {
            return Err(bad(
                codes::DHCP_RANGE,
                format!("dhcp.range ends at {last}, before its start {first}"),
                "give the lower address first",
            ));
        }
        Ok(())
    }
}

pub(super) fn bad(code: fault::Code, what: String, hint: impl Into<String>) -> Fault {
    Fault::new(code, Kind::Invalid, what, hint)
}

/// What the kernel allows, less what would mean something in a configuration.
fn is_interface(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    matches!(name.len(), 1..=15) && name.bytes().all(plain) && !matches!(name, "." | "..")
}

fn is_account(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    matches!(name.len(), 1..=32) && name.bytes().all(plain) && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> DhcpSettings {
        ::settings::parse("dhcp.toml".as_ref(), text).unwrap()
    }

    #[test]
    fn off_asks_for_nothing() {
        assert_eq!(read("").mode, Mode::Off);
        read("").check().unwrap();
    }

    #[test]
    fn a_whole_table() {
        let settings = read(
            "mode = \"full\"\ninterface = \"br0\"\nrange = [\"10.20.0.100\", \"10.20.0.199\"]\n\
             lease_seconds = 600\ngateway = \"10.20.0.1\"\ndns = [\"10.20.0.1\"]\n",
        );
        settings.check().unwrap();
        assert_eq!(settings.range.unwrap()[1], Ipv4Addr::new(10, 20, 0, 199));
    }

    #[test]
    fn each_mistake_has_its_code() {
        let table = [
            ("", codes::DHCP_INTERFACE, "dhcp.interface"),
            ("interface = \"br0,lo\"", codes::DHCP_INTERFACE, "dhcp.interface"),
            ("interface = \"br0\\ndhcp-script=/x\"", codes::DHCP_INTERFACE, "dhcp.interface"),
            ("interface = \"br0\"\nlease_seconds = 60", codes::BAD_SETTING, "lease_seconds"),
            ("interface = \"br0\"\nuser = \"a\\nb\"", codes::BAD_SETTING, "dhcp.user"),
            ("interface = \"br0\"\nuser = \"\"", codes::BAD_SETTING, "dhcp.user"),
            ("interface = \"br0\"\ngroup = \"-x\"", codes::BAD_SETTING, "dhcp.group"),
            ("interface = \"br0\"\ndnsmasq = \"\"", codes::BAD_SETTING, "dhcp.dnsmasq"),
            (
                "interface = \"br0\"\nrange = [\"10.0.0.9\", \"10.0.0.1\"]",
                codes::DHCP_RANGE,
                "dhcp.range",
            ),
        ];
        for (text, code, key) in table {
            let fault = read(&format!("mode = \"full\"\n{text}\n")).check().unwrap_err();
            assert_eq!(fault.code, code, "{text}: {fault}");
            assert!(fault.what.contains(key), "{text}: {fault}");
        }
    }
}
