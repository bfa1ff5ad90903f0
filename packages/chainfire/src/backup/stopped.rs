//! A backup of what the data folder of a stopped member holds: for a cluster that has lost its
//! majority for good, and members that start no more.
//!
//! Everything in the member's log is taken, also what it never learnt to be committed: each write
//! that was acknowledged and that this member had received is in it. What it had not received is
//! not, and writes that were under way may be.
//!
//! Journal and engine are opened as a start opens them: what a crash left unfinished is cut off, the
//! generation that a snapshot replaced is dropped, and compacted space is given back meanwhile. No
//! vote, no entry and no acknowledged write goes with that; where the folder is the only one there
//! is, a copy of it is the one to open.

use std::path::Path;
use std::time::Instant;

use consensus::offline::Stopped;
use consensus::{Applied, Fatal, Machine, SnapshotSource};
use engine::{FjallOptions, open_fjall};
use fault::{Fault, Kind};

use super::format::{BackupMember, FORMAT, Head};
use super::save::{Progress, Saved, Told, now, program, write_records};
use super::{cannot, damaged};
use crate::codes;
use crate::data_dir::DataDir;
use crate::run::{GROUP, open_at};
use crate::store::transfer::Records;
use crate::store::{Store, StoreOptions};

/// Memory for each of the two stores.
const CACHE: u64 = 64 << 20;

/// Takes a backup from a data folder that no process uses, and tells the term and the index of
/// the last entry in its log: of several survivors, the highest pair has the most.
pub fn save_stopped(
    folder: &Path,
    path: &Path,
    progress: impl FnMut(Progress),
) -> Result<(Saved, u64, u64), Fault> {
    let (data, owner) = DataDir::existing(folder)?;
    let not_whole = |what: String| {
        let hint = "take another member's folder, or the newest backup";
        Fault::new(codes::BACKUP_SOURCE, Kind::Corrupt, what, hint)
    };
    let unread = |fatal: Fatal| not_whole(format!("{}: {fatal}", folder.display()));
    if path.exists() {
        return Err(cannot(path, "write", "it exists", "name a file that does not exist"));
    }
    let (journal, store, reader) = open_at(&data.join("journal"), &data.join("engine"), CACHE)?;
    let stopped = Stopped::open(journal, GROUP, &data.join("spool"))?;
    // What the log adds is applied to a copy: the folder stays where it was.
    let scratch = Scratch::beside(path)?;
    let spaces = &Store::SPACES;
    let engine = open_fjall(&scratch.0, spaces, FjallOptions::default())?;
    let options = StoreOptions { cache_bytes: CACHE as usize, ..StoreOptions::default() };
    let (copy, _) = Store::open(engine, GROUP, options).map_err(|e| not_whole(e.to_string()))?;
    let applied: Applied = store.applied();
    let mut pack = reader.snapshot().map_err(|e| not_whole(e.to_string()))?;
    let mut chunks = std::iter::from_fn(|| pack.next().transpose());
    let rebuilt = stopped.rebuild(copy, applied, &mut chunks).map_err(unread)?;

    let members = rebuilt.members.iter().map(|member| BackupMember {
        id: format!("{:x}", member.id),
        name: member.info.name.clone(),
        peer_urls: member.info.peer_urls.clone(),
        client_urls: member.info.client_urls.clone(),
        learner: !member.voter,
    });
    let head = Head {
        format: FORMAT,
        program: program(),
        begun: now(),
        source: folder.display().to_string(),
        cluster_id: format!("{:x}", crate::assembly::short_id(owner.cluster_id)),
        member_id: format!("{:x}", stopped.me()),
        linearizable: false,
        members: members.collect(),
    };
    let reader = rebuilt.machine.reader();
    let mut pack = reader.snapshot().map_err(|e| damaged(e.to_string()))?;
    let mut chunks = std::iter::from_fn(|| pack.next().transpose());
    let about = reader.db_size_in_use();
    let mut told = Told { last: Instant::now(), about, tell: progress };
    let records = &mut Records::new(&mut chunks, false);
    let saved = write_records(path, &head, records, &mut |bytes| told.at(bytes))?;
    Ok((saved, rebuilt.term, rebuilt.index))
}

/// A folder that goes when it is dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn beside(path: &Path) -> Result<Scratch, Fault> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.work", std::process::id()));
        let folder = path.with_file_name(name);
        let hint = "name a file in a folder that exists, with room, and that you may write";
        match std::fs::create_dir(&folder) {
            Ok(()) => Ok(Scratch(folder)),
            Err(e) => Err(cannot(&folder, "make", &e.to_string(), hint)),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
