//! What the operating system says of disks and does to them: the one border of the disk and
//! install steps. [`RealDisks`](super::RealDisks) runs the system's commands; the tests' machine
//! holds disks as sectors in memory and loses power after any operation.
//!
//! Every method that changes something is durable when it returns, but for `rename`, which is
//! durable after `sync_folder`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fault::Fault;

/// A block device: a disk, a partition, or what is stacked on them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// `/dev/vda`.
    pub(crate) path: String,
    /// What it is.
    pub(crate) kind: BlockKind,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its serial number.
    pub(crate) serial: Option<String>,
    /// Its world wide name.
    pub(crate) wwn: Option<String>,
    /// What it is called.
    pub(crate) model: Option<String>,
    /// Whether it turns.
    pub(crate) rotational: bool,
    /// The kernel's number for this disk in this place: a disk that is plugged again has another.
    pub(crate) sequence: Option<u64>,
    /// Whether it cannot be written.
    pub(crate) read_only: bool,
    /// Where it is mounted; `[SWAP]` for swap.
    pub(crate) mounted: Vec<String>,
    /// The devices it is made of.
    pub(crate) parents: Vec<String>,
}

/// What a block device is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// A whole disk.
    Disk,
    /// A part of one.
    Partition,
    /// A mapping: LVM, LUKS, multipath.
    Mapping,
    /// An md array.
    Array,
    /// A file as a disk.
    Loop,
    /// Anything else: optical, floppy, memory.
    #[default]
    Other,
}

/// What holds a device and is to let go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// A mount, by its place.
    Mount(String),
    /// Swap, by its device.
    Swap(String),
    /// A device-mapper mapping (LVM, LUKS), by its device.
    Mapping(String),
    /// An md array, by its device.
    Array(String),
}

/// A partition to make. The first begins at 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its name in the table.
    pub(crate) label: &'static str,
    /// Its own id.
    pub(crate) uuid: String,
    /// Its type, as sgdisk names it.
    pub(crate) code: &'static str,
    /// Its size; what is left when missing.
    pub(crate) mib: Option<u32>,
    /// Whether a BIOS boots from it.
    pub(crate) bios_boots: bool,
}

/// A filesystem to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// FAT32, with the volume's number.
    Vfat { label: &'static str, number: u32 },
    /// ext4, with its id.
    Ext4 { label: &'static str, uuid: String },
}

/// Where a file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of the running system.
    File(PathBuf),
    /// The boot server.
    Url(String),
}

/// What a file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// In lower-case hex.
    pub(crate) sha256: String,
    /// Its size.
    pub(crate) bytes: u64,
}

/// A mount as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The device, or whatever the filesystem names instead.
    pub(crate) device: String,
    /// The folder.
    pub(crate) place: String,
    /// For a bind mount the folder within the device; `/` otherwise.
    pub(crate) root: String,
}

/// The operating system.
#[allow(async_fn_in_trait, reason = "one implementation for the system and one for tests")]
pub(crate) trait Disks {
    /// All block devices, once the kernel and udev have settled.
    async fn blocks(&self) -> Result<Vec<Block>, Fault>;
    /// The names of all signatures on a device: `gpt`, `ext4`, `linux_raid_member`, …
    async fn signatures(&self, device: &str) -> Result<Vec<String>, Fault>;
    /// Of which arrays, volume groups and pools a device is a part, by their ids, whether or not
    /// they run: at rest nothing stands above the device that would show it.
    async fn groups(&self, device: &str) -> Result<Vec<String>, Fault>;
    /// Bytes of a device, past the page cache of its partitions.
    async fn read(&self, device: &str, offset: u64, length: usize) -> Result<Vec<u8>, Fault>;
    /// Whether a disk's name still means the disk that was seen.
    async fn is_same(&self, disk: &Block) -> Result<bool, Fault>;
    /// Whether the running system was booted from a disk, which it then must not lay out.
    async fn booted_from_disk(&self) -> Result<bool, Fault>;

