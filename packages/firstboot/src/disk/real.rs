//! The running system's disks: util-linux, gdisk, mdadm, device-mapper, mkfs, and the kernel.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fault::{Fault, Kind};
use rpc::{Https, Tls};

use super::os::{
    Block, BlockKind, Disks, Expected, Format, Holder, Mount, Partition, Source, is_among,
};
use super::parse;
use crate::bootserver::patient;
use crate::install::fetch;
use crate::{MachineSettings, Settings, codes, command, kernel};

const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);
/// Files that are read whole are no longer than this.
const FILE_MAX: u64 = 1 << 20;
const ZEROS: usize = 1 << 16;
const LSBLK: &str = "NAME,TYPE,SIZE,SERIAL,WWN,MODEL,ROTA,RO,MOUNTPOINTS";

/// The system's disks.
pub(crate) struct RealDisks {
    machine: MachineSettings,
    loop_serials: BTreeMap<String, String>,
    bootserver: String,
    ca: PathBuf,
}

impl RealDisks {
    pub(crate) fn new(settings: &Settings) -> Self {
        RealDisks {
            machine: settings.machine.clone(),
            loop_serials: settings.disk.loop_serials.clone(),
            bootserver: settings.bootserver.trim_end_matches('/').to_owned(),
            ca: settings.ca.clone(),
        }
    }

    async fn tool(&self, name: &str, args: &[&str], within: Duration) -> Result<Vec<u8>, Fault> {
        command::run(&self.machine.tool(name), args, within).await
    }

    /// udev's queue is empty; where there is no udev there is nothing to wait for.
    async fn settle(&self) {
        if self.machine.path("/run/udev/control").exists() {
            let settled = self.tool("udevadm", &["settle", "--timeout=30"], SHORT).await;
            if let Err(fault) = settled {
                tracing::warn!(%fault, "udev does not settle");
            }
        }
    }

