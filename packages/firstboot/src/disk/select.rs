//! Which disk is meant: all that the inventory gives must match, and exactly one disk may.

use fault::{Fault, Kind};
use inventory::{Disk, DiskMatch};

use super::os::{Block, BlockKind};
use crate::codes;

const GIB: u64 = 1 << 30;

/// The disks of a node, the one that boots first.
pub(crate) fn select<'a>(blocks: &'a [Block], wanted: &Disk) -> Result<Vec<&'a Block>, Fault> {
    let mut chosen: Vec<&Block> = Vec::new();
    for which in wanted.members() {
        let disk = one(blocks, which, wanted)?;
        if chosen.iter().any(|other| other.path == disk.path) {
            return Err(stop(
                codes::DISK_TWO,
                format!("{} is matched as both disks of the mirror", shown(disk)),
                "give each disk of the mirror its own serial or wwn in nodes/cluster.nix",
            ));
        }
        chosen.push(disk);
    }
    Ok(chosen)
}

fn one<'a>(blocks: &'a [Block], which: &DiskMatch, wanted: &Disk) -> Result<&'a Block, Fault> {
    let named: Vec<&Block> = disks(blocks)
        .filter(|disk| which.names(disk.serial.as_deref(), disk.wwn.as_deref()))
        .collect();
    let (mut fit, refused): (Vec<&Block>, Vec<&Block>) =
        named.iter().partition(|disk| !disk.read_only && size_fits(disk, wanted));
    match (fit.len(), refused.as_slice()) {
        // of two that are named one being too small is no reason to be sure of the other
        (1, []) => Ok(fit.remove(0)),
        (0, []) => Err(stop(
            codes::DISK_NONE,
            format!("no disk is {}; there {}", described(which), all_shown(blocks)),
            "correct disk.match in nodes/cluster.nix, or connect the disk",
        )),
        (0, [disk]) => Err(stop(
            codes::DISK_NONE,
            format!(
                "{} is named, and is {}",
                shown(disk),
                if disk.read_only {
                    "read-only"
                } else {
                    "not of the size that the inventory gives"
                }
            ),
            "correct disk.match, minGiB or maxGiB in nodes/cluster.nix, or connect the right disk",
        )),
        _ => Err(stop(
            codes::DISK_TWO,
            format!(
                "{} disks are {}: {}",
                named.len(),
                described(which),
                named.iter().map(|disk| shown(disk)).collect::<Vec<_>>().join(", ")
            ),
            "name the disk by both serial and wwn in nodes/cluster.nix, or disconnect the other",
        )),
    }
}

/// What may be installed on at all.
pub(crate) fn disks(blocks: &[Block]) -> impl Iterator<Item = &Block> {
    blocks.iter().filter(|block| match block.kind {
        BlockKind::Disk => block.bytes > 0,
        // only tests give a serial number to a file
        BlockKind::Loop => block.bytes > 0 && block.serial.is_some(),
        _ => false,
    })
}

fn size_fits(disk: &Block, wanted: &Disk) -> bool {
    let least = u64::from(wanted.min_gib) * GIB;
    let most = wanted.max_gib.map_or(u64::MAX, |most| u64::from(most) * GIB);
    (least..=most).contains(&disk.bytes)
}

/// What names a disk in a claim and in consents: its serial number, or else its WWN.
pub(crate) fn name(disk: &Block) -> &str {
    disk.serial.as_deref().or(disk.wwn.as_deref()).unwrap_or_default()
}

/// Whether the inventory allows this disk's data to be erased.
pub(crate) fn consented(disk: &Block, wanted: &Disk) -> bool {
    let name = name(disk);
    !name.is_empty() && wanted.consent_to_erase.iter().any(|serial| serial == name)
}

/// A disk as people know it.
pub(crate) fn shown(disk: &Block) -> String {
    let serial = disk.serial.as_deref().unwrap_or("none");
    format!("{} (serial {serial}, {} GiB)", disk.path, disk.bytes / GIB)
}

fn all_shown(blocks: &[Block]) -> String {
    let all: Vec<String> = disks(blocks).take(16).map(shown).collect();
    if all.is_empty() { "is no disk at all".to_owned() } else { format!("are {}", all.join(", ")) }
}

fn described(which: &DiskMatch) -> String {
    match (&which.serial, &which.wwn) {
        (Some(serial), Some(wwn)) => format!("serial {serial:?} with wwn {wwn:?}"),
        (Some(serial), None) => format!("serial {serial:?}"),
        (None, Some(wwn)) => format!("wwn {wwn:?}"),
        (None, None) => "named by nothing".to_owned(),
    }
}

