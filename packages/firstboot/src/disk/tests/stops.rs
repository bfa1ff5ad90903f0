//! What must stop stops with its code, at once, and not a byte of any disk is changed.

use std::path::Path;

use inventory::DiskMatch;

use super::super::claim::{Claim, OFFSET, Stage};
use super::super::os::BlockKind;
use super::super::simulated::{SimDisk, Stack, State};
use super::world::{End, FIRST, MIB, SECOND, World, block_on, old_stacks};

pub(super) fn stops(code: &str, world: World, change: impl FnOnce(&mut State)) {
    let machine = world.machine(change);
    let before: Vec<_> = machine.state().disks.iter().map(SimDisk::contents).collect();
    let end = block_on(world.run(&machine));
    let End::Stopped(failure) = end else { panic!("{code}: {end:?}") };
    assert_eq!(failure.code, code, "{failure:?}");
    assert!(!failure.hint.is_empty());
    let after: Vec<_> = machine.state().disks.iter().map(SimDisk::contents).collect();
    assert!(before == after, "{code}: a disk was changed");
    assert_eq!(machine.state().formats, 0);
}

fn claim(node: &str, cluster: &str, disk: &str) -> Vec<u8> {
    let claim = Claim {
        cluster_id: cluster.into(),
        node: node.into(),
        install_id: FIRST.into(),
        disk: disk.into(),
        stage: Stage::LaidOut,
        table: String::new(),
    };
    claim.encode().expect("fits").to_vec()
}

const CLUSTER: &str = "0198d2c4-1111-7222-8333-444455556666";

#[test]
fn no_disk_and_two_disks_stop() {
    stops("FB-2001", World::new(), |state| state.disks[0].serial = Some("ANOTHER".into()));
    stops("FB-2001", World::new(), |state| state.disks[0].serial = None);
    stops("FB-2002", World::new(), |state| {
        state.disks.push(SimDisk::new("/dev/vdc", "PLASMA-DISK01", 4));
    });
    stops("FB-2001", World::new().with_disk(|disk| disk.min_gib = 100), |_| {});
    let by_wwn = DiskMatch { serial: None, wwn: Some("0x5000".into()) };
    stops("FB-2001", World::new().with_disk(|disk| disk.matches = by_wwn), |_| {});
}

#[test]
fn a_foreign_disk_without_consent_stops() {
    stops("FB-2003", World::new(), old_stacks);
    stops("FB-2003", World::new(), |state| state.disks[0].divide(&[(MIB, MIB)]));
    // bytes of no known kind, at the beginning, at the end, and in the claim's own place
    stops("FB-2003", World::new(), |state| state.disks[0].put(7000, b"x"));
    stops("FB-2003", World::new(), |state| {
        let end = state.disks[0].bytes;
        state.disks[0].put(end - 1, b"x");
    });
    stops("FB-2003", World::new(), |state| state.disks[0].put(OFFSET, b"data"));
    // the consent for another disk is none for this one
    let other = World::new().with_disk(|disk| disk.consent_to_erase = vec!["SOMEBODYS".into()]);
    stops("FB-2003", other, old_stacks);
}

/// What is reported is what is judged: only an empty disk is empty to the operator too.
#[test]
fn the_report_of_a_disk_has_all_that_it_would_stop_for() {
    let machine = World::new().machine(|state| {
        let mut more = [("/dev/vdc", "RAW"), ("/dev/vdd", "CLAIMED"), ("/dev/vde", "LOCKED")]
            .map(|(path, serial)| SimDisk::new(path, serial, 4));
        more[0].put(7000, b"x");
        more[1].put(OFFSET, &claim("node02", CLUSTER, "CLAIMED"));
        more[2].read_only = true;
        state.disks.extend(more);
    });
    let seen = block_on(super::super::seen(&machine));
    let traces: Vec<_> = seen.iter().map(|disk| disk.traces.join(", ")).collect();
    let expected = [
        "",
        "PMBR, ext4, gpt, /dev/vdb1",
        "data of no known kind within 1 MiB of byte 0",
        "plasma-claim",
        "read-only",
    ];
    assert_eq!(traces, expected);
}

#[test]
fn another_nodes_disk_stops() {
    for (node, cluster, disk) in [
        ("node02", CLUSTER, "PLASMA-DISK01"),
        ("node01", "another", "PLASMA-DISK01"),
        // a copy of our disk is not our disk
        ("node01", CLUSTER, "PLASMA-DISK09"),
    ] {
        let sector = claim(node, cluster, disk);
        stops("FB-2004", World::new(), |state| state.disks[0].put(OFFSET, &sector));
    }
}

/// A disk that this node had once, and that somebody used since, is not this node's to erase.
#[test]
fn a_disk_that_was_ours_and_was_used_elsewhere_stops() {
    let first = World::new();
    for parts in [[(MIB, 384 * MIB), (385 * MIB, 3710 * MIB)], [(MIB, MIB), (2 * MIB, 2 * MIB)]] {
        let machine = first.machine(|_| {});
        assert_eq!(block_on(first.run(&machine)), End::Done);
        machine.state().order = SECOND.into();
        machine.state().disks[0].divide(&parts);
        machine.reboot(5);
        let before = machine.state().disks[0].contents();
        let mut second = World::new();
        second.order = SECOND.into();
        let End::Stopped(failure) = block_on(second.run(&machine)) else { panic!("not stopped") };
        assert_eq!(failure.code, "FB-2003", "{failure:?}");
        assert!(machine.state().disks[0].contents() == before, "the disk was changed");
        // with consent it is erased
        let mut second = second.consent();
        second.order = SECOND.into();
        assert_eq!(block_on(second.run(&machine)), End::Done);
    }
}

