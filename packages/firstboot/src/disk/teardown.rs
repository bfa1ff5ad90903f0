//! Takes down what stands on a disk, from the top of the stack to the bottom, and proves that
//! nothing is left. Only a disk that bears the claim of this very order is touched, and that is
//! looked at again before each act: names like /dev/sda move.

use std::collections::BTreeSet;

use fault::{Fault, Kind};

use super::claim::{Claim, END, OFFSET, SECTOR, SPARE, Sector, Stage};
use super::os::{Block, BlockKind, Disks, Holder};
use super::select::{self, shown, stop};
use crate::codes;

/// How much of a disk's beginning and end must be zero.
const EDGE: u64 = 1 << 20;
/// Stacks are not deeper than this.
const ROUNDS: u32 = 16;

/// Everything that stands on a disk, itself not, lowest first.
pub(crate) fn stacked<'a>(blocks: &'a [Block], disk: &str) -> Vec<&'a Block> {
    let mut found: Vec<&Block> = Vec::new();
    let mut below = BTreeSet::from([disk]);
    loop {
        let next: Vec<&Block> = blocks
            .iter()
            .filter(|block| !below.contains(block.path.as_str()))
            .filter(|block| block.parents.iter().any(|parent| below.contains(parent.as_str())))
            .collect();
        if next.is_empty() {
            return found;
        }
        below.extend(next.iter().map(|block| block.path.as_str()));
        found.extend(next);
    }
}

/// The other disks that something on this disk stands on too.
fn others<'a>(blocks: &'a [Block], disk: &str) -> Vec<&'a Block> {
    let mut below: BTreeSet<&str> = BTreeSet::new();
    let mut look: Vec<&str> =
        stacked(blocks, disk).iter().map(|block| block.path.as_str()).collect();
    while let Some(path) = look.pop() {
        if below.insert(path)
            && let Some(block) = blocks.iter().find(|block| block.path == path)
        {
            look.extend(block.parents.iter().map(String::as_str));
        }
    }
    select::disks(blocks).filter(|d| d.path != disk && below.contains(d.path.as_str())).collect()
}

/// Stops when erasing the disks would reach beyond them, or under the running system.
pub(crate) fn check_reach(
    blocks: &[Block],
    disks: &[&Block],
    wanted: &inventory::Disk,
) -> Result<(), Fault> {
    for disk in disks {
        let held = stacked(blocks, &disk.path);
        let mounts = held.iter().chain(disks).flat_map(|block| &block.mounted);
        if let Some(place) = mounts.into_iter().find(|place| is_system(place)) {
            return Err(in_use(disk, &format!("{place} is on it")));
        }
        for other in others(blocks, &disk.path) {
            let named = disks.iter().any(|d| d.path == other.path);
            if !named && !select::consented(other, wanted) {
                return Err(spans(disk, other));
            }
        }
    }
    Ok(())
}

fn spans(disk: &Block, other: &Block) -> Fault {
    stop(
        codes::DISK_SPANS,
        format!("an array or volume group on {} is on {} too", shown(disk), shown(other)),
        "disconnect the other disk, or add its serial to disk.consentToErase in nodes/cluster.nix",
    )
}

/// As [`check_reach`], for what does not run: erasing one half of it loses the other.
pub(crate) async fn check_rest<D: Disks>(
    disks: &D,
    blocks: &[Block],
    chosen: &[&Block],
    wanted: &inventory::Disk,
) -> Result<(), Fault> {
    for disk in chosen {
        let ours = groups(disks, blocks, disk).await?;
        if ours.is_empty() {
            continue;
        }
        for other in select::disks(blocks) {
            let named = chosen.iter().any(|disk| disk.path == other.path);
            // one that cannot be read is no reason to be sure
            if !named
                && !select::consented(other, wanted)
                && !groups(disks, blocks, other).await?.is_disjoint(&ours)
            {
                return Err(spans(disk, other));
            }
        }
    }
    Ok(())
}

/// The arrays, volume groups and pools that a disk, or what stands on it, is a part of.
async fn groups<D: Disks>(
    disks: &D,
    blocks: &[Block],
    disk: &Block,
) -> Result<BTreeSet<String>, Fault> {
    let mut all: BTreeSet<String> = disks.groups(&disk.path).await?.into_iter().collect();
    for block in stacked(blocks, &disk.path) {
        all.extend(disks.groups(&block.path).await?);
    }
    Ok(all)
}

/// The running system keeps its parts in these places.
fn is_system(place: &str) -> bool {
    ["/", "/usr", "/nix", "/nix/store", "/boot", "/run/plasma/images"].contains(&place)
}

pub(crate) fn in_use(disk: &Block, why: &str) -> Fault {
    stop(
        codes::DISK_IN_USE,
        format!("the running system uses {}: {why}", shown(disk)),
        "reboot it from the network, where the boot server has it installed: plasma node reboot",
    )
}

/// Stops unless `disk` is still the disk that was chosen, and bears our claim.
async fn guard<D: Disks>(disks: &D, disk: &Block, claim: &Claim) -> Result<(), Fault> {
    if disks.is_same(disk).await? && read_sector(disks, disk).await? == Sector::Claim(claim.clone())
    {
        return Ok(());
    }
    Err(stop(
        codes::DISK_CHANGED,
        format!("{} is no longer the disk that was claimed", shown(disk)),
        "look which disks the machine has; nothing was done to it since it was another",
    ))
}