pub(crate) fn stop(code: fault::Code, what: String, hint: &str) -> Fault {
    Fault::new(code, Kind::Precondition, what, hint)
}

#[cfg(test)]
mod tests {
    use inventory::Layout;

    use super::*;

    fn disk(path: &str, serial: Option<&str>, wwn: Option<&str>, gib: u64) -> Block {
        Block {
            path: path.into(),
            kind: BlockKind::Disk,
            bytes: gib * GIB,
            serial: serial.map(Into::into),
            wwn: wwn.map(Into::into),
            ..Block::default()
        }
    }

    fn wanted(serial: Option<&str>, wwn: Option<&str>) -> Disk {
        Disk {
            matches: DiskMatch { serial: serial.map(Into::into), wwn: wwn.map(Into::into) },
            min_gib: 8,
            max_gib: Some(100),
            layout: Layout::Single,
            mirror: None,
            consent_to_erase: vec!["B".into()],
        }
    }

    fn chosen(blocks: &[Block], wanted: &Disk) -> Result<String, fault::Code> {
        select(blocks, wanted).map(|disks| disks[0].path.clone()).map_err(|fault| fault.code)
    }

    #[test]
    fn exactly_one_disk_may_match() {
        let a = disk("/dev/sda", Some("A"), Some("0x5000C500"), 10);
        let b = disk("/dev/sdb", Some("B"), Some("naa.5000c501"), 10);
        let all = [a.clone(), b.clone()];
        let table = [
            (wanted(Some("A"), None), Ok("/dev/sda".to_owned())),
            (wanted(None, Some("0x5000c501")), Ok("/dev/sdb".to_owned())),
            (wanted(Some("A"), Some("wwn-0x5000c500")), Ok("/dev/sda".to_owned())),
            // both must fit
            (wanted(Some("A"), Some("0x5000c501")), Err(codes::DISK_NONE)),
            (wanted(Some("C"), None), Err(codes::DISK_NONE)),
            (wanted(Some(""), None), Err(codes::DISK_NONE)),
            (wanted(None, None), Err(codes::DISK_NONE)),
        ];
        for (wanted, expected) in table {
            assert_eq!(chosen(&all, &wanted), expected, "{wanted:?}");
        }
        let twin = disk("/dev/sdc", Some("A"), None, 10);
        let twins = [a.clone(), b.clone(), twin];
        assert_eq!(chosen(&twins, &wanted(Some("A"), None)), Err(codes::DISK_TWO));
        // a twin of another size is no proof
        let small = [a.clone(), disk("/dev/sdc", Some("A"), None, 1)];
        assert_eq!(chosen(&small, &wanted(Some("A"), None)), Err(codes::DISK_TWO));
    }

    #[test]
    fn size_and_writability_count() {
        for gib in [7, 101] {
            let odd = [disk("/dev/sda", Some("A"), None, gib)];
            assert_eq!(chosen(&odd, &wanted(Some("A"), None)), Err(codes::DISK_NONE));
        }
        let locked = Block { read_only: true, ..disk("/dev/sda", Some("A"), None, 10) };
        assert_eq!(chosen(&[locked], &wanted(Some("A"), None)), Err(codes::DISK_NONE));
        let part = Block { kind: BlockKind::Partition, ..disk("/dev/sda1", Some("A"), None, 10) };
        assert_eq!(chosen(&[part], &wanted(Some("A"), None)), Err(codes::DISK_NONE));
    }

    #[test]
    fn consent_is_by_serial() {
        assert!(consented(&disk("/dev/sdb", Some("B"), None, 10), &wanted(Some("B"), None)));
        assert!(!consented(&disk("/dev/sda", Some("A"), None, 10), &wanted(Some("A"), None)));
        assert!(!consented(&disk("/dev/sda", None, None, 10), &wanted(None, Some("x"))));
    }

    #[test]
    fn a_mirror_needs_two_disks() {
        let blocks = [disk("/dev/sda", Some("A"), None, 10), disk("/dev/sdb", Some("B"), None, 10)];
        let mut mirror = wanted(Some("A"), None);
        mirror.mirror = Some(DiskMatch { serial: Some("B".into()), wwn: None });
        assert_eq!(select(&blocks, &mirror).map(|disks| disks.len()), Ok(2));
        mirror.mirror = Some(mirror.matches.clone());
        assert_eq!(select(&blocks, &mirror).map_err(|f| f.code), Err(codes::DISK_TWO));
    }
}
