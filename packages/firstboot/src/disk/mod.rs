//! Step disk: the node's disk is claimed, erased, laid out and mounted.
//!
//! One order (`install_id`) destroys at most once. States of a disk: nobody's → claimed under an
//! order → laid out under it; each is one durable sector (see [`claim`]). A run that is cut before
//! *laid out* erases and lays out again, since nothing but our own beginnings can be on the disk;
//! after it, nothing is destroyed under that order, whatever is found.
//!
//! What is decided stands in [`select`] and [`judge`], which do no I/O; what the system does is
//! behind [`Disks`].

mod claim;
mod judge;
mod layout;
mod os;
mod parse;
mod real;
mod select;
#[cfg(test)]
mod simulated;
pub(crate) mod state;
mod table;
pub(crate) mod teardown;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bootserver::wire::{DiskSeen, READ_ONLY};
use fault::{Fault, Kind};
use serde::Deserialize;
use steps::Probe;

use self::claim::{Claim, OFFSET, SPARE, Sector, Stage};
use self::judge::{Found, Verdict, Wanted};
use self::teardown::read_sector;
use crate::install::{Install as _, Installs};
use crate::{Context, Settings, codes};

pub(crate) use self::layout::{ESP, Layout, part};
pub(crate) use self::os::{Block, Disks, Expected, Source, put, put_copy};
pub(crate) use self::real::RealDisks;
pub(crate) use self::select::stop;
pub(crate) use self::state::Resumed;

/// `[disk]`: where the disk and install steps work; other paths than the defaults are for tests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSettings {
    /// Where the data partition is mounted.
    pub data: PathBuf,
    /// Where the partition that boots is mounted while it is written.
    pub esp: PathBuf,
    /// Where the initrd left the files it booted from.
    pub images: PathBuf,
    /// The boot code of a BIOS for GPT disks.
    pub bios_code: PathBuf,
    /// The boot loader of UEFI machines.
    pub uefi_loader: PathBuf,
    /// Chainfire's data folder, which is mounted from the data partition.
    pub chainfire: PathBuf,
    /// The folder of SSH host keys, which is mounted from the data partition.
    pub ssh_keys: PathBuf,
    /// Where the NixOS image keeps each node's disko script and system.
    pub nixos: PathBuf,
    /// Where the NixOS target is mounted while it is installed.
    pub root: PathBuf,
    /// Serial numbers for loop devices, which have none: tests alone set them.
    pub loop_serials: std::collections::BTreeMap<String, String>,
}

impl Default for DiskSettings {
    fn default() -> Self {
        DiskSettings {
            data: "/var/lib/plasma".into(),
            esp: "/run/plasma/esp".into(),
            images: "/run/plasma/images".into(),
            bios_code: "/usr/lib/EXTLINUX/gptmbr.bin".into(),
            uefi_loader: "/usr/lib/systemd/boot/efi/systemd-bootx64.efi".into(),
            chainfire: "/var/lib/chainfire".into(),
            ssh_keys: "/etc/ssh/keys".into(),
            nixos: "/etc/plasma/nixos".into(),
            root: "/mnt".into(),
            loop_serials: std::collections::BTreeMap::new(),
        }
    }
}

/// How often a run begins to erase: what fails so often does not pass by itself.
const ERASES_MAX: u32 = 8;
/// As the step's own deadline, but a little shorter: what was begun here ends with a code of its
/// own, so that nothing starts the agent again by itself.
const ERASING_MAX: Duration = Duration::from_secs(14 * 60);

/// The step.
pub(crate) struct DiskStep<D = RealDisks> {
    disks: D,
    settings: Arc<Settings>,
    /// How often this run began to erase without coming to an end.
    erases: u32,
    /// The step's first look.
    began: Option<Instant>,
}

impl DiskStep {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        DiskStep { disks: RealDisks::new(&settings), settings, erases: 0, began: None }
    }

    /// The disks of this machine with their traces, for the hardware report. It stops nothing when
    /// a disk cannot be read.
    pub(crate) async fn seen(&self) -> Vec<DiskSeen> {
        seen(&self.disks).await
    }

    /// On a machine that booted from its disk: mounts what an earlier run laid out, before the
    /// boot server is asked. `None` when there is no such disk; the steps then say why.
    pub(crate) async fn resume(&self) -> Result<Option<Resumed>, Fault> {
        state::resume(&self.disks, &self.settings).await
    }
}

impl<D: Disks> DiskStep<D> {
    #[cfg(test)]
    pub(crate) fn with(settings: Arc<Settings>, disks: D) -> Self {
        DiskStep { disks, settings, erases: 0, began: None }
    }