    /// The kernel's number for a disk in this place, and its size in sectors.
    fn sequence(&self, path: &str) -> Option<(u64, u64)> {
        let name = path.trim_start_matches("/dev/");
        let number = |file: &str| {
            let path = self.machine.path(&format!("/sys/block/{name}/{file}"));
            fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Some((number("diskseq")?, number("size")?))
    }

    /// What lsblk learns from udev alone, from the kernel.
    fn complete(&self, block: &mut Block) {
        block.sequence = self.sequence(&block.path).map(|(sequence, _)| sequence);
        if block.kind == BlockKind::Loop {
            block.serial = self.loop_serials.get(&block.path).cloned();
        }
        if block.kind != BlockKind::Disk {
            return;
        }
        let name = block.path.trim_start_matches("/dev/");
        let read = |file: &str| {
            let path = self.machine.path(&format!("/sys/block/{name}/{file}"));
            let text = fs::read_to_string(path).ok()?;
            let text = text.trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        if block.serial.is_none() {
            block.serial = read("serial").or_else(|| read("device/serial"));
        }
        if block.wwn.is_none() {
            block.wwn = read("wwid").or_else(|| read("device/wwid"));
        }
    }
}

impl Disks for RealDisks {
    async fn blocks(&self) -> Result<Vec<Block>, Fault> {
        self.settle().await;
        let args = ["--json", "--bytes", "--paths", "--output", LSBLK];
        let mut blocks = parse::lsblk(&self.tool("lsblk", &args, SHORT).await?)?;
        for block in &mut blocks {
            self.complete(block);
        }
        Ok(blocks)
    }

    async fn signatures(&self, device: &str) -> Result<Vec<String>, Fault> {
        parse::wipefs(&self.tool("wipefs", &["--json", "--", device], SHORT).await?)
    }

    async fn groups(&self, device: &str) -> Result<Vec<String>, Fault> {
        let text = self.tool("wipefs", &["--json", "--", device], SHORT).await?;
        let mut groups = parse::wholes(&text)?;
        if parse::wipefs(&text)?.iter().any(|name| name == "LVM2_member") {
            // without locks, and whatever list of devices the image has
            let config = "devices { use_devicesfile = 0 }";
            let args = ["--readonly", "--config", config, "--reportformat", "json"];
            let args = [&args[..], &["--options", "pv_name,vg_uuid", "--", device]].concat();
            groups.extend(parse::pvs(&self.tool("pvs", &args, SHORT).await?)?);
        }
        Ok(groups)
    }

    async fn read(&self, device: &str, offset: u64, length: usize) -> Result<Vec<u8>, Fault> {
        let device = PathBuf::from(device);
        blocking(move || {
            let mut file = File::open(&device)?;
            // what partitions and earlier programs wrote may stand in another cache
            flush_cache(&file);
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; length];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        })
        .await
    }

    async fn is_same(&self, disk: &Block) -> Result<bool, Fault> {
        match (disk.sequence, self.sequence(&disk.path)) {
            (Some(seen), Some((now, sectors))) => Ok(seen == now && sectors * 512 == disk.bytes),
            // a kernel before 5.15 does not count
            _ => Ok(is_among(&self.blocks().await?, disk)),
        }
    }

    async fn booted_from_disk(&self) -> Result<bool, Fault> {
        Ok(kernel::argument(&self.machine, "plasma.disk").is_some())
    }

    async fn write(&self, device: &str, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let (device, bytes) = (PathBuf::from(device), bytes.to_vec());
        blocking(move || {
            let mut file = OpenOptions::new().write(true).open(&device)?;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(&bytes)?;
            file.sync_all()
        })
        .await
    }

    async fn zero(&self, device: &str, offset: u64, length: u64) -> Result<(), Fault> {
        let device = PathBuf::from(device);
        blocking(move || {
            let mut file = OpenOptions::new().write(true).open(&device)?;
            file.seek(SeekFrom::Start(offset))?;
            let zeros = [0; ZEROS];
            let mut left = length;
            while left > 0 {
                let now = left.min(ZEROS as u64) as usize;
                file.write_all(zeros.get(..now).unwrap_or_default())?;
                left -= now as u64;
            }
            file.sync_all()
        })
        .await
    }

    async fn release(&self, holder: &Holder) -> Result<(), Fault> {
        match holder {
            Holder::Mount(place) => self.tool("umount", &["--", place], SHORT).await?,
            Holder::Swap(device) => self.tool("swapoff", &["--", device], LONG).await?,
            // one way for LVM and LUKS, and one that writes nothing to any disk
            Holder::Mapping(device) if !Path::new(device).exists() => Vec::new(),
            Holder::Mapping(device) => {
                self.tool("dmsetup", &["remove", "--retry", device], SHORT).await?
            }
            Holder::Array(device) if !Path::new(device).exists() => Vec::new(),
            Holder::Array(device) => self.tool("mdadm", &["--stop", device], SHORT).await?,
        };
        Ok(())
    }

    async fn erase_signatures(&self, device: &str) -> Result<(), Fault> {
        // without --force: a device that something holds is refused
        self.tool("wipefs", &["--all", "--", device], SHORT).await?;
        let device = PathBuf::from(device);
        blocking(move || File::open(&device)?.sync_all()).await
    }

    async fn partition(&self, disk: &str, uuid: &str, parts: &[Partition]) -> Result<(), Fault> {
        let mut args = vec!["--clear".to_owned(), format!("--disk-guid={uuid}")];
        for (number, part) in (1..).zip(parts) {
            let first = if number == 1 { 2048 } else { 0 };
            let last = part.mib.map_or("0".to_owned(), |mib| format!("+{mib}M"));
            args.push(format!("--new={number}:{first}:{last}"));
            args.push(format!("--typecode={number}:{}", part.code));
            args.push(format!("--change-name={number}:{}", part.label));
            args.push(format!("--partition-guid={number}:{}", part.uuid));
            if part.bios_boots {
                args.push(format!("--attributes={number}:set:2"));
            }
        }
        args.push(disk.to_owned());
        command::run(&self.machine.tool("sgdisk"), &args, SHORT).await?;
        let disk = PathBuf::from(disk);
        blocking(move || File::open(&disk)?.sync_all()).await
    }

    async fn reread(&self, disk: &str) -> Result<(), Fault> {
        self.settle().await;
        self.tool("blockdev", &["--rereadpt", disk], SHORT).await?;
        // a kernel that does not read GPT is told; it fails where there is no table, as it should
        if let Err(fault) = self.tool("partx", &["--update", disk], SHORT).await {
            tracing::debug!(%fault, "no partitions");
        }
        self.settle().await;
        Ok(())
    }

    async fn format(&self, device: &str, format: &Format) -> Result<(), Fault> {
        match format {
            Format::Vfat { label, number } => {
                let number = format!("{number:08x}");
                let args = ["-F", "32", "-n", label, "-i", &number, device];
                self.tool("mkfs.vfat", &args, LONG).await?;
            }
            Format::Ext4 { label, uuid } => {
                let args = ["-q", "-F", "-m", "1", "-L", label, "-U", uuid, device];
                self.tool("mkfs.ext4", &args, LONG).await?;
            }
        }
        let device = PathBuf::from(device);
        blocking(move || File::open(&device)?.sync_all()).await?;
        self.settle().await;
        Ok(())
    }

    async fn bios_loader(&self, place: &Path, _device: &str) -> Result<(), Fault> {
        let place = place.to_string_lossy();
        self.tool("extlinux", &["--install", &place], SHORT).await?;
        self.tool("sync", &["--file-system", &place], SHORT).await?;
        Ok(())
    }

    async fn mounts(&self) -> Result<Vec<Mount>, Fault> {
        let path = self.machine.path("/proc/self/mountinfo");
        let text = fs::read_to_string(&path).map_err(|error| cannot("read", &path, &error))?;
        Ok(parse::mountinfo(&text))
    }

    async fn mount(&self, device: &str, place: &Path, kind: &str) -> Result<(), Fault> {
        self.make_folder(place).await?;
        let place = place.to_string_lossy();
        self.tool("mount", &["-t", kind, "-o", "noatime", "--", device, &place], SHORT).await?;
        Ok(())
    }

    async fn bind(&self, from: &Path, place: &Path) -> Result<(), Fault> {
        self.make_folder(from).await?;
        self.make_folder(place).await?;
        let (from, place) = (from.to_string_lossy(), place.to_string_lossy());
        self.tool("mount", &["--bind", "--", &from, &place], SHORT).await?;
        Ok(())
    }

    async fn real_path(&self, path: &Path) -> Result<PathBuf, Fault> {
        fs::canonicalize(path).map_err(|error| cannot("find", path, &error))
    }

    async fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot("read", path, &error)),
        };
        let mut bytes = Vec::new();
        let read = file.take(FILE_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| cannot("read", path, &error))?;
        if bytes.len() as u64 > FILE_MAX {
            let long = std::io::Error::other("it is longer than 1 MiB");
            return Err(cannot("read", path, &long));
        }
        Ok(Some(bytes))
    }

    async fn file_bytes(&self, path: &Path) -> Result<Option<u64>, Fault> {
        match fs::metadata(path) {
            Ok(found) => Ok(found.is_file().then_some(found.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("look at", path, &error)),
        }
    }

    async fn sum(&self, path: &Path) -> Result<Option<Expected>, Fault> {
        fetch::sum_of(path).await
    }

    async fn make_folder(&self, path: &Path) -> Result<(), Fault> {
        fs::create_dir_all(path).map_err(|error| cannot("make", path, &error))
    }

    async fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        let written = File::create(path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|error| cannot("write", path, &error))
    }

    async fn copy(
        &self,
        source: &Source,
        path: &Path,
        expected: Option<&Expected>,
    ) -> Result<(), Fault> {
        fetch::to_file(source, path, expected).await
    }

    async fn manifest(&self) -> Result<Vec<u8>, Fault> {
        let https = Https::new(&Tls::trust(&self.ca)?);
        let url = format!("{}/boot/images/manifest.json", self.bootserver);
        let text = https.get_text(&url).await.map_err(|error| patient(error.into()))?;
        Ok(text.into_bytes())
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        fs::rename(from, to).map_err(|error| cannot("rename", from, &error))
    }

    async fn sync_folder(&self, path: &Path) -> Result<(), Fault> {
        let synced = File::open(path).and_then(|folder| folder.sync_all());
        synced.map_err(|error| cannot("sync", path, &error))
    }

    async fn run(&self, program: &str, args: &[String], within: Duration) -> Result<(), Fault> {
        let program =
            if program.contains('/') { program.into() } else { self.machine.tool(program) };
        command::run(&program, args, within).await.map(drop)
    }
}

