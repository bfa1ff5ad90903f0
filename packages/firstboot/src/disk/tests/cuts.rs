//! The acceptance test: an install that loses its power, or its agent, at every operation and in
//! the middle of it, always ends installed; what was laid out is not destroyed again; no other
//! disk changes.

use std::path::Path;

use super::super::simulated::{Cut, Moment, Simulated, State};
use super::super::{Disks, put};
use super::world::{End, SECOND, World, block_on, check_installed, old_stacks};

pub(super) const MOMENTS: [Moment; 3] = [Moment::Before, Moment::During, Moment::After];

/// Runs once to count the operations, then once per operation, moment and kind of cut.
fn everywhere(name: &str, world: &World, make: impl Fn() -> Simulated) {
    let whole = make();
    assert_eq!(block_on(world.run(&whole)), End::Done, "{name}");
    check_installed(world, &whole, name);
    let operations = whole.state().done.len();
    assert!(operations > 30, "{name}: {operations} operations");
    for at in 0..operations {
        for moment in MOMENTS {
            for cut in [Cut::Power, Cut::Agent] {
                let machine = make();
                machine.state().done.clear();
                machine.state().cut = Some((at, moment, cut));
                assert_eq!(block_on(world.run(&machine)), End::Dead);
                let last = machine.state().done.last().cloned().unwrap_or_default();
                let what = format!("{name}: {cut:?} cut {moment:?} operation {at}, {last}");
                machine.power_on(at as u64);
                let end = block_on(world.run(&machine));
                assert_eq!(end, End::Done, "{what}");
                check_installed(world, &machine, &what);
            }
        }
    }
}

#[test]
fn a_blank_disk_cut_at_every_operation() {
    let world = World::new();
    everywhere("blank", &world, || world.machine(|_| {}));
}

#[test]
fn a_disk_with_old_arrays_volumes_and_keys_cut_at_every_operation() {
    let world = World::new().consent();
    everywhere("old stacks", &world, || world.machine(old_stacks));
}

#[test]
fn an_ordered_reinstall_cut_at_every_operation() {
    let first = World::new();
    let mut second = World::new();
    second.order = SECOND.into();
    everywhere("reinstall", &second, || {
        let machine = first.machine(|_| {});
        assert_eq!(block_on(first.run(&machine)), End::Done);
        machine.state().order = SECOND.into();
        machine.reboot(7);
        machine.state().done.clear();
        machine
    });
}

/// Power goes again and again: each time at a random moment, until one run is let through.
#[test]
fn cut_many_times_at_random_it_still_ends_installed() {
    for seed in 0..300_u64 {
        let consent = seed % 2 == 0;
        let world = if consent { World::new().consent() } else { World::new() };
        let machine = world.machine(|state| {
            if consent {
                old_stacks(state)
            }
        });
        for round in 0..12 {
            let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(round * 5);
            machine.state().done.clear();
            machine.state().cut = Some((
                random as usize % 70,
                MOMENTS[(random >> 20) as usize % 3],
                if random >> 40 & 1 == 0 { Cut::Power } else { Cut::Agent },
            ));
            let end = block_on(world.run(&machine));
            if end == End::Done {
                break;
            }
            assert_eq!(end, End::Dead, "seed {seed} round {round}");
            machine.power_on(random);
        }
        machine.power_on(seed);
        assert_eq!(block_on(world.run(&machine)), End::Done, "seed {seed}");
        check_installed(&world, &machine, &format!("seed {seed}"));
    }
}

