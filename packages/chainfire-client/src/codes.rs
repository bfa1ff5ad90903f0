//! Error codes of the client. `CF-1xxx` to `CF-4xxx` belong to the server.

use fault::Code;

/// An endpoint or an argument cannot be used.
pub const INVALID: Code = Code("CF-5001");
/// No endpoint answered in time; nothing was done.
pub const UNREACHABLE: Code = Code("CF-5002");
/// The cluster had no leader until the deadline; nothing was done.
pub const NO_LEADER: Code = Code("CF-5003");
/// A write was sent and its answer was lost: it may or may not have happened.
pub const FATE_UNKNOWN: Code = Code("CF-5004");
/// The server refused the request; nothing was done.
pub const REFUSED: Code = Code("CF-5005");
/// The revision asked for has been compacted.
pub const COMPACTED: Code = Code("CF-5006");
/// The lease is gone: expired, revoked, or not kept alive in time.
pub const LEASE_LOST: Code = Code("CF-5007");
/// Another holder leads now; the guarded write was not done.
pub const DEPOSED: Code = Code("CF-5008");
/// The lease of a lock or leadership is past its safe time; the guarded write was not sent.
pub const UNSAFE: Code = Code("CF-5011");
/// The watch was closed by its owner.
pub const CLOSED: Code = Code("CF-5009");
/// A member's answer contradicts the protocol.
pub const PROTOCOL: Code = Code("CF-5010");
