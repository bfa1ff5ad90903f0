//! What the agent is told: where the boot server is, whom to trust, where its own state lives.

use std::path::PathBuf;

use serde::Deserialize;
use telemetry::LogSettings;

use crate::disk::DiskSettings;

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
    /// A file with the join token. It is read when the node enrols, and may appear later. Without
    /// it the agent asks the boot server for a token, which hands one out if it is told to.
    #[serde(default = "token_file")]
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
    /// What is installed on the machine's disk.
    #[serde(default)]
    pub target: Target,
    /// URL of the folder with the images; without it, the folder from which the kernel's
    /// arguments say that the root came.
    pub images_url: Option<String>,
    /// Where the disk step works.
    #[serde(default)]
    pub disk: DiskSettings,
    /// Whether the agent writes Chainfire's settings file in systemd mode, where Nix made none. The
    /// target lab has this by itself.
    #[serde(default)]
    pub render_config: bool,
    /// Where progress is shown to people. The target lab has `/dev/console` by itself.
    pub console: Option<PathBuf>,
    /// The places of the machine that the agent reads and writes; others are for tests.
    #[serde(default)]
    pub machine: MachineSettings,
    /// Logs.
    #[serde(default)]
    pub log: LogSettings,
}

/// Where the machine shows itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineSettings {
    /// The folder that stands for `/`: below it are `sys`, `proc`, `etc` and `run`.
    pub root: PathBuf,
    /// Where the system's commands are, instead of in `PATH`.
    pub tools: Option<PathBuf>,
}

impl Default for MachineSettings {
    fn default() -> Self {
        MachineSettings { root: "/".into(), tools: None }
    }
}

impl MachineSettings {
    /// An absolute path as the agent reaches it.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// A command of the system.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.tools.as_ref().map_or_else(|| name.into(), |folder| folder.join(name))
    }
}

/// What is installed on the machine's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Nothing: the system must be there already.
    #[default]
    None,
    /// The image that runs, with a boot loader.
    Lab,
    /// The node's NixOS configuration.
    NixOs,
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

fn token_file() -> PathBuf {
    "/etc/plasma/join-token".into()
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

    /// What time it was, in seconds since 1970, when the agent last looked.
    pub fn last_seen(&self) -> PathBuf {
        self.state_dir.join("last-seen")
    }

    /// Held while the agent runs. Where it may unmount the state folder, the lock is the machine's:
    /// an open file would keep the disk from being taken down.
    pub fn lock(&self) -> PathBuf {
        match self.target {
            Target::None => self.state_dir.join("lock"),
            Target::Lab | Target::NixOs => self.machine.path("/run/firstboot/lock"),
        }
    }

    /// Chainfire's rendered settings, in process mode.
    pub fn chainfire_toml(&self) -> PathBuf {
        self.state_dir.join("etc/plasma/chainfire.toml")
    }

    /// What the unit reads beside the settings that Nix made, in systemd mode.
    pub fn chainfire_env(&self) -> PathBuf {
        self.state_dir.join("chainfire.env")
    }

    /// Chainfire's settings as its unit reads them, in systemd mode; `None` where Nix makes them.
    pub fn unit_toml(&self) -> Option<PathBuf> {
        let writes = self.render_config || self.target == Target::Lab;
        writes.then(|| self.machine.path("/etc/plasma/chainfire.toml"))
    }

    /// Where progress is shown to people.
    pub fn console(&self) -> Option<PathBuf> {
        let own = (self.target == Target::Lab).then(|| self.machine.path("/dev/console"));
        self.console.clone().or(own)
    }

    /// Chainfire's data folder.
    pub fn chainfire_data(&self) -> PathBuf {
        match self.mode {
            Mode::Process => self.state_dir.join("chainfire"),
            Mode::Systemd => self.machine.path("/var/lib/chainfire"),
        }
    }
}
