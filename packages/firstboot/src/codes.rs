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
/// The machine has no SSH host key.
pub const HOST_KEY: Code = Code("FB-1011");

/// No disk is the one that the inventory names, or it is too small, too large or read-only.
pub const DISK_NONE: Code = Code("FB-2001");
/// Several disks are the one that the inventory names.
pub const DISK_TWO: Code = Code("FB-2002");
/// The disk holds data, and the inventory does not consent to erase it.
pub const DISK_FOREIGN: Code = Code("FB-2003");
/// The disk is another node's or another cluster's.
pub const DISK_CLAIMED: Code = Code("FB-2004");
/// What stands on the disk stands on another disk too.
pub const DISK_SPANS: Code = Code("FB-2005");
/// The running system, or something else, uses the disk.
pub const DISK_IN_USE: Code = Code("FB-2006");
/// A command failed, or a disk cannot be read or written.
pub const DISK_COMMAND: Code = Code("FB-2007");
/// The disk was erased, and is not empty.
pub const DISK_NOT_EMPTY: Code = Code("FB-2008");
/// What was laid out under this order is not there any more.
pub const DISK_DAMAGED: Code = Code("FB-2009");
/// The disk is no longer the one that was chosen.
pub const DISK_CHANGED: Code = Code("FB-2010");
/// The disk was installed under a newer order than the boot server's.
pub const DISK_NEWER: Code = Code("FB-2011");
/// The target knows no such layout.
pub const LAYOUT: Code = Code("FB-2012");
/// Erasing and laying out the disk failed again and again.
pub const DISK_GIVEN_UP: Code = Code("FB-2013");
/// The image, or its manifest, is not what it must be.
pub const IMAGE: Code = Code("FB-2101");
/// A file cannot be read or written.
pub const INSTALL_FILE: Code = Code("FB-2102");
/// NixOS cannot be installed.
pub const NIXOS: Code = Code("FB-2103");
