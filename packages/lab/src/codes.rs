//! The codes of this crate's faults; stable for ever.

use fault::Code;

/// A program that a lab needs cannot be run, or fails.
pub const PROGRAM: Code = Code("LAB-1001");
/// No network of the lab's own can be made.
pub const NETWORK: Code = Code("LAB-1002");
/// The image cannot be made.
pub const IMAGE: Code = Code("LAB-1003");

/// A machine cannot be started, or went off by itself.
pub const MACHINE: Code = Code("LAB-2001");
/// The boot server ended by itself, or does not answer.
pub const BOOT_SERVER: Code = Code("LAB-2002");
/// A node did not get there in time.
pub const NOT_IN_TIME: Code = Code("LAB-2003");
/// All have joined, and there is no cluster of them that can be written to.
pub const NO_CLUSTER: Code = Code("LAB-2004");
