//! Raft over journal, engine and rpc: one group or many on one log and one transport.

pub mod codes;
mod error;
mod group;
mod machine;
mod options;
mod types;

pub use error::{ConsensusError, Fatal, MembershipError, ProposeError, ReadError};
pub use group::Group;
pub use machine::{Applied, MARK_SPACE, Machine, Mark, Persist, SnapshotSource, mark_keys};
pub use options::{Admit, Dialer, GroupOptions, HostOptions};
pub use types::{GroupId, Member, NodeId, NodeInfo, Role, Status};
