//! The world of these tests: a node's inventory, its settings, its image, and a run of the two
//! steps by the engine that the agent uses, ledger and all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fault::Fault;
use inventory::Inventory;
use steps::{Failure, Ledger, Machine, Next, Probe, Step, Told};

use super::super::simulated::{SimDisk, Simulated, Stack, State};
use super::super::{DiskStep, Disks, put};
use crate::install::{InstallStep, manifest};
use crate::{Context, Settings, Target};

pub(super) const FIRST: &str = "0198d2c4-0000-7000-8000-000000000001";
pub(super) const SECOND: &str = "0198d2c5-0000-7000-8000-000000000002";
pub(super) const MIB: u64 = 1 << 20;

/// What a run is about.
pub(super) struct World {
    pub(super) settings: Arc<Settings>,
    pub(super) node: inventory::Node,
    pub(super) order: String,
    pub(super) target: Target,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Stopped(Failure),
    Dead,
}

impl World {
    pub(super) fn new() -> World {
        let settings = toml::from_str(
            "bootserver = \"https://10.20.0.1:8443\"\nca = \"/etc/plasma/ca.pem\"\n\
             token_file = \"/run/token\"\nstate_dir = \"/var/lib/firstboot\"\ntarget = \"lab\"\n",
        );
        let inventory = Inventory::parse(Inventory::built_in()).expect("built in");
        let mut node = inventory.nodes["node01"].clone();
        if let Some(disk) = &mut node.disk {
            disk.min_gib = 1;
        }
        World {
            settings: Arc::new(settings.expect("settings")),
            node,
            order: FIRST.into(),
            target: Target::Lab,
        }
    }

    pub(super) fn with_disk(mut self, change: impl FnOnce(&mut inventory::Disk)) -> World {
        change(self.node.disk.as_mut().expect("node01 has a disk"));
        self
    }

    pub(super) fn consent(self) -> World {
        self.with_disk(|disk| disk.consent_to_erase = vec!["PLASMA-DISK01".into()])
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context {
            node: "node01",
            cluster_id: "0198d2c4-1111-7222-8333-444455556666",
            inventory: &self.node,
            install_id: &self.order,
            target: self.target,
            machine_id: "0123456789abcdef0123456789abcdef",
            images: "http://10.20.0.1:8080/boot/images",
        }
    }

    /// One run of the agent's two steps. Every generation of the ledger is written first, as the
    /// agent does.
    pub(super) async fn run(&self, machine: &Simulated) -> End {
        let mut disk = DiskStep::with(self.settings.clone(), machine.clone());
        let mut install = InstallStep::with(self.settings.clone(), machine.clone());
        let context = self.context();
        let path = self.settings.state_dir.join("ledger.json");
        let ledger = match machine.read_file(&path).await {
            Ok(text) => text
                .and_then(|text| Ledger::decode(&String::from_utf8_lossy(&text)).ok())
                .unwrap_or_default(),
            Err(_) => return End::Dead,
        };
        let mut run = Machine::new(vec![Step::Disk, Step::Install], &[], ledger, Duration::ZERO, 1);
        let mut written = 0;
        for _ in 0..100 {
            if run.ledger().generation != written {
                let _ = put(machine, &path, run.ledger().encode().as_bytes()).await;
                written = run.ledger().generation;
            }
            if machine.is_dead() {
                return End::Dead;
            }
            let told = match run.next() {
                Next::Done => return End::Done,
                Next::Stopped(_, failure) => return End::Stopped(failure),
                Next::Pause(..) => {
                    run.paused();
                    continue;
                }
                Next::Probe(Step::Disk) | Next::Verify(Step::Disk) => {
                    saw(disk.probe(&context).await)
                }
                Next::Probe(_) | Next::Verify(_) => saw(install.probe(&context).await),
                Next::Act(Step::Disk) => acted(disk.act(&context).await),
                Next::Act(_) => acted(install.act(&context).await),
            };
            run.tell(told, Duration::ZERO);
        }
        panic!("the run does not end: {:?}", run.ledger())
    }