/// A device's page cache may be older than what was written through its partitions. Failing is no
/// harm: the cache is right in all but that case, and a loaded machine may refuse.
fn flush_cache(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let ended = tokio::task::spawn_blocking(work).await;
    let done = ended.map_err(|error| device_fault(error.to_string()))?;
    done.map_err(|error| device_fault(error.to_string()))
}

fn device_fault(why: String) -> Fault {
    Fault::new(
        codes::DISK_COMMAND,
        Kind::Unavailable,
        format!("a disk cannot be read or written: {why}"),
        "look at the kernel's log; the disk or its cable may be failing",
    )
}

fn cannot(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Fault {
    Fault::new(
        codes::INSTALL_FILE,
        Kind::Unavailable,
        format!("cannot {what} {}: {error}", path.display()),
        "look whether the disk is full, read-only or failing",
    )
}

#[cfg(test)]
mod tests {
    use inventory::Inventory;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::install::manifest;

    #[tokio::test]
    async fn the_manifest_comes_from_whom_the_cluster_trusts() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
        let inventory = Inventory::parse(Inventory::built_in()).expect("built in");
        for state in [&ours, &other] {
            let certificates = bootserver::CertificateSettings::default();
            drop(bootserver::Folder::init(state, &inventory, &certificates).expect("a CA"));
        }
        let images = dir.path().join("images");
        fs::create_dir(&images).expect("a folder");
        let text = manifest::sample(&[("vmlinuz", b"k"), ("initrd", b"i")]);
        fs::write(images.join("manifest.json"), &text).expect("a manifest");
        let settings = format!(
            "state_dir = {ours:?}\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
             [boot]\nlisten = \"127.0.0.1:0\"\nimages = {images:?}\n"
        );
        let settings = ::settings::parse(Path::new("boot.toml"), &settings).expect("settings");
        let stop = CancellationToken::new();
        let running = bootserver::start(settings, inventory, stop.clone()).await.expect("starts");
        let disks = |state: &Path| {
            let ca = state.join("ca/ca.pem");
            let text = format!("bootserver = \"https://{}\"\nca = {ca:?}\n", running.address);
            RealDisks::new(&toml::from_str(&text).expect("settings"))
        };
        assert_eq!(disks(&ours).manifest().await, Ok(text));
        let refused = disks(&other).manifest().await.expect_err("another cluster's");
        assert!(refused.kind.passes(), "{refused}");
        stop.cancel();
        running.wait().await.expect("it stops");
    }
}
