//! The codes of this crate.

use fault::Code;

/// The log level or filter cannot be understood.
pub const LOG_LEVEL: Code = Code("TEL-1001");
/// The ops listener cannot listen on its address.
pub const OPS_LISTEN: Code = Code("TEL-1002");
