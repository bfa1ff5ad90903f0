//! Mounts the data partition, and from it the folders in which the node's state lives.

use std::path::{Path, PathBuf};

use fault::Fault;

use super::claim::{Sector, Stage};
use super::layout::{Layout, part};
use super::os::{Block, Disks, Mount};
use super::teardown::read_sector;
use super::{select, stop};
use crate::{Settings, codes};

/// What an earlier run left on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resumed {
    /// The cluster's id.
    pub(crate) cluster_id: String,
    /// The node's name.
    pub(crate) node: String,
    /// The order under which it was installed.
    pub(crate) install_id: String,
}

/// The folders on the data partition, and where else they are mounted.
fn folders(settings: &Settings) -> [(PathBuf, PathBuf); 3] {
    let disk = &settings.disk;
    [
        (disk.data.join("firstboot"), settings.state_dir.clone()),
        (disk.data.join("chainfire"), disk.chainfire.clone()),
        (disk.data.join("ssh"), disk.ssh_keys.clone()),
    ]
}

/// Whether `device` is mounted at `place`, and nothing else is over it.
pub(crate) fn is_at(mounts: &[Mount], device: &str, place: &Path) -> bool {
    let last = mounts.iter().rfind(|mount| Path::new(&mount.place) == place);
    last.is_some_and(|mount| mount.device == device && mount.root == "/")
}

/// Whether the data partition and all folders are in their places.
pub(crate) async fn is_mounted<D: Disks>(
    disks: &D,
    settings: &Settings,
    disk: &Block,
) -> Result<bool, Fault> {
    let device = part(&disk.path, 2);
    Ok(is_at(&disks.mounts().await?, &device, &settings.disk.data)
        && is_bound(disks, &folders(settings)).await?)
}

/// Whether every folder is mounted in its second place too.
pub(crate) async fn is_bound<D: Disks>(
    disks: &D,
    binds: &[(PathBuf, PathBuf)],
) -> Result<bool, Fault> {
    let mounts = disks.mounts().await?;
    Ok(binds.iter().all(|(from, place)| is_one_bound(&mounts, from, place)))
}

/// The folder as its own mount sees it, and whether that is what is mounted in the place.
fn is_one_bound(mounts: &[Mount], from: &Path, place: &Path) -> bool {
    let holds = mounts.iter().filter(|mount| from.starts_with(&mount.place));
    // the last of the longest is the one that is seen
    let Some(holds) = holds.max_by_key(|mount| mount.place.len()) else { return false };
    let Ok(rest) = from.strip_prefix(&holds.place) else { return false };
    let root = Path::new(&holds.root).join(rest);
    let last = mounts.iter().rfind(|mount| Path::new(&mount.place) == place);
    last.is_some_and(|mount| mount.device == holds.device && Path::new(&mount.root) == root)
}

/// Mounts the data partition alone.
pub(crate) async fn mount_data<D: Disks>(
    disks: &D,
    settings: &Settings,
    disk: &Block,
) -> Result<(), Fault> {
    let device = part(&disk.path, 2);
    if !is_at(&disks.mounts().await?, &device, &settings.disk.data) {
        disks.mount(&device, &settings.disk.data, "ext4").await?;
    }
    Ok(())
}

/// Mounts the folders from it.
pub(crate) async fn bind_all<D: Disks>(disks: &D, settings: &Settings) -> Result<(), Fault> {
    bind_each(disks, &folders(settings)).await
}

/// Mounts each folder in its second place, as far as it is not.
pub(crate) async fn bind_each<D: Disks>(
    disks: &D,
    binds: &[(PathBuf, PathBuf)],
) -> Result<(), Fault> {
    let mounts = disks.mounts().await?;
    for (from, place) in binds {
        if !is_one_bound(&mounts, from, place) {
            disks.make_folder(from).await?;
            disks.bind(from, place).await?;
        }
    }
    Ok(())
}

/// On a machine that was booted from its disk, mounts what was laid out there. The boot server
/// need not be reached for that: whose disk it is stands on it.
pub(crate) async fn resume<D: Disks>(
    disks: &D,
    settings: &Settings,
) -> Result<Option<Resumed>, Fault> {
    if !disks.booted_from_disk().await? {
        return Ok(None);
    }
    let blocks = disks.blocks().await?;
    let mut ours = Vec::new();
    for disk in select::disks(&blocks) {
        // a disk that cannot be read is not ours to wait for
        let Ok(Sector::Claim(claim)) = read_sector(disks, disk).await else { continue };
        let has_data = blocks.iter().any(|block| block.path == part(&disk.path, 2));
        if claim.stage == Stage::LaidOut && claim.disk == select::name(disk) && has_data {
            ours.push((disk, claim));
        }
    }
    let Some((disk, claim)) = ours.pop() else { return Ok(None) };
    if let Some((other, _)) = ours.pop() {
        return Err(stop(
            codes::DISK_TWO,
            format!("{} and {} both bear an install", select::shown(disk), select::shown(other)),
            "disconnect the one that is another machine's",
        ));
    }
    mount_data(disks, settings, disk).await?;
    let layout = Layout::new(&claim.cluster_id, &claim.node, &claim.install_id);
    if !layout.is_marked(disks, &settings.disk.data).await? {
        return Err(super::damaged(disk));
    }
    bind_all(disks, settings).await?;
    let super::Claim { cluster_id, node, install_id, .. } = claim;
    Ok(Some(Resumed { cluster_id, node, install_id }))
}
