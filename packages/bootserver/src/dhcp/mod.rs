//! DHCP and TFTP by dnsmasq: its configuration out of settings and inventory ([`config`]), and the
//! process itself, checked, started, watched and stopped ([`supervise`]).
//!
//! Full mode answers every client of the interface: a node's card gets the node's address, whoever
//! is unknown one of the range. Proxy mode hands out no address: beside a foreign DHCP server it
//! tells PXE clients what to load, and nothing more.
//!
//! Absent on purpose: DNS, IPv6, scripts that dnsmasq would call, and any shell.

mod config;
mod leases;
mod log;
mod settings;
mod stage;
mod supervise;

pub use config::config;
pub use settings::{DhcpSettings, Mode};
pub use supervise::supervise;
