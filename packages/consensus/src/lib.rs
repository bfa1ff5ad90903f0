//! Raft over journal, engine and rpc: one group or many on one log and one transport.
//!
//! A process has one [`Host`]; each [`Group`] replicates one [`Machine`]. A proposal goes through
//! these hands, and only ever once:
//!
//! ```text
//! propose ─► queue ─► batch (one Raft entry) ─► leader's log ─► quorum ─► machine's thread ─► answer
//!            waits while earlier batches are    here, or over            of the node that
//!            under way                          the transport            was asked
//! ```
//!
//! What must stay true:
//! - Acknowledged means: in a synced journal on a quorum, and applied on the node that answers.
//! - A batch that may be in a leader's log is never proposed again. Errors say which is the case
//!   ([`ProposeError::surely_not_proposed`]).
//! - The machine's mark is written with what it applied, so engine and log agree after any crash;
//!   the log is cut only below what the machine has made durable.
//! - A linearizable read waits for a round with a quorum that began after it was asked for. No
//!   clock is trusted: a paused leader serves nothing stale.
//! - Every waiter is answered: applied, refused, timed out, or told that the group has ended.
//! - What survives a restart: entries, vote, committed and purged positions, this node's id (all in
//!   the journal), the machine with its mark (in the engine), an interrupted installation (in the
//!   spool). All else is made anew.
//!
//! Absent on purpose: types of the Raft library at the border, TLS (a [`Dialer`] brings channels, an
//! [`Admit`] judges callers), reads by lease, retries of what may have happened.

mod apply;
pub mod codes;
mod error;
mod figures;
#[doc(hidden)]
pub mod fuzz;
mod group;
mod host;
mod log;
mod machine;
mod membership;
mod network;
pub mod offline;
mod options;
mod peers;
mod propose;
mod raft;
mod read;
mod service;
mod shared;
mod spool;
mod standing;
#[cfg(test)]
mod suite;
mod thread;
mod threads;
mod types;
mod unbroken;
mod wire;

pub use error::{ConsensusError, Fatal, MembershipError, ProposeError, ReadError};
pub use group::Group;
pub use host::Host;
pub use machine::{Applied, MARK_SPACE, Machine, Mark, Persist, SnapshotSource, mark_keys};
pub use options::{Admit, Dialer, GroupOptions, HostOptions};
pub use threads::{blocking, in_place, pump, run_in_place};
pub use types::{Counts, GroupId, Member, NodeId, NodeInfo, Role, Status};
