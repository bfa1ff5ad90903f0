//! The codes of this crate's faults; stable for ever.

use fault::Code;

/// The state folder has not been initialised.
pub const NOT_INITIALISED: Code = Code("BS-1001");
/// The state folder belongs to another cluster than the inventory.
pub const OTHER_CLUSTER: Code = Code("BS-1002");
/// Another boot server runs on the state folder.
pub const BUSY: Code = Code("BS-1003");
/// The state folder cannot be read or written.
pub const STORAGE: Code = Code("BS-1004");
/// A file of the state folder is damaged or of a later version.
pub const DAMAGED: Code = Code("BS-1005");
/// The inventory's file cannot be read.
pub const NO_INVENTORY: Code = Code("BS-1006");
/// The inventory has faults; each is printed.
pub const BAD_INVENTORY: Code = Code("BS-1007");
/// A number in the settings is outside its range.
pub const BAD_SETTING: Code = Code("BS-1008");

/// A node speaks for another node.
pub const NOT_ALLOWED: Code = Code("BS-2001");
/// The body is no JSON of the expected form, or too large.
pub const BAD_BODY: Code = Code("BS-2002");
/// No such path.
pub const NO_SUCH_PATH: Code = Code("BS-2003");
/// The path exists, the method does not.
pub const NO_SUCH_METHOD: Code = Code("BS-2004");
/// Too many requests.
pub const TOO_MANY: Code = Code("BS-2005");

/// What the node saw of itself is not what the inventory says.
pub const NOT_THIS_MACHINE: Code = Code("BS-3001");
/// A certificate for a service that does not run on the node.
pub const NO_SUCH_SERVICE: Code = Code("BS-3002");
/// A token's lifetime is outside its bounds.
pub const BAD_TTL: Code = Code("BS-3003");

/// The grant to form the cluster belongs to another node or key.
pub const GRANT_SPENT: Code = Code("BS-4001");
/// Only the inventory's former may form the cluster.
pub const NOT_FORMER: Code = Code("BS-4002");
/// The cluster was formed with another key, and there is nobody left to join.
pub const NOBODY_TO_JOIN: Code = Code("BS-4003");
/// The node has not the role control, so it neither forms nor joins.
pub const NO_VOTER: Code = Code("BS-4004");
/// The node's key is not the one that enrolled last.
pub const OLD_KEY: Code = Code("BS-4005");

/// A progress report that is too large or names an impossible state.
pub const BAD_REPORT: Code = Code("BS-5001");

/// The DHCP settings name no usable card.
pub const DHCP_INTERFACE: Code = Code("BS-6001");
/// The range for unknown machines is outside the nodes' network, or holds somebody's address.
pub const DHCP_RANGE: Code = Code("BS-6002");
/// The inventory gives no IPv4 network to serve.
pub const DHCP_NETWORK: Code = Code("BS-6003");
/// dnsmasq cannot be started.
pub const NO_DNSMASQ: Code = Code("BS-6004");
/// dnsmasq refuses the configuration made for it.
pub const DHCP_REFUSED: Code = Code("BS-6005");
/// A boot loader is missing.
pub const NO_LOADER: Code = Code("BS-6006");

/// A machine that is none of the inventory's nodes.
pub const UNKNOWN_MACHINE: Code = Code("BS-7001");
/// The images to boot are missing, or not what their manifest says.
pub const NO_IMAGES: Code = Code("BS-7002");
/// A machine asks what to boot without saying who it is.
pub const BAD_QUERY: Code = Code("BS-7003");
/// All places for sending images are taken.
pub const STREAMS_BUSY: Code = Code("BS-7004");
/// An order that the node's state does not allow.
pub const BAD_ORDER: Code = Code("BS-7005");
/// A range outside the file.
pub const BAD_RANGE: Code = Code("BS-7006");

/// The boot server hands out no tokens by itself.
pub const NOT_HANDED_OUT: Code = Code("BS-8001");
/// Another key has claimed the node.
pub const CLAIMED: Code = Code("BS-8002");
/// The install was ordered again, or is no install of this node.
pub const OTHER_INSTALL: Code = Code("BS-8003");
/// The node is not to be installed, so there is nothing to claim.
pub const NOT_TO_INSTALL: Code = Code("BS-8004");
/// A claim's key, or a host key, that is none.
pub const BAD_KEY: Code = Code("BS-8005");

/// A mistake of ours.
pub const INTERNAL: Code = Code("BS-9001");
