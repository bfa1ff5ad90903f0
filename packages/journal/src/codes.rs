//! The codes of this crate's errors.

use fault::Code;

/// Reading, writing or syncing a file failed.
pub const IO: Code = Code("JR-1001");
/// Stored bytes are damaged.
pub const CORRUPT: Code = Code("JR-1002");
/// The disk is full.
pub const FULL: Code = Code("JR-1003");
/// Another process has the folder open.
pub const LOCKED: Code = Code("JR-1004");
/// The folder was written by another version.
pub const VERSION: Code = Code("JR-1005");
/// The journal was closed.
pub const CLOSED: Code = Code("JR-1006");
/// A record does not follow what is in its group.
pub const INVALID: Code = Code("JR-1007");
/// A record is larger than a segment can hold.
pub const TOO_LARGE: Code = Code("JR-1008");
/// An option cannot be.
pub const OPTIONS: Code = Code("JR-1009");
