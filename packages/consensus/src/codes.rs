//! The error codes of this crate. A code never changes its meaning.

use fault::Code;

/// The group has no leader that this node could reach.
pub const NO_LEADER: Code = Code("CO-1001");
/// Too much waits already.
pub const BUSY: Code = Code("CO-1002");
/// No answer within the deadline; the proposal may still take effect.
pub const TIMED_OUT: Code = Code("CO-1003");
/// The leader changed; the proposal may still take effect.
pub const LEADER_CHANGED: Code = Code("CO-1004");
/// The request is over the size limit.
pub const TOO_LARGE: Code = Code("CO-1005");
/// The group is stopping or stopped here.
pub const STOPPED: Code = Code("CO-1006");
/// The group failed here and serves nothing any more.
pub const FAILED: Code = Code("CO-1007");

/// The group has members already, and they are others.
pub const FORMED: Code = Code("CO-2001");
/// No such member.
pub const NO_MEMBER: Code = Code("CO-2002");
/// The id is in use.
pub const MEMBER_EXISTS: Code = Code("CO-2003");
/// The learner has not caught up yet.
pub const NOT_READY: Code = Code("CO-2004");
/// Another membership change is under way.
pub const CHANGING: Code = Code("CO-2005");
/// The change would leave no quorum.
pub const QUORUM: Code = Code("CO-2006");
/// The member does not vote, so it cannot lead.
pub const NOT_VOTER: Code = Code("CO-2007");

/// The caller may not speak Raft.
pub const NOT_A_PEER: Code = Code("CO-3001");
/// The message is for another node, or for a group that is not here.
pub const WRONG_ADDRESS: Code = Code("CO-3002");
/// The message cannot be decoded.
pub const MALFORMED: Code = Code("CO-3003");
/// A snapshot did not arrive whole.
pub const SNAPSHOT: Code = Code("CO-3004");

/// The journal failed.
pub const JOURNAL: Code = Code("CO-4001");
/// The state machine failed.
pub const MACHINE: Code = Code("CO-4002");
/// A stored record cannot be decoded.
pub const DAMAGED: Code = Code("CO-4003");
/// The options contradict each other.
pub const OPTIONS: Code = Code("CO-4004");
/// The group runs on this host already.
pub const RUNNING: Code = Code("CO-4005");
/// The journal belongs to another member.
pub const WRONG_NODE: Code = Code("CO-4006");
