//! Power is lost at ten thousand points, while writing and while recovering.

mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use journal::lossy::LossyDisk;
use journal::{Disk, Journal, JournalError, Options, Record};
use model::{Model, Random, is_prefix, small};

/// Disks, and lives of each. A soak sets `JOURNAL_CRASH_DISKS`.
const DISKS: u64 = 500;
const CRASHES: u64 = 20;

#[test]
fn nothing_acknowledged_is_lost_at_ten_thousand_crash_points() {
    let disks = std::env::var("JOURNAL_CRASH_DISKS").ok().and_then(|disks| disks.parse().ok());
    let disks = disks.unwrap_or(DISKS);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if seed >= disks {
                        break;
                    }
                    chain(seed);
                }
            });
        }
    });
}

/// One disk through many lives.
fn chain(seed: u64) {
    let mut random = Random(seed);
    let disk = LossyDisk::new(seed ^ 0xd15c);
    let mut options = small([8192, 16384, 32768][random.below(3) as usize]);
    options.prepare_ahead = random.chance(10);
    let mut durable = Model::default();
    for life in 0..CRASHES {
        let journal = open(&disk, &options, &mut random, seed, life);
        let found = Model::of(&journal);
        assert_eq!(found, durable, "seed {seed} life {life}: changed although nothing was written");
        let (acknowledged, pending) = live(journal, &disk, durable, &mut random, (seed, life));
        // What a killed process had written may be there or not; what is found now must stay.
        let journal = open(&disk, &options, &mut random, seed, life);
        let found = Model::of(&journal);
        assert!(
            is_prefix(&acknowledged, &pending, &found),
            "seed {seed} life {life}: acknowledged {acknowledged:#?}\npending {pending:#?}\n\
             found {found:#?}"
        );
        durable = found;
        drop(journal);
        end(&disk, &mut random);
    }
}

/// Appends until the power goes; returns what was acknowledged, and the records that were not.
fn live(
    journal: Journal,
    disk: &LossyDisk,
    durable: Model,
    random: &mut Random,
    at: (u64, u64),
) -> (Model, Vec<Record>) {
    match random.below(10) {
        0 => disk.fail_sync_after(random.below(10)),
        1 => disk.limit_room(Some(random.below(30_000))),
        _ => disk.lose_power_after(random.below(60)),
    }
    let mut all = durable.clone();
    let mut calls = Vec::new();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    for _ in 0..60 {
        let records = all.random_call(random);
        for record in &records {
            all.apply(record);
        }
        let number = calls.len();
        let acknowledged = Arc::clone(&acknowledged);
        let (told, wait) = std::sync::mpsc::channel();
        journal.append(records.clone(), move |result| {
            if result.is_ok() {
                let before = acknowledged.fetch_add(1, Ordering::SeqCst);
                assert_eq!(before, number, "acknowledged out of order");
            } else {
                assert!(
                    !matches!(result, Err(error) if matches!(*error, JournalError::Invalid(_)))
                );
            }
            let _ = told.send(());
        });
        calls.push(records);
        if random.chance(60) {
            wait.recv().unwrap();
        }
        if journal.failed().is_some() {
            break;
        }
        if random.chance(5) {
            assert_eq!(Model::of(&journal), all, "seed {at:?}: what was appended is not readable");
        }
    }
    if random.chance(80) {
        // The process dies with whatever is under way.
        disk.lose_power_after(0);
    }
    drop(journal);
    disk.limit_room(None);
    end(disk, random);
    let count = acknowledged.load(Ordering::SeqCst);
    let pending = calls.split_off(count).concat();
    let mut model = durable;
    for record in calls.concat() {
        model.apply(&record);
    }
    (model, pending)
}

/// The end of a life: the power goes, or just the process.
fn end(disk: &LossyDisk, random: &mut Random) {
    if random.chance(70) { disk.crash() } else { disk.kill() }
}

/// Opens, often losing power while it recovers.
fn open(disk: &LossyDisk, options: &Options, random: &mut Random, seed: u64, life: u64) -> Journal {
    while random.chance(30) {
        disk.lose_power_after(random.below(4));
        drop(Journal::open(Arc::new(disk.clone()) as Arc<dyn Disk>, options.clone()));
        disk.lose_power_after(0);
        end(disk, random);
    }
    Journal::open(Arc::new(disk.clone()), options.clone())
        .unwrap_or_else(|error| panic!("seed {seed} life {life}: {error}"))
}
