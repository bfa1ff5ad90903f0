//! The codes of this crate's errors.

use fault::Code;

/// Reading or writing a file failed.
pub const IO: Code = Code("EN-1001");
/// Stored bytes are damaged.
pub const CORRUPT: Code = Code("EN-1002");
/// The disk is full.
pub const FULL: Code = Code("EN-1003");
/// Another process has the folder open.
pub const LOCKED: Code = Code("EN-1004");
/// The folder was written by another version.
pub const VERSION: Code = Code("EN-1005");
/// The engine stopped after an earlier error.
pub const STOPPED: Code = Code("EN-1006");
/// The space was not named when the engine was opened.
pub const SPACE: Code = Code("EN-1007");
/// The caller broke the contract of a call.
pub const MISUSE: Code = Code("EN-1008");
