//! The codes of this crate.

use fault::Code;

/// A file of an identity cannot be read or written.
pub const FILE: Code = Code("ID-1001");
/// A key cannot be parsed.
pub const KEY: Code = Code("ID-1002");
/// A certificate cannot be parsed.
pub const CERTIFICATE: Code = Code("ID-1003");
/// A signing request is malformed, or its signature is wrong.
pub const REQUEST: Code = Code("ID-1004");
/// A signing request asks for more than it may have.
pub const REQUEST_ASKS: Code = Code("ID-1005");
/// There is a CA already.
pub const CA_EXISTS: Code = Code("ID-1006");
/// The CA's key and certificate do not belong together, or it is no CA of ours.
pub const CA_BROKEN: Code = Code("ID-1007");
/// A SPIFFE id or one of its names is malformed.
pub const NAME: Code = Code("ID-1008");
/// An id of another cluster.
pub const CLUSTER: Code = Code("ID-1009");
/// The CA expired.
pub const CA_EXPIRED: Code = Code("ID-1010");
/// Random bytes or a signature could not be made.
pub const CRYPTO: Code = Code("ID-1011");

/// No such join token, or its secret is wrong.
pub const TOKEN_UNKNOWN: Code = Code("ID-2001");
/// The join token expired.
pub const TOKEN_EXPIRED: Code = Code("ID-2002");
/// The join token was used by another key.
pub const TOKEN_REUSED: Code = Code("ID-2003");
/// The join token is for another node.
pub const TOKEN_WRONG_NODE: Code = Code("ID-2004");
/// The join token was revoked.
pub const TOKEN_REVOKED: Code = Code("ID-2005");
/// Too many join tokens are alive.
pub const TOKEN_TOO_MANY: Code = Code("ID-2006");
