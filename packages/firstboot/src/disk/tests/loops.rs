//! The real commands on a real block device: a loop device over a sparse file, whose serial number
//! comes from the settings. Where the machine has no loop devices, or the test may not use them,
//! it says so.
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use steps::Probe;

use super::super::claim::{END, OFFSET, SPARE, Sector, Stage};
use super::super::layout::part;
use super::super::{DiskStep, Disks as _, RealDisks};
use super::world::{MIB, World};
use crate::install::{InstallStep, manifest};

/// A loop device; it and all mounts in the folder go when the test ends.
struct Loop {
    device: String,
    folder: tempfile::TempDir,
}

impl Loop {
    fn new(mib: u64) -> Option<Loop> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            eprintln!("left out: no loop devices, or not root");
            return None;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("disk.img");
        fs::File::create(&file).and_then(|file| file.set_len(mib * MIB)).expect("sparse file");
        let file = file.to_string_lossy().into_owned();
        match run("losetup", &["--find", "--show", "--partscan", &file]) {
            Some(device) => {
                let disk = Loop { device: device.trim().to_owned(), folder };
                disk.image();
                Some(disk)
            }
            None => {
                eprintln!("left out: losetup gives no device");
                None
            }
        }
    }

    /// What is installed, and this machine's kernel.
    fn image(&self) {
        let images: [(&str, &[u8]); 4] = [
            ("vmlinuz", b"k"),
            ("initrd", b"i"),
            ("root.squashfs", b"r"),
            ("plasma.squashfs", b"l"),
        ];
        let write = |name: &str, bytes: &[u8]| {
            let path = self.path(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            fs::write(path, bytes).expect("written");
        };
        for (name, bytes) in images {
            write(&format!("images/{name}"), bytes);
        }
        write("images/manifest.json", &manifest::sample(&images));
        write("etc/plasma/ca.pem", b"ca");
        write("etc/plasma/firstboot.toml", b"x");
        write("gptmbr.bin", b"\x33\xc0boot");
        write("bootx64.efi", b"MZ");
        write("proc/cmdline", b"console=ttyS0\n");
        fs::create_dir_all(self.path("proc/self")).expect("folder");
        for place in ["proc/self/mountinfo", "sys"] {
            std::os::unix::fs::symlink(Path::new("/").join(place), self.path(place)).expect("link");
        }
    }

    fn file(&self) -> fs::File {
        let path = self.folder.path().join("disk.img");
        OpenOptions::new().read(true).write(true).open(path).expect("the disk's file")
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let device = OpenOptions::new().write(true).open(&self.device).expect("the device");
        device.write_all_at(bytes, offset).expect("written");
        device.sync_all().expect("synced");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn world(&self) -> World {
        let mut world = World::new();
        let mut settings = (*world.settings).clone();
        settings.disk.loop_serials.insert(self.device.clone(), "PLASMA-DISK01".into());
        settings.disk.data = self.path("data");
        settings.disk.esp = self.path("esp");
        settings.disk.images = self.path("images");
        settings.disk.chainfire = self.path("chainfire");
        settings.disk.ssh_keys = self.path("ssh");
        settings.state_dir = self.path("state");
        settings.disk.bios_code = self.path("gptmbr.bin");
        settings.disk.uefi_loader = self.path("bootx64.efi");
        settings.ca = self.path("etc/plasma/ca.pem");
        settings.machine.root = self.folder.path().to_owned();
        world.settings = Arc::new(settings);
        world
    }

    fn unmount(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let here = self.folder.path().to_string_lossy().into_owned();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let mut places: Vec<&str> = places.filter(|place| place.starts_with(&here)).collect();
        places.reverse();
        for place in places {
            run("umount", &[place]);
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.unmount();
        run("losetup", &["--detach", &self.device]);
    }
}

fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A table with a filesystem, swap, a LUKS header and an LVM label at the offsets of real ones.
fn fill(disk: &Loop) {
    run("sgdisk", &["-n1:0:+64M", "-n2:0:+64M", "-n3:0:0", &disk.device]).expect("sgdisk");
    run("partx", &["--update", &disk.device]).expect("partx");
    run("mkfs.ext4", &["-q", "-F", &part(&disk.device, 1)]).expect("mkfs.ext4");
    run("mkswap", &[&part(&disk.device, 2)]).expect("mkswap");
    disk.put(200 * MIB, b"somewhere in the middle");
    disk.put(5000, b"before the first partition");
}

#[tokio::test]
async fn the_real_commands_claim_erase_lay_out_and_mount() {
    let Some(disk) = Loop::new(1500) else { return };
    fill(&disk);
    let world = disk.world();
    let mut step = DiskStep::new(world.settings.clone());

    // foreign, and without consent nothing changes
    let before = crate::install::fetch::hex_sum(&head(&disk));
    let refused = step.probe(&world.context()).await.map_err(|fault| fault.code);
    assert_eq!(refused, Err(crate::codes::DISK_FOREIGN));
    let refused = step.act(&world.context()).await.map_err(|fault| fault.code);
    assert_eq!(refused, Err(crate::codes::DISK_FOREIGN));
    assert_eq!(crate::install::fetch::hex_sum(&head(&disk)), before);

    let world = disk.world().consent();
    assert_eq!(step.probe(&world.context()).await, Ok(Probe::False));
    step.act(&world.context()).await.expect("laid out");
    assert_eq!(step.probe(&world.context()).await, Ok(Probe::True));
    let mut sector = vec![0; (END - SPARE) as usize];
    disk.file().read_exact_at(&mut sector, SPARE).expect("read");
    let Sector::Claim(claim) = Sector::of_both(&sector) else { panic!("no claim") };
    assert_eq!((claim.node.as_str(), claim.stage), ("node01", Stage::LaidOut));
    let disks = RealDisks::new(&world.settings);
    let named = |number| {
        let disks = &disks;
        let device = part(&disk.device, number);
        async move { disks.signatures(&device).await }
    };
    assert_eq!(named(1).await, Ok(vec!["vfat".to_owned()]));
    assert_eq!(named(2).await, Ok(vec!["ext4".to_owned()]));

    // what is kept in the node's folders is on the disk, and comes back after a reboot
    fs::write(disk.path("state/ledger.json"), b"kept").expect("written");
    disk.unmount();
    assert!(!disk.path("state/ledger.json").exists());
    assert_eq!(step.probe(&world.context()).await, Ok(Probe::False));
    step.act(&world.context()).await.expect("mounted again");
    assert_eq!(step.probe(&world.context()).await, Ok(Probe::True));
    assert_eq!(fs::read(disk.path("state/ledger.json")).ok().as_deref(), Some(b"kept".as_slice()));

    // a new order erases what was mounted from it a moment ago
    let mut again = disk.world();
    again.order = super::world::SECOND.into();
    assert_eq!(step.probe(&again.context()).await, Ok(Probe::False));
    step.act(&again.context()).await.expect("laid out again");
    assert_eq!(step.probe(&again.context()).await, Ok(Probe::True));
    assert!(!disk.path("state/ledger.json").exists());
}

#[tokio::test]
async fn a_blank_disk_gets_the_image_and_its_loaders() {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.trim() == "vfat") {
        eprintln!("left out: this kernel cannot mount FAT; the lab's machines can");
        return;
    }
    let Some(disk) = Loop::new(1500) else { return };
    let world = disk.world();
    let (mut step, mut install) =
        (DiskStep::new(world.settings.clone()), InstallStep::new(world.settings.clone()));
    step.act(&world.context()).await.expect("laid out");
    assert_eq!(install.probe(&world.context()).await, Ok(Probe::False));
    install.act(&world.context()).await.expect("installed");
    assert_eq!(install.probe(&world.context()).await, Ok(Probe::True));
    let mut first = [0; 512];
    disk.file().read_exact_at(&mut first, 0).expect("read");
    assert_eq!(first[510..], [0x55, 0xaa]);
    assert_ne!(first[..16], [0; 16]);
}

/// A volume group at rest on two disks, with consent for one.
#[tokio::test]
async fn half_of_a_volume_group_is_not_erased() {
    let (Some(disk), Some(other)) = (Loop::new(64), Loop::new(64)) else { return };
    let devices = [disk.device.as_str(), other.device.as_str()];
    let config = ["--config", "devices { use_devicesfile = 0 }"];
    let made = run("pvcreate", &[&["-q"], &config[..], &devices].concat())
        .and_then(|_| run("vgcreate", &[&["-q", "plasma-test"], &config[..], &devices].concat()));
    if made.is_none() {
        eprintln!("left out: no lvm2, or it takes no loop devices");
        return;
    }
    let mut world = disk.world().consent().with_disk(|disk| disk.min_gib = 0);
    let mut settings = (*world.settings).clone();
    settings.disk.loop_serials.insert(other.device.clone(), "SOMEBODYS".into());
    world.settings = Arc::new(settings);
    let mut step = DiskStep::new(world.settings.clone());
    let refused = step.act(&world.context()).await.map_err(|fault| fault.code);
    assert_eq!(refused, Err(crate::codes::DISK_SPANS));
    let disks = RealDisks::new(&world.settings);
    assert_eq!(disks.signatures(&disk.device).await, Ok(vec!["LVM2_member".to_owned()]));
}

#[tokio::test]
async fn data_before_the_first_partition_is_data() {
    let Some(disk) = Loop::new(64) else { return };
    disk.put(OFFSET, b"something");
    let mut world = disk.world();
    world = world.with_disk(|disk| disk.min_gib = 0);
    let mut step = DiskStep::new(world.settings.clone());
    let refused = step.probe(&world.context()).await.map_err(|fault| fault.code);
    assert_eq!(refused, Err(crate::codes::DISK_FOREIGN));
}

/// The first 4 MiB and the last one.
fn head(disk: &Loop) -> Vec<u8> {
    let mut bytes = vec![0; 5 * MIB as usize];
    let (first, last) = bytes.split_at_mut(4 * MIB as usize);
    let length = disk.file().metadata().expect("file").len();
    disk.file().read_exact_at(first, 0).expect("read");
    disk.file().read_exact_at(last, length - MIB).expect("read");
    bytes
}
