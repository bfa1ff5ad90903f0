//! The codes of this crate.

use fault::Code;

/// A TLS file cannot be read.
pub const TLS_FILE: Code = Code("RPC-1001");
/// A TLS file is not the PEM that it should be.
pub const TLS_PEM: Code = Code("RPC-1002");
/// Key and certificate do not belong together.
pub const TLS_KEY: Code = Code("RPC-1003");
/// The certificate is not signed by the cluster's CA.
pub const TLS_CHAIN: Code = Code("RPC-1004");
/// The certificate expired.
pub const TLS_EXPIRED: Code = Code("RPC-1005");
/// The certificate is not valid yet.
pub const TLS_EARLY: Code = Code("RPC-1006");
/// The CA file holds no usable CA.
pub const TLS_CA: Code = Code("RPC-1007");
/// A server needs a certificate of its own.
pub const TLS_NO_IDENTITY: Code = Code("RPC-1008");

/// The port is in use.
pub const PORT_IN_USE: Code = Code("RPC-2001");
/// The address cannot be listened on.
pub const LISTEN: Code = Code("RPC-2002");
/// The reflection data cannot be read.
pub const REFLECTION: Code = Code("RPC-2003");
/// A listener was made without choosing TLS or plaintext.
pub const UNDECIDED: Code = Code("RPC-2004");

/// An endpoint or URL is malformed.
pub const ENDPOINT: Code = Code("RPC-3001");
/// A server cannot be reached.
pub const UNREACHABLE: Code = Code("RPC-3002");
/// A server did not answer in time.
pub const TIMED_OUT: Code = Code("RPC-3003");
/// An answer is too long.
pub const TOO_LARGE: Code = Code("RPC-3004");
/// An answer is not understood.
pub const ANSWER: Code = Code("RPC-3005");
/// A server says a time at which its own certificate is not valid.
pub const TIME: Code = Code("RPC-3006");

/// The caller showed no certificate where one is needed.
pub const NO_CERTIFICATE: Code = Code("RPC-4001");
/// The caller's certificate is not the kind that may do this.
pub const WRONG_CALLER: Code = Code("RPC-4002");
