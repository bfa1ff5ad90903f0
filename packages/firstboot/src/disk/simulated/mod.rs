//! A machine in memory: disks as sparse sectors, filesystems with what is not synced yet, arrays
//! and mappings, mounts. Its power goes, or its agent is killed, at any operation: before it, in
//! the middle of it, or after it, by a seed.
//!
//! It also watches: an act on a disk that bears no claim of this order, on any other disk, or on
//! one that is laid out already is written down as a violation.

mod system;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fault::{Fault, Kind};

use super::claim::{END, SPARE, Sector, Stage};
use super::os::{
    Block, BlockKind, Disks, Expected, Format, Holder, Mount, Partition, Source, is_among,
};
use crate::codes;

pub(crate) const SECTOR: u64 = 512;
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Where in an operation it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    During,
    After,
}

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The machine: what was not synced may be lost, mounts are gone.
    Power,
    /// The agent: all else stays.
    Agent,
}

/// A disk.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    pub(crate) path: String,
    pub(crate) serial: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) read_only: bool,
    pub(crate) sectors: BTreeMap<u64, Vec<u8>>,
    /// The partitions that the kernel knows: first sector and length.
    known: Vec<(u64, u64)>,
}

/// Something that stands on devices, as long as they bear its signature.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    pub(crate) path: String,
    pub(crate) kind: BlockKind,
    pub(crate) parents: Vec<String>,
    pub(crate) signature: &'static str,
    pub(crate) mounted: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Volume {
    live: BTreeMap<PathBuf, Vec<u8>>,
    durable: BTreeMap<PathBuf, Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Mounted {
    device: String,
    place: PathBuf,
    root: PathBuf,
    volume: u64,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) stacks: Vec<Stack>,
    up: Vec<Stack>,
    volumes: BTreeMap<u64, Volume>,
    pub(crate) image: BTreeMap<PathBuf, Vec<u8>>,
    ram: BTreeMap<PathBuf, Vec<u8>>,
    mounts: Vec<Mounted>,
    pub(crate) server: BTreeMap<String, Vec<u8>>,
    pub(crate) from_disk: bool,
    /// The next start is of the system on the disk's first partition.
    pub(crate) root_on_disk: bool,
    /// The kernel takes no other one: it is locked down.
    pub(crate) kexec_refused: bool,
    /// The disk that may be changed, and the order under which.
    pub(crate) target: String,
    pub(crate) order: String,
    pub(crate) violations: Vec<String>,
    pub(crate) formats: u32,
    /// Making a filesystem fails, however often.
    pub(crate) formats_fail: bool,
    pub(crate) done: Vec<String>,
    pub(crate) cut: Option<(usize, Moment, Cut)>,
    /// A file that becomes another when a disk is zeroed.
    pub(crate) image_changes: Option<(PathBuf, Vec<u8>)>,
    dead: Option<Cut>,
    seed: u64,
}

/// The machine; its copies are the same machine.
#[derive(Clone, Default)]
pub(crate) struct Simulated(Arc<Mutex<State>>);

impl SimDisk {
    pub(crate) fn new(path: &str, serial: &str, gib: u64) -> SimDisk {
        SimDisk {
            path: path.into(),
            serial: Some(serial.into()),
            bytes: gib * GIB,
            read_only: false,
            sectors: BTreeMap::new(),
            known: Vec::new(),
        }
    }

