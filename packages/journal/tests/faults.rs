//! Disks that are full or refuse to sync, and many callers at once.

mod model;

use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use journal::lossy::LossyDisk;
use journal::{Disk, Journal, JournalError, Options, RealDisk, Record};
use model::{Model, Random, small};

fn entry(group: u64, index: u64, len: usize) -> Record {
    Record::Entry { group, index, payload: Bytes::from(vec![index as u8; len]) }
}

fn open(disk: &LossyDisk, options: Options) -> Journal {
    Journal::open(Arc::new(disk.clone()), options).unwrap()
}

/// Appends until it fails; returns the last index that was acknowledged.
fn fill(journal: &Journal, len: usize) -> (u64, Arc<JournalError>) {
    for index in 1.. {
        if let Err(error) = journal.append_wait(vec![entry(1, index, len)]) {
            return (index - 1, error);
        }
    }
    unreachable!()
}

#[test]
fn a_full_disk_fails_before_anything_is_acknowledged_and_opens_when_there_is_room() {
    let disk = LossyDisk::new(5);
    disk.limit_room(Some(3 * 8192 + 100));
    let journal = open(&disk, small(8192));
    let (last, error) = fill(&journal, 500);
    assert_eq!(error.code().0, "JR-1003");
    assert!(last >= 15, "{last}");
    assert_eq!(journal.failed().unwrap().code().0, "JR-1003");
    let again = journal.append_wait(vec![entry(2, 1, 1)]).unwrap_err();
    assert_eq!(again.code().0, "JR-1003", "every later append reports it");
    drop(journal);
    disk.crash();

    // Still full: what is there can be read.
    let journal = open(&disk, small(8192));
    assert_eq!(journal.span(1), Some((1, last)));
    drop(journal);
    disk.limit_room(None);
    let journal = open(&disk, small(8192));
    journal.append_wait(vec![entry(1, last + 1, 500), entry(1, last + 2, 500)]).unwrap();
    journal.close();
    disk.crash();
    assert_eq!(open(&disk, small(8192)).span(1), Some((1, last + 2)));
}

#[test]
fn a_refused_sync_fails_everything_for_ever() {
    let disk = LossyDisk::new(6);
    let journal = open(&disk, small(8192));
    journal.append_wait(vec![entry(1, 1, 10)]).unwrap();
    disk.fail_sync_after(0);
    let error = journal.append_wait(vec![entry(1, 2, 10)]).unwrap_err();
    assert_eq!(error.code().0, "JR-1001");
    for _ in 0..3 {
        let later = journal.append_wait(vec![entry(1, 3, 10)]).unwrap_err();
        assert!(Arc::ptr_eq(&later, &error));
    }
    assert!(Arc::ptr_eq(&journal.failed().unwrap(), &error));
    // The next process may see the refused bytes in memory; what it sees must then be durable.
    drop(journal);
    disk.kill();
    let seen = Model::of(&open(&disk, small(8192)));
    disk.crash();
    assert_eq!(Model::of(&open(&disk, small(8192))), seen);
}

