//! The agent's error codes.

use fault::Code;

/// A step was not true within its deadline (made in `steps`).
pub const DEADLINE: Code = Code("FB-1001");
/// The state folder cannot be read or written.
pub const STATE: Code = Code("FB-1002");
/// No node of the inventory is this machine, or several are.
pub const UNKNOWN: Code = Code("FB-1003");
/// The clock is off, and cannot be set.
pub const CLOCK: Code = Code("FB-1004");
/// There is no join token.
pub const TOKEN: Code = Code("FB-1005");
/// The machine is not installed.
pub const NOT_INSTALLED: Code = Code("FB-1006");
/// A unit could not be started.
pub const UNIT: Code = Code("FB-1007");
/// The boot server answered what cannot be.
pub const ANSWER: Code = Code("FB-1008");
/// The store on this machine belongs to another cluster.
pub const OTHER_CLUSTER: Code = Code("FB-1009");
/// The node does not hold its address.
pub const ADDRESS: Code = Code("FB-1010");