    /// The disk is ours, laid out and mounted.
    pub(crate) async fn probe(&mut self, context: &Context<'_>) -> Result<Probe, Fault> {
        self.began.get_or_insert_with(Instant::now);
        let seen = self.look_at(context).await;
        seen.map_err(|fault| self.bounded(fault))
    }

    /// Makes it so.
    pub(crate) async fn act(&mut self, context: &Context<'_>) -> Result<(), Fault> {
        let done = self.make(context).await;
        done.map_err(|fault| self.bounded(fault))
    }

    /// What destroys is not tried for ever, and what stops it has a code that says so: an agent
    /// that is started again would begin by erasing again.
    fn bounded(&self, fault: Fault) -> Fault {
        let long = self.began.is_some_and(|began| began.elapsed() >= ERASING_MAX);
        let again = fault.kind.passes() && self.erases < ERASES_MAX && !long;
        if self.erases == 0 || again || fault.code == codes::DISK_NOT_EMPTY {
            return fault;
        }
        stop(
            codes::DISK_GIVEN_UP,
            format!("erased, and not laid out (try {}): {fault}", self.erases),
            "mend the cause, then start firstboot again: systemctl restart firstboot",
        )
    }

    async fn look_at(&self, context: &Context<'_>) -> Result<Probe, Fault> {
        let installs = Installs::new(&self.settings, context)?;
        let blocks = self.disks.blocks().await?;
        let (chosen, verdict) = look(&self.disks, &blocks, context).await?;
        if verdict != Verdict::Ready {
            check_free(&self.disks, &blocks, &chosen, context).await?;
            return Ok(Probe::False);
        }
        let boots = first(&chosen)?;
        if !installs.is_mounted(&self.disks, boots).await? {
            return Ok(Probe::False);
        }
        if installs.is_marked(&self.disks).await? {
            return Ok(Probe::True);
        }
        Err(damaged(boots))
    }

    async fn make(&mut self, context: &Context<'_>) -> Result<(), Fault> {
        let installs = Installs::new(&self.settings, context)?;
        let blocks = self.disks.blocks().await?;
        let (chosen, verdict) = look(&self.disks, &blocks, context).await?;
        let boots = first(&chosen)?;
        if verdict != Verdict::Ready {
            check_free(&self.disks, &blocks, &chosen, context).await?;
            teardown::check_rest(&self.disks, &blocks, &chosen, wanted_disk(context)?).await?;
            installs.check(&self.disks, boots).await?;
            self.erases += 1;
            for disk in &chosen {
                write_claim(&self.disks, disk, &claim_of(disk, context, Stage::Claimed)).await?;
            }
            for disk in &chosen {
                let claim = claim_of(disk, context, Stage::Claimed);
                teardown::erase(&self.disks, disk, &claim).await?;
            }
            tracing::info!(disk = %select::shown(boots), "the disk is empty, laying it out");
            installs.lay_out(&self.disks, boots).await?;
        }
        installs.mount(&self.disks, boots).await?;
        if verdict != Verdict::Ready {
            installs.mark(&self.disks).await?;
        } else if !installs.is_marked(&self.disks).await? {
            return Err(damaged(boots));
        }
        // a mirror's second mark may be missing after a power cut
        for disk in &chosen {
            let laid_out = claim_of(disk, context, Stage::LaidOut);
            if !read_sector(&self.disks, disk).await?.is_claim(&laid_out) {
                let table = table::read(&self.disks, disk).await?;
                write_claim(&self.disks, disk, &Claim { table, ..laid_out }).await?;
            }
        }
        self.erases = 0;
        installs.mount_state(&self.disks).await
    }
}

/// The node's disks, and what may be done with them.
async fn look<'a, D: Disks>(
    disks: &D,
    blocks: &'a [Block],
    context: &Context<'_>,
) -> Result<(Vec<&'a Block>, Verdict), Fault> {
    let wanted = wanted_disk(context)?;
    let chosen = select::select(blocks, wanted)?;
    let mut found = Vec::new();
    for disk in &chosen {
        found.push(Found {
            shown: select::shown(disk),
            name: select::name(disk).to_owned(),
            sector: read_sector(disks, disk).await?,
            table: table::read(disks, disk).await?,
            traces: teardown::traces(disks, blocks, disk).await?,
            consent: select::consented(disk, wanted),
        });
    }
    let order = Wanted {
        cluster_id: context.cluster_id,
        node: context.node,
        install_id: context.install_id,
    };
    let verdict = judge::judge_all(&found, order)?;
    Ok((chosen, verdict))
}