/// The boot server is given images of the same lengths while an install is cut: those of two
/// builds never boot together, and the boot loaders name what must be there.
#[test]
fn images_of_two_builds_are_never_mixed() {
    const BUILDS: [[(&str, &[u8]); 4]; 2] = [
        [
            ("vmlinuz", b"kernel"),
            ("initrd", b"first root"),
            ("root.squashfs", b"root"),
            ("plasma.squashfs", b"layer"),
        ],
        [
            ("vmlinuz", b"KERNEL"),
            ("initrd", b"FIRST ROOT"),
            ("root.squashfs", b"ROOT"),
            ("plasma.squashfs", b"LAYER"),
        ],
    ];
    let world = World::new();
    let whole = world.machine(|_| {});
    assert_eq!(block_on(world.run(&whole)), End::Done);
    for at in 0..whole.state().done.len() {
        let machine = world.machine(|_| {});
        machine.state().cut = Some((at, Moment::Before, Cut::Power));
        assert_eq!(block_on(world.run(&machine)), End::Dead);
        machine.power_on(at as u64);
        let url = |name: &str| format!("http://10.20.0.1:8080/boot/images/{name}");
        for (name, bytes) in BUILDS[1] {
            machine.state().server.insert(url(name), bytes.to_vec());
        }
        let text = crate::install::manifest::sample(&BUILDS[1]);
        machine.state().server.insert("manifest".into(), text);
        assert_eq!(block_on(world.run(&machine)), End::Done, "cut before {at}");
        let place = Path::new("/esp");
        block_on(machine.mount("/dev/vda1", place, "vfat")).expect("mounted");
        let file = |name: &str| block_on(machine.read_file(&place.join(name))).expect("alive");
        let whose = BUILDS.iter().find(|build| file("vmlinuz").as_deref() == Some(build[0].1));
        for (name, bytes) in whose.expect("one of the two") {
            assert_eq!(file(name).as_deref(), Some(*bytes), "cut before {at}: {name}");
        }
        let loader = String::from_utf8(file("syslinux.cfg").expect("written")).expect("text");
        let sum = crate::install::fetch::hex_sum(&file("root.squashfs").expect("written"));
        assert!(loader.contains(&format!("plasma.root_sha256={sum}")), "cut before {at}: {loader}");
    }
}

/// An install under an order is for good: restarts look and change nothing; a new order erases
/// once; an order that is older than the install erases nothing.
#[test]
fn one_order_erases_once() {
    let mut world = World::new();
    let machine = world.machine(|_| {});
    let letter = Path::new("/var/lib/plasma/chainfire/letter");
    let there = || block_on(machine.read_file(letter)).expect("alive").is_some();
    let formats = || machine.state().formats;

    assert_eq!(block_on(world.run(&machine)), End::Done);
    block_on(put(&machine, letter, b"kept")).expect("written");
    assert_eq!(formats(), 2);
    for seed in 0..5 {
        machine.reboot(seed);
        assert_eq!(block_on(world.run(&machine)), End::Done);
        assert!(there(), "restart {seed}");
    }
    assert_eq!(formats(), 2);

    world.order = SECOND.into();
    machine.state().order = SECOND.into();
    machine.reboot(9);
    assert_eq!(block_on(world.run(&machine)), End::Done);
    assert!(!there());
    assert_eq!(formats(), 4);
    machine.reboot(10);
    block_on(put(&machine, Path::new("/tmp/x"), b"")).expect("alive");
    assert_eq!(block_on(world.run(&machine)), End::Done);
    assert_eq!(formats(), 4);

    world.order = super::world::FIRST.into();
    machine.reboot(11);
    let End::Stopped(failure) = block_on(world.run(&machine)) else { panic!("not stopped") };
    assert_eq!(failure.code, "FB-2011");
    assert_eq!(formats(), 4);
    assert_eq!(machine.state().violations, Vec::<String>::new());
}

/// A machine that booted from its disk finds its state without any boot server.
#[test]
fn a_machine_that_booted_from_its_disk_resumes() {
    let world = World::new();
    let machine = world.machine(|_| {});
    assert_eq!(block_on(world.run(&machine)), End::Done);
    machine.reboot(3);
    let resume = || block_on(super::super::state::resume(&machine, &world.settings));
    assert_eq!(resume(), Ok(None), "it was booted from the network");
    machine.state().from_disk = true;
    let resumed = resume().expect("alive").expect("found");
    assert_eq!((resumed.node.as_str(), resumed.install_id), ("node01", world.order.clone()));
    let ledger = world.settings.state_dir.join("ledger.json");
    assert!(block_on(machine.read_file(&ledger)).expect("alive").is_some());
    assert_eq!(block_on(world.run(&machine)), End::Done);
    check_installed(&world, &machine, "after a local boot");
}

/// While the running system is on the disk, a new order waits for a boot from the network.
#[test]
fn a_system_does_not_erase_the_disk_that_it_runs_from() {
    let mut world = World::new();
    let machine = world.machine(|_: &mut State| {});
    assert_eq!(block_on(world.run(&machine)), End::Done);
    world.order = SECOND.into();
    machine.reboot(4);
    machine.state().from_disk = true;
    let before = machine.state().disks[0].contents();
    let End::Stopped(failure) = block_on(world.run(&machine)) else { panic!("not stopped") };
    assert_eq!(failure.code, "FB-2006");
    assert_eq!(machine.state().disks[0].contents(), before);
}