/// Erases all that stands on a claimed disk, and proves it gone.
pub(crate) async fn erase<D: Disks>(disks: &D, disk: &Block, claim: &Claim) -> Result<(), Fault> {
    debug_assert_eq!(claim.stage, Stage::Claimed);
    release_all(disks, disk, claim).await?;
    let blocks = disks.blocks().await?;
    for part in stacked(&blocks, &disk.path).iter().rev() {
        guard(disks, disk, claim).await?;
        disks.erase_signatures(&part.path).await?;
    }
    guard(disks, disk, claim).await?;
    disks.erase_signatures(&disk.path).await?;
    for (from, length) in edges(disk.bytes) {
        guard(disks, disk, claim).await?;
        disks.zero(&disk.path, from, length).await?;
    }
    disks.reread(&disk.path).await?;
    guard(disks, disk, claim).await?;
    let blocks = disks.blocks().await?;
    let left = traces(disks, &blocks, disk).await?;
    if left.is_empty() {
        return Ok(());
    }
    Err(stop(
        codes::DISK_NOT_EMPTY,
        format!("{} was erased, and there is still: {}", shown(disk), left.join(", ")),
        "the disk or its controller may be failing; look at it with wipefs and smartctl",
    ))
}

/// Top of the stack first; the kernel is asked again after each round, since what was hidden by an
/// array shows up when the array is gone.
async fn release_all<D: Disks>(disks: &D, disk: &Block, claim: &Claim) -> Result<(), Fault> {
    for _ in 0..ROUNDS {
        let blocks = disks.blocks().await?;
        let held = stacked(&blocks, &disk.path);
        let Some(holders) = holders(&blocks, disk, &held) else { return Ok(()) };
        for holder in holders {
            guard(disks, disk, claim).await?;
            // what only this disk carries loses its signatures, or an array made in the same
            // place would find them again
            if let Holder::Array(device) = &holder
                && others(&blocks, &disk.path).is_empty()
            {
                disks.erase_signatures(device).await?;
            }
            disks.release(&holder).await?;
        }
        disks.reread(&disk.path).await?;
    }
    Err(Fault::new(
        codes::DISK_IN_USE,
        Kind::Unavailable,
        format!("something takes hold of {} again and again", shown(disk)),
        "look with lsblk what it is; the image must not start arrays and volume groups by itself",
    ))
}

/// What is to let go, in order; nothing when only partitions are left.
fn holders(blocks: &[Block], disk: &Block, held: &[&Block]) -> Option<Vec<Holder>> {
    let itself = blocks.iter().find(|block| block.path == disk.path);
    let mut all = Vec::new();
    for block in held.iter().rev().copied().chain(itself) {
        let mut places: Vec<&String> = block.mounted.iter().collect();
        // a mount within another goes first
        places.sort_by_key(|place| std::cmp::Reverse(place.len()));
        all.extend(places.into_iter().map(|place| match place.as_str() {
            "[SWAP]" => Holder::Swap(block.path.clone()),
            place => Holder::Mount(place.to_owned()),
        }));
        match block.kind {
            BlockKind::Mapping => all.push(Holder::Mapping(block.path.clone())),
            BlockKind::Array => all.push(Holder::Array(block.path.clone())),
            _ => {}
        }
    }
    (!all.is_empty()).then_some(all)
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| ZEROS.starts_with(chunk))
}

/// What stands in the claim's two places.
pub(crate) async fn read_sector<D: Disks>(disks: &D, disk: &Block) -> Result<Sector, Fault> {
    let bytes = disks.read(&disk.path, SPARE, (END - SPARE) as usize).await?;
    Ok(Sector::of_both(&bytes))
}

/// The first and the last MiB, without the claim's two places.
fn edges(bytes: u64) -> Vec<(u64, u64)> {
    const { assert!(END == EDGE) };
    let between = SPARE + SECTOR as u64;
    let last = bytes.saturating_sub(EDGE).max(END);
    let mut edges = vec![(0, SPARE), (between, OFFSET - between)];
    if last < bytes {
        edges.push((last, bytes - last));
    }
    edges
}

/// What stands on a disk beside the claim; nothing means that it is empty.
pub(crate) async fn traces<D: Disks>(
    disks: &D,
    blocks: &[Block],
    disk: &Block,
) -> Result<Vec<String>, Fault> {
    let mut traces = disks.signatures(&disk.path).await?;
    for block in stacked(blocks, &disk.path) {
        traces.push(block.path.clone());
        if block.kind == BlockKind::Partition {
            traces.extend(disks.signatures(&block.path).await?);
        }
    }
    if let Some(block) = blocks.iter().find(|block| block.path == disk.path) {
        traces.extend(block.mounted.iter().map(|place| format!("mounted at {place}")));
    }
    if traces.is_empty() {
        for (from, length) in edges(disk.bytes) {
            let bytes = disks.read(&disk.path, from, length as usize).await?;
            if !is_zero(&bytes) {
                traces.push(format!("data of no known kind within 1 MiB of byte {from}"));
            }
        }
        if read_sector(disks, disk).await? == Sector::Data {
            traces.push("data of no known kind before the first partition".to_owned());
        }
    }
    Ok(traces)
}