/// The disk that boots, if it is laid out under this order; the step install asks.
pub(crate) async fn ready<D: Disks>(disks: &D, context: &Context<'_>) -> Result<Block, Fault> {
    let blocks = disks.blocks().await?;
    let (chosen, verdict) = look(disks, &blocks, context).await?;
    let boots = first(&chosen)?;
    if verdict == Verdict::Ready {
        return Ok(boots.clone());
    }
    Err(Fault::new(
        codes::DISK_DAMAGED,
        Kind::Unavailable,
        format!("{} is not laid out any more", select::shown(boots)),
        "start firstboot again: the step disk looks at it first",
    ))
}

/// The node's disks among all.
pub(crate) fn chosen<'a>(
    blocks: &'a [Block],
    context: &Context<'_>,
) -> Result<Vec<&'a Block>, Fault> {
    select::select(blocks, wanted_disk(context)?)
}

/// Unmounts what is mounted at a place.
pub(crate) async fn release_mount<D: Disks>(disks: &D, place: &Path) -> Result<(), Fault> {
    disks.release(&os::Holder::Mount(place.to_string_lossy().into_owned())).await
}

/// Nothing that is in use, and no other disk, would be touched.
async fn check_free<D: Disks>(
    disks: &D,
    blocks: &[Block],
    chosen: &[&Block],
    context: &Context<'_>,
) -> Result<(), Fault> {
    if disks.booted_from_disk().await? {
        return Err(teardown::in_use(first(chosen)?, "it was booted from a disk"));
    }
    teardown::check_reach(blocks, chosen, wanted_disk(context)?)
}

fn wanted_disk<'a>(context: &Context<'a>) -> Result<&'a inventory::Disk, Fault> {
    context.inventory.disk.as_ref().ok_or_else(|| {
        stop(
            codes::DISK_NONE,
            format!("the inventory names no disk for {}", context.node),
            "write disk.match for this node in nodes/cluster.nix",
        )
    })
}

fn first<'a>(chosen: &[&'a Block]) -> Result<&'a Block, Fault> {
    let none = || stop(codes::DISK_NONE, "no disk was chosen".into(), "report this as a bug");
    chosen.first().copied().ok_or_else(none)
}

fn damaged(disk: &Block) -> Fault {
    stop(
        codes::DISK_DAMAGED,
        format!("{} was laid out under this order, and its mark is gone", select::shown(disk)),
        "look at the disk; to erase it and install again: plasma node wipe",
    )
}

fn claim_of(disk: &Block, context: &Context<'_>, stage: Stage) -> Claim {
    Claim {
        cluster_id: context.cluster_id.to_owned(),
        node: context.node.to_owned(),
        install_id: context.install_id.to_owned(),
        disk: select::name(disk).to_owned(),
        stage,
        table: String::new(),
    }
}

/// The last look before the first write: names like /dev/sda move.
async fn write_claim<D: Disks>(disks: &D, disk: &Block, claim: &Claim) -> Result<(), Fault> {
    if !disks.is_same(disk).await? {
        return Err(stop(
            codes::DISK_CHANGED,
            format!("{} is no longer the disk that was chosen", select::shown(disk)),
            "look which disks the machine has",
        ));
    }
    let sector = claim.encode()?;
    disks.write(&disk.path, SPARE, &sector).await?;
    disks.write(&disk.path, OFFSET, &sector).await?;
    tracing::info!(disk = %select::shown(disk), stage = ?claim.stage, "claimed");
    Ok(())
}

async fn seen<D: Disks>(disks: &D) -> Vec<DiskSeen> {
    let blocks = disks.blocks().await.unwrap_or_default();
    let mut all = Vec::new();
    for disk in select::disks(&blocks).take(64) {
        // as the step judges it, so that nobody is told that a disk is empty where the step stops
        let found = teardown::traces(disks, &blocks, disk).await;
        let mut found = found.unwrap_or_else(|_| vec!["cannot be read".to_owned()]);
        found.sort_by_cached_key(|trace| (trace.starts_with('/'), trace.clone()));
        found.dedup();
        // first what decides most: a long list is cut
        let mut traces = Vec::new();
        if matches!(read_sector(disks, disk).await, Ok(Sector::Claim(_))) {
            traces.push("plasma-claim".to_owned());
        }
        if disk.read_only {
            traces.push(READ_ONLY.to_owned());
        }
        traces.append(&mut found);
        all.push(DiskSeen {
            name: disk.path.trim_start_matches("/dev/").to_owned(),
            bytes: disk.bytes,
            serial: disk.serial.clone(),
            wwn: disk.wwn.clone(),
            model: disk.model.clone(),
            rotational: disk.rotational,
            traces,
        });
    }
    all
}
