//! The codes of this crate.

use fault::Code;

/// The settings file cannot be read.
pub const UNREADABLE: Code = Code("SET-1001");
/// The settings file is not TOML.
pub const SYNTAX: Code = Code("SET-1002");
/// A key that no setting has.
pub const UNKNOWN_KEY: Code = Code("SET-1003");
/// A value of the wrong type or out of its range.
pub const WRONG_VALUE: Code = Code("SET-1004");
/// A setting without a default is not given.
pub const MISSING: Code = Code("SET-1005");
/// A `--set` that is not `key=value`, or an environment name with an empty part.
pub const MALFORMED: Code = Code("SET-1006");
/// A key is a table in one place and a value in another.
pub const CONFLICT: Code = Code("SET-1007");
/// The file of a secret cannot be read.
pub const SECRET: Code = Code("SET-1008");
