//! The NixOS target, with doubles of disko's scripts, nixos-install and kexec.

use std::path::Path;

use super::super::Disks;
use super::super::simulated::{Cut, Simulated};
use super::cuts::MOMENTS;
use super::stops::stops;
use super::world::{End, World, block_on};
use crate::Target;

fn world() -> World {
    World { target: Target::NixOs, ..World::new() }
}

/// Runs until the machine has gone over to its installed system, and there to the end.
fn finish(world: &World, machine: &Simulated, what: &str) {
    let mut end = block_on(world.run(machine));
    for start in 0..3 {
        if end != End::Dead {
            break;
        }
        machine.power_on(start);
        end = block_on(world.run(machine));
    }
    assert_eq!(end, End::Done, "{what}");
    let state = machine.state();
    assert_eq!(state.violations, Vec::<String>::new(), "{what}");
    assert!(state.done.iter().any(|done| done == "systemctl kexec"), "{what}: {:?}", state.done);
    drop(state);
    let record = block_on(machine.read_file(Path::new("/var/lib/plasma/.plasma/installed.json")));
    let record = String::from_utf8(record.expect("alive").expect("installed")).expect("text");
    assert!(record.contains(&world.order) && record.contains("nixos-system-node01"), "{record}");
    // whatever was cut: the system that goes with the record, and what it must find
    for (path, content) in [
        ("/nix/system", "system"),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("/etc/credstore/plasma.ca", "certificate"),
        ("/etc/credstore/plasma.join-token", "token"),
    ] {
        let found = block_on(machine.read_file(Path::new(path))).expect("alive");
        assert_eq!(found.as_deref(), Some(content.as_bytes()), "{what}: {path}");
    }
}

#[test]
fn it_is_laid_out_installed_and_gone_over_to() {
    let world = world();
    let machine = world.machine(|_| {});
    finish(&world, &machine, "nixos");
    let done = machine.state().done.clone();
    let runs: Vec<&str> =
        done.iter().filter_map(|done| done.strip_prefix("run ")).map(|run| run.trim()).collect();
    assert_eq!(runs.len(), 4, "{runs:?}");
    assert_eq!(runs[0], "install -d -m 0700 -- /mnt/etc/credstore");
    assert!(runs[1].starts_with("nixos-install --root /mnt --system /nix/store/abc-"));
    assert_eq!(runs[2], "sync --file-system -- /mnt");
    assert!(runs[3].contains("--command-line=init=/nix/store/abc-nixos-system-node01/init "));
    assert!(runs[3].ends_with(" systemd.machine_id=0123456789abcdef0123456789abcdef"));
    assert_eq!(machine.state().formats, 1);
}

#[test]
fn cut_at_every_operation_it_ends_in_its_system() {
    let world = world();
    let whole = world.machine(|_| {});
    finish(&world, &whole, "whole");
    let operations = whole.state().done.len();
    for at in 0..operations {
        for moment in MOMENTS {
            for cut in [Cut::Power, Cut::Agent] {
                let machine = world.machine(|_| {});
                machine.state().cut = Some((at, moment, cut));
                finish(&world, &machine, &format!("{cut:?} cut {moment:?} operation {at}"));
            }
        }
    }
}

/// A reboot may find the disk, and one that does not is the last: only a person can choose the disk.
#[test]
fn where_kexec_is_refused_it_reboots_once_and_then_stops() {
    let world = world();
    let machine = world.machine(|state| state.kexec_refused = true);
    assert_eq!(block_on(world.run(&machine)), End::Dead);
    for start in 0..3 {
        machine.reboot(start);
        let End::Stopped(failure) = block_on(world.run(&machine)) else { panic!("not stopped") };
        assert_eq!(failure.code, "FB-2103", "{failure:?}");
        assert!(failure.hint.contains("boot the disk once"), "{failure:?}");
    }
    let reboots = machine.state().done.iter().filter(|done| *done == "systemctl reboot").count();
    assert_eq!((reboots, machine.state().formats), (1, 1));
    machine.state().root_on_disk = true;
    machine.reboot(9);
    assert_eq!(block_on(world.run(&machine)), End::Done);
}

/// Nor what its disk could not be laid out with, or what is not there to be put on it.
#[test]
fn without_a_ca_nothing_is_installed_that_could_not_enrol() {
    for missing in [
        "/etc/plasma/ca.pem",
        "/etc/plasma/nixos/node01/devices",
        "/etc/plasma/nixos/node01/format-mount",
        "/etc/plasma/nixos/node01/mount",
        "/etc/plasma/nixos/node01/system",
        "/nix/store/abc-nixos-system-node01/init",
    ] {
        stops("FB-2103", world(), |state| drop(state.image.remove(Path::new(missing))));
    }
    stops("FB-2103", world(), |state| {
        state.image.insert("/etc/plasma/nixos/node01/system".into(), b"/run/x\n".to_vec());
    });
}

/// After the erasing whatever stops is left to a person: started again, it would erase again.
#[test]
fn a_stop_after_the_erasing_says_that_the_disk_was_erased() {
    let world = world();
    let machine = world.machine(|state| {
        state.image_changes = Some(("/etc/plasma/nixos/node01/devices".into(), b"/dev/vdb".into()));
    });
    let End::Stopped(failure) = block_on(world.run(&machine)) else { panic!("not stopped") };
    assert_eq!(failure.code, "FB-2013", "{failure:?}");
    assert!(failure.what.contains("(try 1)") && failure.what.contains("FB-2010"), "{failure:?}");
}

#[test]
fn a_script_that_means_another_disk_stops() {
    stops("FB-2010", world(), |state| {
        state.image.insert("/etc/plasma/nixos/node01/devices".into(), b"/dev/vdb\n".to_vec());
    });
}