#[test]
fn segments_are_freed_and_recycled() {
    let disk = LossyDisk::new(7);
    let journal = open(&disk, small(8192));
    for index in 1..=500 {
        journal.append_wait(vec![entry(1, index, 1000)]).unwrap();
        if index > 4 {
            journal.append_wait(vec![Record::PurgeTo { group: 1, index: index - 4 }]).unwrap();
        }
    }
    assert!(disk.list().unwrap().len() <= 5, "{:?}", disk.list());
    assert_eq!(journal.span(1), Some((497, 500)));
    journal.close();
    disk.crash();
    let journal = open(&disk, small(8192));
    assert_eq!((journal.span(1), journal.purged(1)), (Some((497, 500)), 496));
    let read = journal.read(1, 0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(read[3], (500, Bytes::from(vec![500u64 as u8; 1000])));
}

#[test]
fn a_quiet_group_does_not_hold_the_log() {
    let disk = LossyDisk::new(8);
    let journal = open(&disk, small(16384));
    let vote = Record::Meta { group: 7, key: 2, value: "kept".into() };
    journal.append_wait(vec![entry(7, 1, 300), entry(7, 2, 300), vote]).unwrap();
    journal.append_wait(vec![Record::PurgeTo { group: 8, index: 77 }]).unwrap();
    for index in 1..=300 {
        let purge = Record::PurgeTo { group: 1, index: index - 1 };
        journal.append_wait(vec![entry(1, index, 2000), purge]).unwrap();
    }
    let stats = journal.stats();
    assert!(stats.carried >= 4 && stats.segments <= 6, "{stats:?}");
    let seen = Model::of(&journal);
    journal.close();
    disk.crash();
    let journal = open(&disk, small(16384));
    assert_eq!(Model::of(&journal), seen);
    assert_eq!(journal.meta(7, 2).unwrap(), "kept");
    assert_eq!((journal.span(7), journal.purged(8)), (Some((1, 2)), 77));
}

#[test]
fn records_that_do_not_fit_are_refused_and_nothing_fails() {
    let disk = LossyDisk::new(9);
    let journal = open(&disk, small(8192));
    journal.append_wait(vec![entry(1, 5, 1), Record::PurgeTo { group: 2, index: 9 }]).unwrap();
    for (refused, code) in [
        (vec![entry(1, 6, 1), entry(1, 8, 1)], "JR-1007"),
        (vec![entry(2, 9, 1)], "JR-1007"),
        (vec![entry(1, 6, 8192)], "JR-1008"),
        (vec![Record::Meta { group: 1, key: 0, value: vec![0; 70_000].into() }], "JR-1008"),
    ] {
        assert_eq!(journal.append_wait(refused).unwrap_err().code().0, code);
    }
    assert_eq!(journal.span(1), Some((5, 5)), "nothing of a refused call is taken");
    journal.append_wait(vec![entry(2, 100, 1)]).unwrap();
    journal.append_wait(vec![]).unwrap();
    assert!(journal.failed().is_none());
    let other = journal.clone();
    journal.close();
    assert_eq!(other.append_wait(vec![entry(1, 6, 1)]).unwrap_err().code().0, "JR-1006");
    assert!(Journal::open(Arc::new(disk), Options { segment_bytes: 5000, ..small(8192) }).is_err());
}

#[test]
fn reads_are_bounded_and_say_what_there_is() {
    let disk = LossyDisk::new(10);
    let journal = open(&disk, small(8192));
    for index in 10..20 {
        journal.append_wait(vec![entry(1, index, 1000)]).unwrap();
    }
    let indexes = |from, to, bytes| -> Vec<u64> {
        journal.read(1, from, to, bytes).unwrap().into_iter().map(|(index, _)| index).collect()
    };
    assert_eq!(indexes(0, 13, usize::MAX), [10, 11, 12]);
    assert_eq!(indexes(18, 99, usize::MAX), [18, 19]);
    assert_eq!(indexes(12, 20, 2500), [12, 13]);
    assert_eq!(indexes(12, 20, 1), [12]);
    assert_eq!(indexes(20, 30, 100), [0; 0]);
    assert_eq!(journal.read(2, 0, 10, 10).unwrap(), []);
}

/// Several threads append to groups of their own while others read and purge.
fn crowd(journal: &Journal) {
    std::thread::scope(|scope| {
        for group in 1..=4u64 {
            scope.spawn(move || {
                let mut random = Random(group);
                let (told, wait) = channel();
                for index in 1..=400 {
                    let payload = random.bytes(300);
                    let told = told.clone();
                    journal.append(vec![Record::Entry { group, index, payload }], move |result| {
                        told.send(result.is_ok()).unwrap();
                    });
                    if index % 16 == 0 {
                        (0..16).for_each(|_| assert!(wait.recv().unwrap()));
                        let purge = Record::PurgeTo { group, index: index - 8 };
                        journal.append_wait(vec![purge]).unwrap();
                    }
                }
            });
            scope.spawn(move || {
                while journal.span(group).is_none_or(|(_, last)| last < 400) {
                    let read = journal.read(group, 0, 1000, 5000).unwrap();
                    assert!(read.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
                }
            });
        }
    });
}

#[test]
fn many_threads_on_many_groups() {
    let disk = LossyDisk::new(11);
    let options = Options { prepare_ahead: true, ..small(16384) };
    let journal = open(&disk, options.clone());
    crowd(&journal);
    assert!(journal.stats().syncs < 1600 + 100, "{:?}", journal.stats());
    let seen = Model::of(&journal);
    assert_eq!(seen.groups.len(), 4);
    journal.close();
    disk.crash();
    assert_eq!(Model::of(&open(&disk, options)), seen);
}

#[test]
fn on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let options = Options { segment_bytes: 64 << 10, cache_bytes: 0, ..Options::default() };
    let disk = RealDisk::open(&folder).unwrap();
    let second = RealDisk::open(&folder).err().unwrap();
    assert_eq!(second.code().0, "JR-1004");
    let journal = Journal::open(disk, options.clone()).unwrap();
    crowd(&journal);
    let seen = Model::of(&journal);
    journal.close();
    let journal = Journal::open(RealDisk::open(&folder).unwrap(), options).unwrap();
    assert_eq!(Model::of(&journal), seen);
    let used: u64 = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(used <= 12 * (64 << 10), "{used}");
}

#[test]
fn on_a_small_tmpfs() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "journal-test"])
        .arg(dir.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"skipped: a tmpfs needs the right to mount\n",
        );
        return;
    }
    let _unmount = Unmount(dir.path().into());
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![0; 300 << 10]).unwrap();
    let options = Options { segment_bytes: 128 << 10, ..Options::default() };
    let folder = dir.path().join("journal");
    let journal = Journal::open(RealDisk::open(&folder).unwrap(), options.clone()).unwrap();
    let (last, error) = fill(&journal, 5000);
    assert_eq!(error.code().0, "JR-1003", "{error}");
    assert!(last > 50, "{last}");
    drop(journal);
    std::fs::remove_file(&ballast).unwrap();
    let journal = Journal::open(RealDisk::open(&folder).unwrap(), options).unwrap();
    assert_eq!(journal.span(1), Some((1, last)));
    journal.append_wait(vec![entry(1, last + 1, 5000), entry(1, last + 2, 5000)]).unwrap();
    journal.close();
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}