    pub(crate) fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let sector = self.sectors.entry(at / SECTOR).or_insert_with(|| vec![0; 512]);
            sector[(at % SECTOR) as usize] = *byte;
        }
        self.sectors.retain(|_, sector| sector.iter().any(|&byte| byte != 0));
    }

    fn get(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let range = offset / SECTOR..=(offset + length as u64) / SECTOR;
        for (number, sector) in self.sectors.range(range) {
            for (at, byte) in (number * SECTOR..).zip(sector) {
                if let Some(place) =
                    at.checked_sub(offset).and_then(|at| bytes.get_mut(at as usize))
                {
                    *place = *byte;
                }
            }
        }
        bytes
    }

    /// Writes somebody's table with these partitions: first byte and length.
    pub(crate) fn divide(&mut self, parts: &[(u64, u64)]) {
        self.divide_as("somebody's table", parts);
    }

    /// Writes a table with this id.
    pub(crate) fn divide_as(&mut self, id: &str, parts: &[(u64, u64)]) {
        assert!(parts.len() <= 3, "there is no room for more beside the id");
        self.put(510, &[0x55, 0xaa]);
        let mut table = b"EFI PART".to_vec();
        for (first, length) in parts {
            table.extend((first / SECTOR).to_le_bytes());
            table.extend((length / SECTOR).to_le_bytes());
        }
        let sum = crc32c::crc32c(&table).to_le_bytes();
        table.resize(512, 0);
        let id = crate::install::fetch::hex_sum(id.as_bytes());
        table[56..72].copy_from_slice(&id.as_bytes()[..16]);
        table[88..92].copy_from_slice(&sum);
        self.put(SECTOR, &table);
        self.put(self.bytes - SECTOR, &table);
    }

    fn table(&self) -> Vec<(u64, u64)> {
        let table = self.get(SECTOR, 512);
        if !table.starts_with(b"EFI PART") {
            return Vec::new();
        }
        let word =
            |at: usize| u64::from_le_bytes(table[at..at + 8].try_into().expect("eight bytes"));
        (0..3).map(|n| (word(8 + 16 * n), word(16 + 16 * n))).filter(|part| part.1 > 0).collect()
    }

    /// The signatures of a part of the disk, each with the sector that bears it.
    fn signatures(&self, first: u64, length: u64) -> Vec<(&'static str, u64)> {
        let at = |sector: u64, within: usize, magic: &[u8]| {
            let bytes = self.get((first + sector) * SECTOR, 512);
            bytes[within..].starts_with(magic).then_some(first + sector)
        };
        let table: [(&'static str, u64, usize, &[u8]); 7] = [
            ("gpt", 1, 0, b"EFI PART"),
            ("gpt", length - 1, 0, b"EFI PART"),
            ("crypto_LUKS", 0, 0, b"LUKS"),
            ("LVM2_member", 1, 0, b"LABELONE"),
            ("linux_raid_member", 8, 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
            ("ext4", 2, 56, &[0x53, 0xef]),
            ("vfat", 0, 82, b"FAT32"),
        ];
        let mut found: Vec<_> = table
            .into_iter()
            .filter_map(|(name, sector, within, magic)| Some((name, at(sector, within, magic)?)))
            .collect();
        if first == 0 && self.get(510, 2) == [0x55, 0xaa] {
            found.push(("PMBR", 0));
        }
        found
    }

    /// What the disk holds, without what may differ from run to run.
    pub(crate) fn contents(&self) -> BTreeMap<u64, Vec<u8>> {
        self.sectors.clone()
    }
}

impl State {
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) ^ (self.seed >> 12)
    }

    fn chance(&mut self) -> bool {
        self.random() & 1 == 0
    }

    /// The disk of a device, with the first sector and length of the device on it.
    fn place(&self, device: &str) -> Option<(usize, u64, u64)> {
        self.disks.iter().enumerate().find_map(|(number, disk)| {
            if disk.path == device {
                return Some((number, 0, disk.bytes / SECTOR));
            }
            let part: usize = device.strip_prefix(&disk.path)?.parse().ok()?;
            let &(first, length) = disk.known.get(part.checked_sub(1)?)?;
            Some((number, first, length))
        })
    }

    fn in_use(&self, device: &str) -> bool {
        let within = |other: &str| {
            other == device
                || (self.disks.iter().any(|disk| disk.path == device)
                    && other.strip_prefix(device).is_some_and(|n| n.parse::<u32>().is_ok()))
        };
        self.mounts.iter().any(|mount| within(&mount.device))
            || self.up.iter().any(|stack| stack.parents.iter().any(|parent| within(parent)))
    }

    fn read_tables(&mut self) {
        for disk in &mut self.disks {
            disk.known = disk.table();
        }
    }

    /// Starts what still bears its signature, as udev does.
    fn assemble(&mut self) {
        let stacks = self.stacks.clone();
        for stack in stacks {
            let stands = stack.parents.iter().all(|parent| {
                self.up.iter().any(|below| below.path == *parent)
                    || self.names(parent).contains(&stack.signature)
            });
            if stands && !self.up.iter().any(|up| up.path == stack.path) {
                self.up.push(stack);
            }
        }
    }

    fn names(&self, device: &str) -> Vec<&'static str> {
        let Some((number, first, length)) = self.place(device) else { return Vec::new() };
        self.disks[number].signatures(first, length).into_iter().map(|(name, _)| name).collect()
    }

    /// The claim on the disk that may be changed.
    fn sector(&self) -> Sector {
        let disk = self.disks.iter().find(|disk| disk.path == self.target);
        disk.map_or(Sector::Nothing, |disk| {
            Sector::of_both(&disk.get(SPARE, (END - SPARE) as usize))
        })
    }

    /// Writes down what must never happen.
    fn watch(&mut self, what: &str, device: &str) {
        let on_target = device.starts_with(&self.target);
        let stage = match self.sector() {
            Sector::Claim(claim) if claim.install_id == self.order => Some(claim.stage),
            _ => None,
        };
        if !on_target || stage != Some(Stage::Claimed) {
            self.violations.push(format!("{what} on {device} at stage {stage:?}"));
        }
    }

    fn volume_of(&self, path: &Path) -> Option<(u64, PathBuf)> {
        let longest = self.mounts.iter().filter(|mount| path.starts_with(&mount.place));
        let mount = longest.max_by_key(|mount| mount.place.as_os_str().len())?;
        Some((mount.volume, mount.root.join(path.strip_prefix(&mount.place).ok()?)))
    }

    fn file(&self, path: &Path) -> Option<Vec<u8>> {
        let on_volume = self
            .volume_of(path)
            .and_then(|(volume, inner)| self.volumes.get(&volume)?.live.get(&inner).cloned());
        on_volume.or_else(|| self.ram.get(path).cloned())
    }

    fn set_file(&mut self, path: &Path, bytes: Option<Vec<u8>>) {
        let (files, inner) = match self.volume_of(path) {
            Some((volume, inner)) => (&mut self.volumes.entry(volume).or_default().live, inner),
            None => (&mut self.ram, path.to_owned()),
        };
        match bytes {
            Some(bytes) => files.insert(inner, bytes),
            None => files.remove(&inner),
        };
    }

    /// What was not synced is lost or kept, file by file.
    fn lose(&mut self) {
        let mut volumes = std::mem::take(&mut self.volumes);
        for volume in volumes.values_mut() {
            let names: Vec<PathBuf> =
                volume.live.keys().chain(volume.durable.keys()).cloned().collect();
            for name in names {
                if volume.live.get(&name) != volume.durable.get(&name) && self.chance() {
                    match volume.durable.get(&name) {
                        Some(bytes) => volume.live.insert(name, bytes.clone()),
                        None => volume.live.remove(&name),
                    };
                }
            }
            volume.durable = volume.live.clone();
        }
        self.volumes = volumes;
    }
}

