//! Somebody else's DHCP server, on a machine of its own beside the boot server.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use testkit::Process;

use crate::netns::{BRIDGE, Network};

/// The address of that machine.
pub const ADDRESS: &str = "10.20.0.2/24";

/// A DHCP server that knows nothing of booting. Dropping it ends it.
#[derive(Debug)]
pub struct ForeignDhcp {
    // ends before its network goes
    process: Option<Process>,
    network: Network,
    dir: PathBuf,
}

impl ForeignDhcp {
    /// Starts it on a network that is cabled to `beside`.
    pub fn start(dir: &Path, beside: &Network) -> Result<ForeignDhcp> {
        let network = Network::create(ADDRESS)?;
        network.cable(beside)?;
        let mut server = ForeignDhcp { process: None, network, dir: dir.to_owned() };
        server.lend(&[])?;
        Ok(server)
    }

    /// Starts it again. `leases` are addresses for known cards; others get one of 10.20.0.200 and
    /// on.
    pub fn lend(&mut self, leases: &[(&str, &str)]) -> Result<()> {
        self.process = None;
        let mut text = format!(
            "port=0\ninterface={BRIDGE}\nbind-interfaces\nleasefile-ro\ndhcp-authoritative\n\
             dhcp-range=10.20.0.200,10.20.0.240,255.255.255.0,1h\nuser=nobody\npid-file=\n\
             dhcp-ignore-clid\n"
        );
        for (mac, address) in leases {
            writeln!(text, "dhcp-host={mac},{address}")?;
        }
        let config = self.dir.join("foreign-dhcp.conf");
        fs::write(&config, text)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.network.name()]);
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
        command.args(["dnsmasq", "--keep-in-foreground", "--log-facility=-", "--log-dhcp"]);
        command.arg(format!("--conf-file={}", config.display()));
        let log = self.dir.join("foreign-dhcp.log");
        self.process = Some(Process::spawn("foreign dhcp", command, &log)?);
        Ok(())
    }
}
