//! The error codes of this crate. A code never changes its meaning.

use fault::Code;

/// The request is malformed in itself.
pub const BAD_REQUEST: Code = Code("CF-1001");
/// A key that must exist does not.
pub const NO_KEY: Code = Code("CF-1002");
/// There is no such lease.
pub const NO_LEASE: Code = Code("CF-1003");
/// A lease of this id exists.
pub const LEASE_EXISTS: Code = Code("CF-1004");
/// The revision is compacted.
pub const COMPACTED: Code = Code("CF-1005");
/// The revision does not exist yet.
pub const FUTURE: Code = Code("CF-1006");
/// The request is over a limit of size or count.
pub const TOO_LARGE: Code = Code("CF-1007");
/// The store is over its quota.
pub const NO_SPACE: Code = Code("CF-1008");
/// A member's data is damaged.
pub const CORRUPT: Code = Code("CF-1009");
/// The engine failed.
pub const ENGINE: Code = Code("CF-1010");
/// The call is not built yet or never will be.
pub const UNSUPPORTED: Code = Code("CF-1011");
/// Authentication is off.
pub const NO_AUTH: Code = Code("CF-1012");
/// The caller's certificate does not allow this.
pub const DENIED: Code = Code("CF-1013");
/// The caller's turn in a lock or election is over.
pub const LOST_TURN: Code = Code("CF-1014");
/// A mistake of ours.
pub const INTERNAL: Code = Code("CF-1015");
/// Gossip is off on this member.
pub const NO_GOSSIP: Code = Code("CF-1016");

/// The caller has not said who they are, or is not believed.
pub const UNAUTHENTICATED: Code = Code("CF-1017");
/// The user may not do this.
pub const FORBIDDEN: Code = Code("CF-1018");
/// Users and roles cannot be changed in this way.
pub const USERS: Code = Code("CF-1019");

/// A namespace is over its quota.
pub const OVER_QUOTA: Code = Code("CF-1020");
/// A namespace has no quota.
pub const NO_QUOTA: Code = Code("CF-1021");

/// Nobody leads.
pub const NO_LEADER: Code = Code("CF-2001");
/// The call must go to the leader, and this node is it no longer.
pub const NOT_LEADER: Code = Code("CF-2002");
/// Too much waits.
pub const BUSY: Code = Code("CF-2003");
/// No answer in time; it may still take effect.
pub const TIMED_OUT: Code = Code("CF-2004");
/// The leader changed; it may still take effect.
pub const LEADER_CHANGED: Code = Code("CF-2005");
/// This node stops, or its store failed.
pub const STOPPED: Code = Code("CF-2006");

/// There is no such member.
pub const NO_MEMBER: Code = Code("CF-3001");
/// The member exists.
pub const MEMBER_EXISTS: Code = Code("CF-3002");
/// The learner has not caught up.
pub const NOT_READY: Code = Code("CF-3003");
/// The change of members cannot be made now.
pub const MEMBERS: Code = Code("CF-3004");
/// The caller belongs to another cluster.
pub const WRONG_CLUSTER: Code = Code("CF-3005");
/// A member of this name is alive.
pub const ALIVE: Code = Code("CF-3006");
/// The leader is new and does not know yet which members are alive.
pub const NEW_LEADER: Code = Code("CF-3007");

/// A setting is wrong in itself or beside another.
pub const SETTINGS: Code = Code("CF-4001");
/// The data folder cannot be used.
pub const DATA_DIR: Code = Code("CF-4002");
/// Another process has the data folder.
pub const LOCKED: Code = Code("CF-4003");
/// The data folder belongs to another cluster or member.
pub const FOREIGN_DATA: Code = Code("CF-4004");
/// Joining did not succeed.
pub const JOIN: Code = Code("CF-4005");
/// The journal or the engine does not open.
pub const STORAGE: Code = Code("CF-4006");
/// A backup file cannot be read or written.
pub const BACKUP_FILE: Code = Code("CF-6001");
/// A backup file is cut or damaged.
pub const BACKUP_DAMAGED: Code = Code("CF-6002");
/// A file is no backup, or of a format that this version does not know.
pub const BACKUP_FOREIGN: Code = Code("CF-6003");
/// A member or a data folder gives no backup.
pub const BACKUP_SOURCE: Code = Code("CF-6004");
/// A restore that would overwrite, or make something else than the backup.
pub const RESTORE: Code = Code("CF-6005");

/// The folder has lost the store that it had: going on would forget votes.
pub const DATA_GONE: Code = Code("CF-4007");
