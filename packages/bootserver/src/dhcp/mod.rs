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

use std::path::PathBuf;

use fault::Fault;
use inventory::Inventory;
use telemetry::Gate;
use tokio_util::sync::CancellationToken;

use crate::{Settings, codes};

/// What the boot server's settings and inventory ask for, checked before anything starts.
pub(crate) struct Service {
    settings: DhcpSettings,
    inventory: Inventory,
    config: String,
    loaders: PathBuf,
    dir: PathBuf,
}

impl Service {
    /// `None` when DHCP is off.
    pub(crate) fn new(
        settings: &Settings,
        inventory: &Inventory,
    ) -> Result<Option<Service>, Fault> {
        if settings.dhcp.mode == Mode::Off {
            return Ok(None);
        }
        let port = settings.boot.listen.map_or(0, |address| address.port());
        if port == 0 {
            return Err(settings::bad(
                codes::BAD_SETTING,
                "dhcp is on, but boot.listen names no port that machines could be sent to"
                    .to_owned(),
                "set boot.listen = \"0.0.0.0:8080\"",
            ));
        }
        Ok(Some(Service {
            settings: settings.dhcp.clone(),
            inventory: inventory.clone(),
            config: config(&settings.dhcp, inventory, port)?,
            loaders: settings.boot.loaders.clone(),
            dir: settings.state_dir.join("dhcp"),
        }))
    }

    /// Serves until the stop.
    pub(crate) async fn run(self, stop: CancellationToken, gate: Gate) -> Result<(), Fault> {
        let Service { settings, inventory, config, loaders, dir } = self;
        supervise(settings, &inventory, &config, &loaders, &dir, stop, gate).await
    }
}
