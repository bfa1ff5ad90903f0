//! Raft over journal, engine and rpc: one group or many on one log and one transport.

mod apply;
pub mod codes;
mod error;
mod group;
mod host;
mod log;
mod machine;
mod membership;
mod network;
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
mod types;
mod unbroken;
mod wire;

pub use error::{ConsensusError, Fatal, MembershipError, ProposeError, ReadError};
pub use group::Group;
pub use host::Host;
pub use machine::{Applied, MARK_SPACE, Machine, Mark, Persist, SnapshotSource, mark_keys};
pub use options::{Admit, Dialer, GroupOptions, HostOptions};
pub use types::{GroupId, Member, NodeId, NodeInfo, Role, Status};
