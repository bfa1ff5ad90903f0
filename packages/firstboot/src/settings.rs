//! What the agent is told: where the boot server is, whom to trust, where its own state lives.

use std::path::PathBuf;

use serde::Deserialize;
use telemetry::LogSettings;

/// `/etc/plasma/firstboot.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The node's name, where it is known beforehand. Without it the machine is recognised by its
    /// serial number and network cards.
    pub node: Option<String>,
    /// The boot server's enrolment address, as `https://10.20.0.1:8443`.
    pub bootserver: String,
    /// The cluster CA's certificate, which came with the image: the anchor of all trust.
    pub ca: PathBuf,
    /// A file with the join token. It is read when the node enrols, and may appear later.
    pub token_file: PathBuf,
    /// Ledger, keys, certificates, rendered configuration.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    /// Where the node's services run.
    #[serde(default)]
    pub mode: Mode,
    /// The Chainfire binary; only read in process mode.
    #[serde(default = "chainfire_bin")]
    pub chainfire_bin: PathBuf,
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
}

/// Who keeps the node's services running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// systemd: the agent starts units and is done when the node is blessed.
    #[default]
    Systemd,
    /// The agent itself: services are its children, and it stays.
    Process,
}

fn state_dir() -> PathBuf {
    "/var/lib/firstboot".into()
}

fn chainfire_bin() -> PathBuf {
    "chainfire".into()
}

impl Settings {
    /// The record of what was done.
    pub fn ledger(&self) -> PathBuf {
        self.state_dir.join("ledger.json")
    }

    /// Keys and certificates.
    pub fn identity_dir(&self) -> PathBuf {
        self.state_dir.join("identity")
    }

    /// The inventory and cluster id as the boot server gave them.
    pub fn enrolment(&self) -> PathBuf {
        self.state_dir.join("enrolment.json")
    }

    /// Chainfire's rendered settings, in process mode.
    pub fn chainfire_toml(&self) -> PathBuf {
        self.state_dir.join("etc/plasma/chainfire.toml")
    }

    /// What the unit reads beside the settings that Nix made, in systemd mode.
    pub fn chainfire_env(&self) -> PathBuf {
        self.state_dir.join("chainfire.env")
    }

    /// Chainfire's data folder.
    pub fn chainfire_data(&self) -> PathBuf {
        match self.mode {
            Mode::Process => self.state_dir.join("chainfire"),
            Mode::Systemd => "/var/lib/chainfire".into(),
        }
    }
}