fn gone() -> Fault {
    Fault::new(codes::DISK_COMMAND, Kind::Unavailable, "the power is gone", "")
}

fn failed(what: &str) -> Fault {
    Fault::new(codes::DISK_COMMAND, Kind::Unavailable, what, "")
}

impl Simulated {
    pub(crate) fn new(state: State) -> Simulated {
        let machine = Simulated(Arc::new(Mutex::new(state)));
        machine.power_on(1);
        machine
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    /// Starts the machine, or only its agent, after what ended it.
    pub(crate) fn power_on(&self, seed: u64) {
        let mut state = self.state();
        state.seed = seed.wrapping_mul(2).wrapping_add(1);
        state.cut = None;
        if state.dead.take() == Some(Cut::Agent) {
            return;
        }
        state.lose();
        state.mounts.clear();
        state.up.clear();
        state.ram = state.image.clone();
        state.read_tables();
        state.assemble();
        if state.root_on_disk {
            let device = format!("{}1", state.target);
            if let Some((number, first, _)) = state.place(&device) {
                let id = state.disks[number].get(first * SECTOR + 1100, 8);
                let volume = u64::from_le_bytes(id.try_into().expect("eight bytes"));
                let (place, root) = (PathBuf::from("/"), PathBuf::from("/"));
                state.mounts.push(Mounted { device, place, root, volume });
            }
        }
    }

    /// The machine is started anew.
    pub(crate) fn reboot(&self, seed: u64) {
        self.state().dead = Some(Cut::Power);
        self.power_on(seed);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead.is_some()
    }

    fn look(&self) -> Result<MutexGuard<'_, State>, Fault> {
        let state = self.state();
        if state.dead.is_some() { Err(gone()) } else { Ok(state) }
    }

    /// One operation: `half` is what may have happened when it is cut in the middle.
    fn operate(
        &self,
        name: String,
        half: impl FnOnce(&mut State),
        whole: impl FnOnce(&mut State) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut state = self.look()?;
        state.done.push(name);
        let moment = match state.cut {
            Some((at, moment, cut)) if at == state.done.len() - 1 => {
                state.dead = Some(cut);
                Some(moment)
            }
            _ => None,
        };
        match moment {
            Some(Moment::Before) => Err(gone()),
            Some(Moment::During) => {
                half(&mut state);
                Err(gone())
            }
            Some(Moment::After) => {
                whole(&mut state)?;
                Err(gone())
            }
            None => whole(&mut state),
        }
    }
}
