//! Step install: the system is on the disk, and boots from it.
//!
//! Two targets behind one small trait: [`Lab`](lab::Lab) copies the image that runs, and the run
//! goes on in it; [`NixOs`](nixos::NixOs) runs the node's disko script and nixos-install, and goes
//! over to the new system by kexec.

mod boot;
pub(crate) mod fetch;
pub(crate) mod lab;
pub(crate) mod manifest;
pub(crate) mod nixos;

use std::sync::Arc;
use std::time::Duration;

use fault::{Fault, Kind};
use serde::{Deserialize, Serialize};
use steps::Probe;

use self::lab::Lab;
use self::nixos::NixOs;
use crate::disk::{Block, Disks, RealDisks, stop};
use crate::{Context, Settings, Target, codes};

/// What the disk and install steps do for a target. `disk` is the one that boots.
#[allow(async_fn_in_trait, reason = "used within this crate alone")]
pub(crate) trait Install {
    /// Stops what would only be found when the disk is erased already.
    async fn check<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault>;
    /// Lays out the claimed and empty disk.
    async fn lay_out<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault>;
    /// Whether the layout is mounted, with the folders of the node's state.
    async fn is_mounted<D: Disks>(&self, disks: &D, disk: &Block) -> Result<bool, Fault>;
    /// Mounts the layout, as far as it is not.
    async fn mount<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault>;
    /// Mounts the folders of the node's state.
    async fn mount_state<D: Disks>(&self, disks: &D) -> Result<(), Fault>;
    /// Whether the mounted layout bears this order's mark.
    async fn is_marked<D: Disks>(&self, disks: &D) -> Result<bool, Fault>;
    /// Marks the mounted layout: the last act of laying out.
    async fn mark<D: Disks>(&self, disks: &D) -> Result<(), Fault>;
    /// Whether the system is on the disk and nothing is left to do.
    async fn is_installed<D: Disks>(&self, disks: &D, disk: &Block) -> Result<bool, Fault>;
    /// Installs the system; goes on where a run before was cut.
    async fn install<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault>;
}

/// The target of a node.
pub(crate) enum Installs<'a> {
    Lab(Lab<'a>),
    NixOs(NixOs<'a>),
}

impl<'a> Installs<'a> {
    pub(crate) fn new(settings: &'a Settings, context: &'a Context<'a>) -> Result<Self, Fault> {
        match context.target {
            Target::Lab => Ok(Installs::Lab(Lab::new(settings, context)?)),
            Target::NixOs => Ok(Installs::NixOs(NixOs::new(settings, context))),
            Target::None => Err(stop(
                codes::NOT_INSTALLED,
                "this agent is told to install nothing".to_owned(),
                "set target in /etc/plasma/firstboot.toml",
            )),
        }
    }
}

macro_rules! each {
    ($self:ident, $target:ident => $call:expr) => {
        match $self {
            Installs::Lab($target) => $call.await,
            Installs::NixOs($target) => $call.await,
        }
    };
}

impl Install for Installs<'_> {
    async fn check<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        each!(self, target => target.check(disks, disk))
    }

    async fn lay_out<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        each!(self, target => target.lay_out(disks, disk))
    }

    async fn is_mounted<D: Disks>(&self, disks: &D, disk: &Block) -> Result<bool, Fault> {
        each!(self, target => target.is_mounted(disks, disk))
    }

    async fn mount<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        each!(self, target => target.mount(disks, disk))
    }

    async fn mount_state<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        each!(self, target => target.mount_state(disks))
    }

    async fn is_marked<D: Disks>(&self, disks: &D) -> Result<bool, Fault> {
        each!(self, target => target.is_marked(disks))
    }

    async fn mark<D: Disks>(&self, disks: &D) -> Result<(), Fault> {
        each!(self, target => target.mark(disks))
    }

    async fn is_installed<D: Disks>(&self, disks: &D, disk: &Block) -> Result<bool, Fault> {
        each!(self, target => target.is_installed(disks, disk))
    }

    async fn install<D: Disks>(&self, disks: &D, disk: &Block) -> Result<(), Fault> {
        each!(self, target => target.install(disks, disk))
    }
}

/// The record of a finished install, written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Installed {
    /// The record's own form.
    pub(crate) version: u32,
    /// Under which order.
    pub(crate) install_id: String,
    /// What was installed: the image's kernel release, or the system's store path.
    pub(crate) system: String,
}

/// Where the record stands, on the partition with the node's state.
pub(crate) const RECORD: &str = ".plasma/installed.json";

impl Installed {
    pub(crate) fn new(install_id: &str, system: &str) -> Installed {
        Installed { version: 1, install_id: install_id.to_owned(), system: system.to_owned() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// The record's text, if it is of this order.
    pub(crate) fn of(text: Option<Vec<u8>>, install_id: &str) -> Option<Installed> {
        let record: Installed = serde_json::from_slice(&text?).ok()?;
        (record.version == 1 && record.install_id == install_id).then_some(record)
    }
}

/// The step. It acts only on a disk that the step disk made ready.
pub(crate) struct InstallStep<D = RealDisks> {
    disks: D,
    settings: Arc<Settings>,
}

impl InstallStep {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        InstallStep { disks: RealDisks::new(&settings), settings }
    }
}

impl<D: Disks> InstallStep<D> {
    #[cfg(test)]
    pub(crate) fn with(settings: Arc<Settings>, disks: D) -> Self {
        InstallStep { disks, settings }
    }

    /// The system is on the disk.
    pub(crate) async fn probe(&mut self, context: &Context<'_>) -> Result<Probe, Fault> {
        let installs = Installs::new(&self.settings, context)?;
        let disk = crate::disk::ready(&self.disks, context).await?;
        let installed = installs.is_installed(&self.disks, &disk).await?;
        Ok(if installed { Probe::True } else { Probe::False })
    }

    /// Makes it so.
    pub(crate) async fn act(&mut self, context: &Context<'_>) -> Result<(), Fault> {
        let installs = Installs::new(&self.settings, context)?;
        let disk = crate::disk::ready(&self.disks, context).await?;
        if !(installs.is_mounted(&self.disks, &disk).await?
            && installs.is_marked(&self.disks).await?)
        {
            return Err(Fault::new(
                codes::DISK_DAMAGED,
                Kind::Unavailable,
                format!("{} is not mounted, or not ours", disk.path),
                "start firstboot again: the step disk looks at it first",
            ));
        }
        installs.install(&self.disks, &disk).await
    }
}

/// How long a system that goes down may take before waiting for it is given up.
pub(crate) const GOING_DOWN: Duration = Duration::from_secs(120);
