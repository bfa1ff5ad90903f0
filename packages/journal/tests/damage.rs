//! Files that are not what was written: torn tails are cut, all else is an error that says where.

mod model;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use journal::lossy::LossyDisk;
use journal::{Disk, Journal, JournalError, Record};
use model::{Model, is_prefix, small};

/// A journal of several segments and frames, and what went into it, call by call.
fn written() -> (LossyDisk, Vec<Vec<Record>>) {
    let disk = LossyDisk::new(1);
    let journal = Journal::open(Arc::new(disk.clone()), small(8192)).unwrap();
    let mut calls = vec![
        vec![Record::Meta { group: 1, key: 1, value: "vote".into() }],
        vec![Record::PurgeTo { group: 2, index: 41 }],
    ];
    for index in 1..=12 {
        let payload = Bytes::from(vec![index as u8; 600]);
        calls.push(vec![
            Record::Entry { group: 1, index, payload: payload.clone() },
            Record::Entry { group: 2, index: 41 + index, payload },
        ]);
    }
    calls.push(vec![Record::TruncateAfter { group: 1, index: 10 }]);
    for call in &calls {
        journal.append_wait(call.clone()).unwrap();
    }
    journal.close();
    (disk, calls)
}

fn open(disk: &LossyDisk) -> Result<Journal, JournalError> {
    Journal::open(Arc::new(disk.clone()), small(8192))
}

/// Opens a damaged copy: either an error, or some prefix of the calls, never anything else.
fn look(disk: &LossyDisk, calls: &[Vec<Record>], what: &str) -> Option<JournalError> {
    match open(disk) {
        Ok(journal) => {
            let found = Model::of(&journal);
            let all = calls.concat();
            assert!(is_prefix(&Model::default(), &all, &found), "{what}: {found:?}");
            let without_last = calls[..calls.len() - 1].concat();
            let mut least = Model::default();
            without_last.iter().for_each(|record| least.apply(record));
            let last = calls.last().unwrap();
            assert!(is_prefix(&least, last, &found), "{what}: lost more than the last write");
            None
        }
        Err(error) => Some(error),
    }
}

#[test]
fn a_flip_of_any_byte_gives_an_error_or_cuts_the_last_write() {
    let (disk, calls) = written();
    let names = disk.list().unwrap();
    assert!(names.len() >= 3, "{names:?}");
    let (mut errors, mut named) = (0, BTreeSet::new());
    for name in &names {
        let bytes = disk.bytes(name);
        for (at, byte) in bytes.iter().enumerate() {
            // All of the used bytes; of the zeros every sixteenth.
            if *byte == 0 && at % 16 != 3 {
                continue;
            }
            let damaged = disk.copy(2);
            damaged.flip(name, at as u64 * 8 + (at % 8) as u64);
            if let Some(error) = look(&damaged, &calls, &format!("{name} byte {at}")) {
                errors += 1;
                assert!(matches!(error, JournalError::Corrupt { .. }), "{error}");
                named.insert(error.code().0);
            }
        }
    }
    assert!(errors > 1000, "{errors}");
    assert_eq!(named.into_iter().collect::<Vec<_>>(), ["JR-1002"]);
}

#[test]
fn damage_in_the_middle_names_file_and_byte() {
    let (disk, calls) = written();
    let name = disk.list().unwrap().remove(0);
    disk.flip(&name, 8 * (4096 + 100));
    match look(&disk, &calls, "flip") {
        Some(JournalError::Corrupt { file, offset, what }) => {
            assert_eq!((file, offset), (name, 4096 + 64), "{what}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_torn_tail_is_cut_and_the_journal_goes_on() {
    let (disk, calls) = written();
    let name = disk.list().unwrap().pop().unwrap();
    // Cut into the last frame without making the file shorter: its end was never written.
    let bytes = disk.bytes(&name);
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    disk.flip(&name, 8 * end as u64);
    assert!(look(&disk, &calls, "torn").is_none());
    let journal = open(&disk).unwrap();
    assert_eq!(journal.span(1), Some((1, 12)), "the last call truncated");
    journal.append_wait(vec![Record::TruncateAfter { group: 1, index: 3 }]).unwrap();
    journal.close();
    assert_eq!(open(&disk).unwrap().span(1), Some((1, 3)));
}

#[test]
fn short_and_missing_files_are_errors() {
    let (disk, calls) = written();
    for name in disk.list().unwrap() {
        for len in [0, 30, 511, 4096, 4200, 8191] {
            let damaged = disk.copy(3);
            damaged.cut(&name, len);
            let error = look(&damaged, &calls, &format!("{name} cut to {len}"));
            assert!(matches!(error, Some(JournalError::Corrupt { .. })), "{name} {len}: {error:?}");
        }
    }
    let names = disk.list().unwrap();
    for name in &names[..names.len() - 1] {
        let damaged = disk.copy(4);
        damaged.remove(name).unwrap();
        let error = look(&damaged, &calls, name);
        assert!(matches!(error, Some(JournalError::Corrupt { .. })), "{name}: {error:?}");
    }
}

#[test]
fn a_newer_format_and_foreign_files() {
    let (disk, calls) = written();
    disk.create("notes.txt").unwrap();
    disk.create("0000000777.segment.new").unwrap();
    assert!(look(&disk, &calls, "other files").is_none());
    assert!(!disk.list().unwrap().contains(&"0000000777.segment.new".to_string()));
    let file = disk.create("0000000778.segment").unwrap();
    file.write_at(&[7; 8192], 0).unwrap();
    assert!(matches!(look(&disk, &calls, "rubbish"), Some(JournalError::Corrupt { .. })));
}

#[test]
fn a_frame_planted_in_a_payload_is_no_frame() {
    // A client writes a copy of real frames as its payload, and then the power goes.
    let (disk, mut calls) = written();
    let copied: Vec<u8> = disk.bytes(&disk.list().unwrap()[0])[4096..6000].to_vec();
    let journal = open(&disk).unwrap();
    calls.push(vec![Record::Entry { group: 3, index: 1, payload: copied.into() }]);
    journal.append_wait(calls.last().unwrap().clone()).unwrap();
    journal.close();
    assert!(look(&disk, &calls, "planted").is_none());
}
