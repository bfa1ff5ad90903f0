//! Backups: a store in one checked file, and new clusters made of such files.
//!
//! ```text
//! running member ── Maintenance.Snapshot ──┐
//! data folder of a stopped member ─────────┼─► records ─► backup file ─► records ─┐
//! etcd's snapshot file ────────────────────┘                  │                   ├─► data folder
//!                                              └──────────────────────────────────┘
//! ```
//!
//! What must stay true:
//! - A backup is the store right after one revision, whatever was written meanwhile.
//! - A file is checked to its end before anything is made of it, and again while that happens.
//! - A data folder counts only from the moment when it says whose it is, which is written last.
//! - The restored cluster shares no member id with the old one, so neither can take the other's
//!   members for its own.

mod etcd;
mod format;
mod inspect;
mod read;
mod restore;
mod save;
mod stopped;

use std::path::Path;

use fault::{Fault, Kind};

use crate::codes;

pub use format::{BackupMember, FORMAT, Head, Section, Summary};
pub use inspect::{Inspected, Origin, inspect};
pub use restore::{RestoreOptions, Restored, restore};
pub use save::{Progress, SaveOptions, Saved, save};
pub use stopped::save_stopped;

fn damaged(what: impl Into<String>) -> Fault {
    let what = format!("the file is damaged: {}", what.into());
    Fault::new(codes::BACKUP_DAMAGED, Kind::Corrupt, what, "use another copy or an older backup")
}

fn foreign(what: &str) -> Fault {
    let hint = "give a file of chainfire backup save or etcdctl snapshot save";
    Fault::new(codes::BACKUP_FOREIGN, Kind::Invalid, format!("not usable: {what}"), hint)
}

fn cannot(path: &Path, verb: &str, why: &str, hint: &str) -> Fault {
    let what = format!("cannot {verb} {}: {why}", path.display());
    Fault::new(codes::BACKUP_FILE, Kind::Precondition, what, hint)
}
