//! A machine in memory: disks as sparse sectors, filesystems with what is not synced yet, arrays
//! and mappings, mounts. Its power goes, or its agent is killed, at any operation: before it, in
//! the middle of it, or after it, by a seed.
//!
//! It also watches: an act on a disk that bears no claim of this order, on any other disk, or on
//! one that is laid out already is written down as a violation.

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
    /// The disk that may be changed, and the order under which.
    pub(crate) target: String,
    pub(crate) order: String,
    pub(crate) violations: Vec<String>,
    pub(crate) formats: u32,
    pub(crate) done: Vec<String>,
    pub(crate) cut: Option<(usize, Moment, Cut)>,
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

    /// Writes a table with these partitions: first byte and length.
    pub(crate) fn divide(&mut self, parts: &[(u64, u64)]) {
        self.put(510, &[0x55, 0xaa]);
        let mut table = b"EFI PART".to_vec();
        for (first, length) in parts {
            table.extend((first / SECTOR).to_le_bytes());
            table.extend((length / SECTOR).to_le_bytes());
        }
        table.resize(512, 0);
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
        (0..8).map(|n| (word(8 + 16 * n), word(16 + 16 * n))).filter(|part| part.1 > 0).collect()
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

impl Disks for Simulated {
    async fn blocks(&self) -> Result<Vec<Block>, Fault> {
        let state = self.look()?;
        let mut blocks = Vec::new();
        let places = |device: &str| -> Vec<String> {
            let on = state.mounts.iter().filter(|mount| mount.device == device);
            on.map(|mount| mount.place.to_string_lossy().into_owned()).collect()
        };
        for disk in &state.disks {
            blocks.push(Block {
                path: disk.path.clone(),
                kind: BlockKind::Disk,
                bytes: disk.bytes,
                serial: disk.serial.clone(),
                mounted: places(&disk.path),
                ..Block::default()
            });
            for (number, (_, length)) in (1..).zip(&disk.known) {
                let path = format!("{}{number}", disk.path);
                blocks.push(Block {
                    kind: BlockKind::Partition,
                    bytes: length * SECTOR,
                    mounted: places(&path),
                    parents: vec![disk.path.clone()],
                    path,
                    ..Block::default()
                });
            }
        }
        for stack in &state.up {
            blocks.push(Block {
                path: stack.path.clone(),
                kind: stack.kind.clone(),
                mounted: stack.mounted.clone(),
                parents: stack.parents.clone(),
                ..Block::default()
            });
        }
        Ok(blocks)
    }

    async fn signatures(&self, device: &str) -> Result<Vec<String>, Fault> {
        Ok(self.look()?.names(device).into_iter().map(str::to_owned).collect())
    }

    async fn read(&self, device: &str, offset: u64, length: usize) -> Result<Vec<u8>, Fault> {
        let state = self.look()?;
        let (number, first, _) = state.place(device).ok_or_else(|| failed("no such device"))?;
        Ok(state.disks[number].get(first * SECTOR + offset, length))
    }

    async fn is_same(&self, disk: &Block) -> Result<bool, Fault> {
        Ok(is_among(&self.blocks().await?, disk))
    }

    async fn booted_from_disk(&self) -> Result<bool, Fault> {
        Ok(self.look()?.from_disk)
    }

    async fn write(&self, device: &str, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let write = |state: &mut State, length: usize| {
            if !device.starts_with(&state.target) {
                state.violations.push(format!("write on {device}"));
            }
            let (number, first, _) = state.place(device).ok_or_else(|| failed("no device"))?;
            state.disks[number].put(first * SECTOR + offset, &bytes[..length]);
            Ok(())
        };
        self.operate(
            format!("write {device} {offset}"),
            |state| {
                let length = state.random() as usize % bytes.len();
                let _ = write(state, length);
            },
            |state| write(state, bytes.len()),
        )
    }

    async fn zero(&self, device: &str, offset: u64, length: u64) -> Result<(), Fault> {
        let zero = |state: &mut State, half: bool| {
            state.watch("zero", device);
            let Some((number, _, _)) = state.place(device) else { return Err(failed("no device")) };
            let range = offset / SECTOR..(offset + length) / SECTOR;
            let hit: Vec<u64> = state.disks[number].sectors.range(range).map(|(n, _)| *n).collect();
            for sector in hit {
                if !half || state.chance() {
                    state.disks[number].sectors.remove(&sector);
                }
            }
            Ok(())
        };
        self.operate(
            format!("zero {device} {offset}"),
            |state| drop(zero(state, true)),
            |state| zero(state, false),
        )
    }

    async fn release(&self, holder: &Holder) -> Result<(), Fault> {
        self.operate(
            format!("release {holder:?}"),
            |_| {},
            |state| {
                match holder {
                    Holder::Mount(place) => {
                        let there = state.mounts.iter().rposition(|m| m.place == Path::new(place));
                        if let Some(at) = there {
                            let mount = state.mounts.remove(at);
                            let volume = state.volumes.entry(mount.volume).or_default();
                            volume.durable = volume.live.clone();
                        }
                        for stack in &mut state.up {
                            stack.mounted.retain(|mounted| mounted != place);
                        }
                    }
                    Holder::Swap(device) => {
                        for stack in state.up.iter_mut().filter(|stack| stack.path == *device) {
                            stack.mounted.retain(|mounted| mounted != "[SWAP]");
                        }
                    }
                    Holder::Mapping(device) | Holder::Array(device) => {
                        if state.in_use(device)
                            || state.up.iter().any(|s| s.path == *device && !s.mounted.is_empty())
                        {
                            return Err(failed("device or resource busy"));
                        }
                        state.up.retain(|stack| stack.path != *device);
                    }
                }
                Ok(())
            },
        )
    }

    async fn erase_signatures(&self, device: &str) -> Result<(), Fault> {
        let erase = |state: &mut State, half: bool| {
            if state.up.iter().any(|stack| stack.path == device) {
                return Ok(());
            }
            state.watch("erase", device);
            if state.in_use(device) {
                return Err(failed("probing initialization failed: Device or resource busy"));
            }
            let Some((number, first, length)) = state.place(device) else {
                return Err(failed("no device"));
            };
            for (_, sector) in state.disks[number].signatures(first, length) {
                if !half || state.chance() {
                    state.disks[number].sectors.remove(&sector);
                }
            }
            Ok(())
        };
        self.operate(
            format!("erase {device}"),
            |state| drop(erase(state, true)),
            |state| erase(state, false),
        )
    }

    async fn partition(&self, disk: &str, _uuid: &str, parts: &[Partition]) -> Result<(), Fault> {
        let divide = |state: &mut State, half: bool| {
            state.watch("partition", disk);
            let Some((number, _, _)) = state.place(disk) else { return Err(failed("no device")) };
            let mut first = MIB;
            let mut ranges = Vec::new();
            for part in parts {
                let left = state.disks[number].bytes - first - MIB;
                let length = part.mib.map_or(left, |mib| u64::from(mib) * MIB);
                ranges.push((first, length));
                first += length;
            }
            let before = state.disks[number].clone();
            state.disks[number].divide(&ranges);
            let end = state.disks[number].bytes / SECTOR - 1;
            for sector in [0, 1, end] {
                if half && state.chance() {
                    let old = before.get(sector * SECTOR, 512);
                    state.disks[number].put(sector * SECTOR, &old);
                }
            }
            Ok(())
        };
        self.operate(
            format!("partition {disk}"),
            |state| drop(divide(state, true)),
            |state| divide(state, false),
        )
    }

    async fn reread(&self, disk: &str) -> Result<(), Fault> {
        self.operate(
            format!("reread {disk}"),
            |_| {},
            |state| {
                if state.in_use(disk) {
                    return Err(failed("BLKRRPART: Device or resource busy"));
                }
                state.read_tables();
                Ok(())
            },
        )
    }

    async fn format(&self, device: &str, format: &Format) -> Result<(), Fault> {
        let make = |state: &mut State| {
            state.watch("format", device);
            let Some((number, first, _)) = state.place(device) else {
                return Err(failed("no device"));
            };
            let id = state.volumes.len() as u64 + 1;
            state.volumes.insert(id, Volume::default());
            let mut block = vec![0; 2048];
            match format {
                Format::Vfat { .. } => block[82..87].copy_from_slice(b"FAT32"),
                Format::Ext4 { .. } => block[1080..1082].copy_from_slice(&[0x53, 0xef]),
            }
            block[1100..1108].copy_from_slice(&id.to_le_bytes());
            state.disks[number].put(first * SECTOR, &block);
            state.formats += 1;
            Ok(())
        };
        self.operate(
            format!("format {device}"),
            |state| {
                if state.chance() {
                    let _ = make(state);
                }
            },
            make,
        )
    }

    async fn bios_loader(&self, place: &Path, device: &str) -> Result<(), Fault> {
        self.operate(
            format!("bios loader {device}"),
            |_| {},
            |state| {
                state.set_file(&place.join("ldlinux.sys"), Some(b"loader".to_vec()));
                Ok(())
            },
        )
    }

    async fn mounts(&self) -> Result<Vec<Mount>, Fault> {
        let state = self.look()?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let all = state.mounts.iter().map(|mount| Mount {
            device: mount.device.clone(),
            place: text(&mount.place),
            root: text(&mount.root),
        });
        Ok(all.collect())
    }

    async fn mount(&self, device: &str, place: &Path, kind: &str) -> Result<(), Fault> {
        self.operate(
            format!("mount {device}"),
            |_| {},
            |state| {
                let (number, first, _) = state.place(device).ok_or_else(|| failed("no device"))?;
                if !state.names(device).contains(&kind) {
                    return Err(failed("wrong fs type, bad superblock"));
                }
                let id = state.disks[number].get(first * SECTOR + 1100, 8);
                let volume = u64::from_le_bytes(id.try_into().expect("eight bytes"));
                state.mounts.push(Mounted {
                    device: device.into(),
                    place: place.into(),
                    root: "/".into(),
                    volume,
                });
                Ok(())
            },
        )
    }

    async fn bind(&self, from: &Path, place: &Path) -> Result<(), Fault> {
        self.operate(
            format!("bind {}", place.display()),
            |_| {},
            |state| {
                let (volume, root) = state.volume_of(from).ok_or_else(|| failed("not mounted"))?;
                let device = state.mounts.iter().find(|mount| mount.volume == volume);
                let device = device.map(|mount| mount.device.clone()).unwrap_or_default();
                state.mounts.push(Mounted { device, place: place.into(), root, volume });
                Ok(())
            },
        )
    }

    async fn real_path(&self, path: &Path) -> Result<PathBuf, Fault> {
        Ok(path.to_owned())
    }

    async fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self.look()?.file(path))
    }

    async fn file_bytes(&self, path: &Path) -> Result<Option<u64>, Fault> {
        Ok(self.look()?.file(path).map(|bytes| bytes.len() as u64))
    }

    async fn make_folder(&self, _path: &Path) -> Result<(), Fault> {
        self.look().map(drop)
    }

    async fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        self.operate(
            format!("write {}", path.display()),
            |state| {
                let length = state.random() as usize % (bytes.len() + 1);
                state.set_file(path, Some(bytes[..length].to_vec()));
            },
            |state| {
                state.set_file(path, Some(bytes.to_vec()));
                Ok(())
            },
        )
    }

    async fn copy(
        &self,
        source: &Source,
        path: &Path,
        expected: Option<&Expected>,
    ) -> Result<(), Fault> {
        let found = match source {
            Source::File(from) => self.look()?.file(from),
            Source::Url(url) => self.look()?.server.get(url).cloned(),
        };
        let bytes = found.ok_or_else(|| failed("no such file"))?;
        if let Some(expected) = expected
            && expected.sha256 != crate::install::fetch::hex_sum(&bytes)
        {
            return Err(Fault::new(codes::IMAGE, Kind::Unavailable, "the sum differs", ""));
        }
        self.write_file(path, &bytes).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        self.operate(
            format!("rename {}", to.display()),
            |_| {},
            |state| {
                let bytes = state.file(from).ok_or_else(|| failed("no such file"))?;
                state.set_file(from, None);
                state.set_file(to, Some(bytes));
                Ok(())
            },
        )
    }

    async fn sync_folder(&self, path: &Path) -> Result<(), Fault> {
        self.operate(
            format!("sync {}", path.display()),
            |_| {},
            |state| {
                if let Some((volume, inner)) = state.volume_of(path) {
                    let volume = state.volumes.entry(volume).or_default();
                    volume.durable.retain(|name, _| name.parent() != Some(&inner));
                    let here = volume.live.iter().filter(|(name, _)| name.parent() == Some(&inner));
                    let here: Vec<_> =
                        here.map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
                    volume.durable.extend(here);
                }
                Ok(())
            },
        )
    }

    /// What the NixOS target runs, as far as its effects go: disko's scripts, the install, and
    /// going over to the system, which ends this one.
    async fn run(&self, program: &str, args: &[String], _within: Duration) -> Result<(), Fault> {
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        let target = self.look()?.target.clone();
        match name.as_str() {
            "format-mount" => {
                let part = Partition {
                    label: "root",
                    uuid: String::new(),
                    code: "8300",
                    mib: None,
                    bios_boots: false,
                };
                self.partition(&target, "", &[part]).await?;
                self.reread(&target).await?;
                let root = Format::Ext4 { label: "root", uuid: String::new() };
                self.format(&format!("{target}1"), &root).await?;
                self.mount(&format!("{target}1"), Path::new("/mnt"), "ext4").await
            }
            "mount" => self.mount(&format!("{target}1"), Path::new("/mnt"), "ext4").await,
            "systemctl" => {
                let mut state = self.look()?;
                state.done.push(format!("systemctl {}", args.join(" ")));
                state.root_on_disk = true;
                state.dead = Some(Cut::Power);
                Err(gone())
            }
            _ => self.operate(format!("run {name} {}", args.join(" ")), |_| {}, |_| Ok(())),
        }
    }
}
