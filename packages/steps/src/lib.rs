//! The engine of first boot: which step is next, whether it is already true, when to try again,
//! and when to stop. It is pure: no clock, no disk, no network. The agent hands it the time and
//! what it saw; it answers with the next thing to do.
//!
//! Every step has a probe (is it already true?), an act and a verification. A step is probed before
//! it is acted on, each time, so a run that was cut anywhere is gone on with by running again.
//! What survives a restart is the [`Ledger`]: one small record with a generation number and a
//! checksum, which the agent writes by write, fsync, rename, fsync.

mod backoff;
mod ledger;
mod machine;
mod step;

pub use backoff::Pause;
pub use ledger::{Ledger, LedgerError, Outcome, Record};
pub use machine::{Failure, Machine, Next, Probe, Told};
pub use step::{Limits, Step};