    /// A machine with its disk and another, which nobody may touch.
    pub(super) fn machine(&self, change: impl FnOnce(&mut State)) -> Simulated {
        let images: [(&str, &[u8]); 4] = [
            ("vmlinuz", b"kernel"),
            ("initrd", b"first root"),
            ("root.squashfs", b"root"),
            ("plasma.squashfs", b"layer"),
        ];
        let mut state = State::default();
        state.target = "/dev/vda".into();
        state.order = self.order.clone();
        state.disks = vec![SimDisk::new("/dev/vda", "PLASMA-DISK01", 4), other_disk()];
        for (name, bytes) in images {
            let url = format!("http://10.20.0.1:8080/boot/images/{name}");
            state.server.insert(url, bytes.to_vec());
        }
        let text = manifest::sample(&images);
        state.server.insert("manifest".into(), text);
        // the kernel and initrd were loaded by the firmware: they are not in the running system
        for (path, bytes) in [
            ("/run/plasma/images/root.squashfs", b"root".as_slice()),
            ("/run/plasma/images/plasma.squashfs", b"other"),
            ("/etc/plasma/ca.pem", b"certificate"),
            ("/etc/plasma/firstboot.toml", b"bootserver = 1"),
            ("/run/token", b"token"),
            ("/proc/cmdline", b"initrd=initrd console=ttyS0,115200 plasma.target=lab\n"),
            ("/usr/lib/EXTLINUX/gptmbr.bin", b"\x33\xc0boot"),
            ("/etc/plasma/nixos/node01/devices", b"/dev/vda\n"),
            ("/etc/plasma/nixos/node01/system", b"/nix/store/abc-nixos-system-node01\n"),
            ("/etc/plasma/nixos/node01/format-mount", b"#!"),
            ("/etc/plasma/nixos/node01/mount", b"#!"),
            ("/nix/store/abc-nixos-system-node01/init", b"#!"),
            ("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", b"MZ"),
        ] {
            state.image.insert(PathBuf::from(path), bytes.to_vec());
        }
        change(&mut state);
        Simulated::new(state)
    }
}

fn saw(seen: Result<Probe, Fault>) -> Told {
    seen.map_or_else(|fault| Told::Failed(failure(fault)), Told::Saw)
}

fn acted(done: Result<(), Fault>) -> Told {
    done.map_or_else(|fault| Told::Failed(failure(fault)), |()| Told::Acted)
}

fn failure(fault: Fault) -> Failure {
    Failure {
        again: fault.kind.passes(),
        code: fault.code.to_string(),
        what: fault.what,
        hint: fault.hint,
    }
}

/// Full of things that look like what is looked for.
fn other_disk() -> SimDisk {
    let mut disk = SimDisk::new("/dev/vdb", "SOMEBODYS", 8);
    disk.divide(&[(MIB, 100 * MIB)]);
    disk.put(MIB + 1080, &[0x53, 0xef]);
    disk.put(512 * 2047, b"PLASMACLAIM1 of another kind");
    disk.put(7 * MIB, b"letters");
    disk
}

/// Old RAID, LVM and LUKS, all on one disk and started by udev.
pub(super) fn old_stacks(state: &mut State) {
    let disk = &mut state.disks[0];
    disk.divide(&[(MIB, 100 * MIB), (101 * MIB, 100 * MIB), (201 * MIB, 100 * MIB)]);
    disk.put(MIB + 4096, &[0xfc, 0x4e, 0x2b, 0xa9]);
    disk.put(101 * MIB + 512, b"LABELONE");
    disk.put(201 * MIB, b"LUKS");
    use super::super::os::BlockKind::{Array, Mapping};
    let stack = |path: &str, kind, parent: &str, signature, mounted: &[&str]| Stack {
        path: path.into(),
        kind,
        parents: vec![parent.into()],
        signature,
        mounted: mounted.iter().map(|&place| place.to_owned()).collect(),
    };
    state.stacks = vec![
        stack("/dev/md127", Array, "/dev/vda1", "linux_raid_member", &[]),
        stack("/dev/mapper/vg-on-md", Mapping, "/dev/md127", "-", &["/srv", "/srv/deep"]),
        stack("/dev/mapper/vg-swap", Mapping, "/dev/vda2", "LVM2_member", &["[SWAP]"]),
        stack("/dev/mapper/safe", Mapping, "/dev/vda3", "crypto_LUKS", &[]),
    ];
}

/// What must hold of a machine on which a run ended well.
pub(super) fn check_installed(world: &World, machine: &Simulated, what: &str) {
    let state = machine.state();
    assert_eq!(state.violations, Vec::<String>::new(), "{what}");
    assert_eq!(state.disks[1].contents(), other_disk().contents(), "{what}: another disk changed");
    drop(state);
    let record = block_on(machine.read_file(Path::new("/var/lib/plasma/.plasma/installed.json")));
    let record = String::from_utf8(record.expect("alive").expect("installed")).expect("text");
    assert!(record.contains(&world.order), "{what}: {record}");
}

/// The simulated machine never waits.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(work)
}
