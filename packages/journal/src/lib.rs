//! The durable log that all Raft groups of a process share.
//!
//! Callers hand over records of any groups; one thread writes whatever is queued as one frame,
//! syncs it once, and tells them all. Segment files have their room taken and written beforehand
//! and are used again, so that a sync writes data and nothing else.
//!
//! What must stay true:
//! - What `done` acknowledged survives any crash. What was not acknowledged survives in order: never
//!   a record without those before it, over all groups.
//! - A truncated entry never comes back.
//! - Damage to synced bytes is an error that names file and byte, never a wrong payload. Damage to
//!   the very last frame looks like a torn write and is cut: no log can tell them apart.
//! - After a refused write or sync nothing is tried again, for ever.
//! - A quiet group cannot hold the log: its entries are written again at the end.
//!
//! Relied on: a sector of 512 bytes is written whole or not at all.
//!
//! Absent on purpose: any idea of what a payload is; an async runtime; a bound on the queue (the
//! callers bound what they have in flight).

mod carry;
pub mod codes;
pub mod disk;
mod error;
mod format;
#[doc(hidden)]
pub mod fuzz;
mod journal;
pub mod lossy;
mod record;
mod recover;
mod segment;
mod state;
mod writer;

pub use crate::disk::{Disk, DiskFile, RealDisk};
pub use crate::error::JournalError;
pub use crate::journal::{Journal, Options, SYNC_BOUNDS_MICROS, Stats};
pub use crate::record::{GroupId, Record};
