//! Durable appends per second with so many callers waiting at a time.
#![allow(clippy::print_stdout)]

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use journal::{Journal, Options, RealDisk, Record};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => std::path::PathBuf::from(dir),
        None => std::env::current_dir()?.join("append-example"),
    };
    println!(
        "{:>7} {:>12} {:>10} {:>8} {:>8}",
        "queued", "appends/s", "syncs/s", "p50 us", "p99 us"
    );
    for queued in [1u64, 16, 64, 256] {
        let journal = Journal::open(RealDisk::open(&dir)?, Options::default())?;
        let (told, wait) = channel();
        let mut index = 0;
        let mut append = |journal: &Journal| {
            index += 1;
            let mut records =
                vec![Record::Entry { group: 1, index, payload: vec![index as u8; 300].into() }];
            if index % 10_000 == 0 {
                records.push(Record::PurgeTo { group: 1, index: index - 5_000 });
            }
            let (told, from) = (told.clone(), Instant::now());
            journal.append(records, move |result| {
                let _ = told.send((result.is_ok(), from.elapsed()));
            });
        };
        (0..queued).for_each(|_| append(&journal));
        let (started, mut times) = (Instant::now(), Vec::new());
        while started.elapsed() < Duration::from_secs(3) {
            let (ok, time) = wait.recv()?;
            assert!(ok);
            times.push(time);
            append(&journal);
        }
        let seconds = started.elapsed().as_secs_f64();
        let syncs = journal.stats().syncs as f64 / seconds;
        let rate = times.len() as f64 / seconds;
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_micros();
        println!("{queued:>7} {rate:>12.0} {syncs:>10.0} {:>8} {:>8}", at(50), at(99));
        journal.append_wait(vec![Record::Forget { group: 1 }])?;
        journal.close();
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