/// What fails each time is not erased for ever, and not begun anew by itself either.
#[test]
fn erasing_that_never_ends_well_is_given_up() {
    let world = World::new();
    let machine = world.machine(|state| state.formats_fail = true);
    let End::Stopped(failure) = block_on(world.run(&machine)) else { panic!("not stopped") };
    assert_eq!(failure.code, "FB-2013", "{failure:?}");
    assert!(failure.what.contains("(try 8)"), "{failure:?}");
    // somebody mended it
    machine.state().formats_fail = false;
    assert_eq!(block_on(world.run(&machine)), End::Done);
}

#[test]
fn an_array_that_reaches_to_another_disk_stops_even_with_consent() {
    stops("FB-2005", World::new().consent(), |state| {
        old_stacks(state);
        state.disks[1].put(MIB + 4096, &[0xfc, 0x4e, 0x2b, 0xa9]);
        state.stacks.push(Stack {
            path: "/dev/md126".into(),
            kind: BlockKind::Array,
            parents: vec!["/dev/vda1".into(), "/dev/vdb1".into()],
            signature: "linux_raid_member",
            mounted: Vec::new(),
        });
    });
}

/// Nothing runs, and so nothing above the disks says that they belong together.
#[test]
fn an_array_or_group_at_rest_that_reaches_to_another_disk_stops_even_with_consent() {
    let member = |disk: &mut SimDisk, at: u64, magic: &[u8], id: (u64, &[u8])| {
        disk.put(at, magic);
        disk.put(id.0, id.1);
    };
    let array = |state: &mut State, ids: [&[u8]; 2]| {
        state.disks[0].divide(&[(MIB, 100 * MIB)]);
        for (disk, id) in ids.into_iter().enumerate() {
            let magic = [0xfc, 0x4e, 0x2b, 0xa9];
            member(&mut state.disks[disk], MIB + 4096, &magic, (MIB + 4096 + 16, id));
        }
    };
    stops("FB-2005", World::new().consent(), |state| array(state, [b"one", b"one"]));
    stops("FB-2005", World::new().consent(), |state| {
        state.disks.push(SimDisk::new("/dev/vdc", "ANOTHER", 4));
        for disk in [0, 2] {
            member(&mut state.disks[disk], 512, b"LABELONE", (512 + 32, b"group"));
        }
    });
    // two arrays, each on its own disk, or the other disk's data consented to
    let both = ["PLASMA-DISK01".into(), "SOMEBODYS".into()];
    let consent = World::new().with_disk(|disk| disk.consent_to_erase = both.into());
    for (world, ids) in [(World::new().consent(), [b"one", b"two"]), (consent, [b"one", b"one"])] {
        let machine = world.machine(|state| array(state, ids.map(|id| id.as_slice())));
        let other = machine.state().disks[1].contents();
        assert_eq!(block_on(world.run(&machine)), End::Done);
        assert!(machine.state().disks[1].contents() == other, "the other disk was changed");
    }
}

#[test]
fn a_disk_that_carries_the_running_system_stops() {
    stops("FB-2006", World::new().consent(), |state| {
        old_stacks(state);
        state.stacks[3].mounted.push("/".into());
    });
}

#[test]
fn what_was_laid_out_and_is_gone_is_not_made_again() {
    let world = World::new();
    let machine = world.machine(|_| {});
    assert_eq!(block_on(world.run(&machine)), End::Done);
    machine.reboot(1);
    // somebody made another filesystem where the data was
    let before = {
        let mut state = machine.state();
        let first = MIB + 384 * MIB;
        state.disks[0].put(first + 1100, &77_u64.to_le_bytes());
        state.disks[0].contents()
    };
    let End::Stopped(failure) = block_on(world.run(&machine)) else { panic!("not stopped") };
    assert_eq!(failure.code, "FB-2009");
    assert!(machine.state().disks[0].contents() == before, "the disk was changed");
}

/// Whatever an install would miss, it misses before the disk is touched.
#[test]
fn an_image_that_cannot_be_installed_stops_at_an_untouched_disk() {
    for path in [
        "/etc/plasma/ca.pem",
        "/etc/plasma/firstboot.toml",
        "/usr/lib/EXTLINUX/gptmbr.bin",
        "/usr/lib/systemd/boot/efi/systemd-bootx64.efi",
    ] {
        stops("FB-2101", World::new(), |state| drop(state.image.remove(Path::new(path))));
    }
    let manifest = |change: fn(&mut serde_json::Value)| {
        move |state: &mut State| {
            let text = state.server.get_mut("manifest").expect("served");
            let mut value = serde_json::from_slice(text).expect("JSON");
            change(&mut value);
            *text = value.to_string().into_bytes();
        }
    };
    stops("FB-2101", World::new(), manifest(|value| value["target"] = "nixos".into()));
    let long = manifest(|value| value["files"]["initrd"]["bytes"] = (1_u64 << 30).into());
    stops("FB-2101", World::new(), long);
}

#[test]
fn layouts_that_the_target_does_not_know_stop() {
    let luks = World::new().with_disk(|disk| disk.layout = inventory::Layout::Luks);
    stops("FB-2012", luks, |_| {});
}