    /// Writes bytes to a device.
    async fn write(&self, device: &str, offset: u64, bytes: &[u8]) -> Result<(), Fault>;
    /// Writes zeros to a device.
    async fn zero(&self, device: &str, offset: u64, length: u64) -> Result<(), Fault>;
    /// Makes a holder let go. One that is gone already is success.
    async fn release(&self, holder: &Holder) -> Result<(), Fault>;
    /// Erases all signatures.
    async fn erase_signatures(&self, device: &str) -> Result<(), Fault>;
    /// Writes a partition table.
    async fn partition(&self, disk: &str, uuid: &str, parts: &[Partition]) -> Result<(), Fault>;
    /// Makes the kernel read the partition table again.
    async fn reread(&self, disk: &str) -> Result<(), Fault>;
    /// Makes a filesystem.
    async fn format(&self, device: &str, format: &Format) -> Result<(), Fault>;
    /// Makes the filesystem at `place`, which is the partition `device`, bootable by a BIOS.
    async fn bios_loader(&self, place: &Path, device: &str) -> Result<(), Fault>;

    /// All mounts.
    async fn mounts(&self) -> Result<Vec<Mount>, Fault>;
    /// Mounts a device, making the folder.
    async fn mount(&self, device: &str, place: &Path, kind: &str) -> Result<(), Fault>;
    /// Mounts a folder in a second place, making both.
    async fn bind(&self, from: &Path, place: &Path) -> Result<(), Fault>;

    /// What a path is behind its links.
    async fn real_path(&self, path: &Path) -> Result<PathBuf, Fault>;
    /// A small file; `None` when there is none.
    async fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault>;
    /// A file's size; `None` when there is none.
    async fn file_bytes(&self, path: &Path) -> Result<Option<u64>, Fault>;
    /// A file's size and sum; `None` when there is none.
    async fn sum(&self, path: &Path) -> Result<Option<Expected>, Fault>;
    /// Makes a folder and those above it.
    async fn make_folder(&self, path: &Path) -> Result<(), Fault>;
    /// Writes a file in place and syncs it.
    async fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault>;
    /// Copies a file in place and syncs it; its size and sum are checked when they are given.
    async fn copy(
        &self,
        source: &Source,
        path: &Path,
        expected: Option<&Expected>,
    ) -> Result<(), Fault>;
    /// The manifest of the boot server's images, which the cluster's CA vouches for.
    async fn manifest(&self) -> Result<Vec<u8>, Fault>;
    /// Gives a file its name.
    async fn rename(&self, from: &Path, to: &Path) -> Result<(), Fault>;
    /// Makes the names in a folder durable.
    async fn sync_folder(&self, path: &Path) -> Result<(), Fault>;

    /// Runs another program to its end; what it prints on its error stream is in the fault.
    async fn run(&self, program: &str, args: &[String], within: Duration) -> Result<(), Fault>;
}

/// Whether a list of devices has this very disk under its name.
pub(crate) fn is_among(blocks: &[Block], disk: &Block) -> bool {
    blocks.iter().any(|block| {
        block.path == disk.path
            && block.serial == disk.serial
            && block.wwn == disk.wwn
            && block.bytes == disk.bytes
    })
}

/// Writes a file so that a power cut leaves the old one or the new one.
pub(crate) async fn put<D: Disks>(disks: &D, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let new = beside(path);
    if let Some(folder) = path.parent() {
        disks.make_folder(folder).await?;
    }
    disks.write_file(&new, bytes).await?;
    take_name(disks, &new, path).await
}

/// As [`put`], from a source.
pub(crate) async fn put_copy<D: Disks>(
    disks: &D,
    source: &Source,
    path: &Path,
    expected: Option<&Expected>,
) -> Result<(), Fault> {
    let new = beside(path);
    if let Some(folder) = path.parent() {
        disks.make_folder(folder).await?;
    }
    disks.copy(source, &new, expected).await?;
    take_name(disks, &new, path).await
}

async fn take_name<D: Disks>(disks: &D, new: &Path, path: &Path) -> Result<(), Fault> {
    disks.rename(new, path).await?;
    match path.parent() {
        Some(folder) => disks.sync_folder(folder).await,
        None => Ok(()),
    }
}

/// The name under which a file is written: FAT keeps it too.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}
