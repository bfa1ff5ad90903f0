//! The durable log that all Raft groups of a process share.
pub mod codes;
pub mod disk;
mod error;
mod journal;
mod record;
mod state;

pub use crate::disk::{Disk, DiskFile, RealDisk};
pub use crate::error::JournalError;
pub use crate::journal::{Journal, Options, Stats};
pub use crate::record::{GroupId, Record};
