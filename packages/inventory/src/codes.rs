//! The codes of this crate's faults; stable for ever.

use fault::Code;

/// The text is no JSON.
pub const NOT_JSON: Code = Code("INV-1001");
/// A key that nothing reads.
pub const UNKNOWN_KEY: Code = Code("INV-1002");
/// A key that must be there.
pub const MISSING_KEY: Code = Code("INV-1003");
/// A value of another type than the key takes.
pub const WRONG_TYPE: Code = Code("INV-1004");
/// A name that is no DNS label, or a domain that is no DNS name.
pub const BAD_NAME: Code = Code("INV-1005");
/// A text that is no address, or an address that no node can have.
pub const BAD_ADDRESS: Code = Code("INV-1006");
/// A text that is no MAC address of one card.
pub const BAD_MAC: Code = Code("INV-1007");
/// The same MAC, address, serial, name or role twice.
pub const DUPLICATE: Code = Code("INV-1008");
/// A role that does not exist.
pub const UNKNOWN_ROLE: Code = Code("INV-1009");
/// The former is not one of the nodes, or no control node.
pub const BAD_FORMER: Code = Code("INV-1010");
/// A list that must not be empty.
pub const EMPTY: Code = Code("INV-1011");
/// A disk is missing, not identified, or given to a process node.
pub const BAD_DISK: Code = Code("INV-1012");
/// A text that is no SSH public key.
pub const BAD_SSH_KEY: Code = Code("INV-1013");
/// A number outside its range.
pub const OUT_OF_RANGE: Code = Code("INV-1014");
/// A text, or a list, that is too long to be meant.
pub const TOO_LARGE: Code = Code("INV-1015");
/// A node that is not in the inventory.
pub const UNKNOWN_NODE: Code = Code("INV-1016");
/// A node that has not the role which is asked for.
pub const LACKS_ROLE: Code = Code("INV-1017");
/// A number of nodes that one machine cannot hold.
pub const BAD_COUNT: Code = Code("INV-1018");
/// A disk layout that does not exist.
pub const UNKNOWN_LAYOUT: Code = Code("INV-1019");

/// Warning: an even number of voters survives no more failures than one fewer.
pub const EVEN_VOTERS: Code = Code("INV-2001");
/// Warning: more voters than help.
pub const MANY_VOTERS: Code = Code("INV-2002");
/// Warning: no operator can log in.
pub const NO_OPERATORS: Code = Code("INV-2003");
/// Warning: nodes that are not on the network of the boot server.
pub const OTHER_NETWORK: Code = Code("INV-2004");
/// Warning: nodes that cannot reach the gateway.
pub const FAR_GATEWAY: Code = Code("INV-2005");
