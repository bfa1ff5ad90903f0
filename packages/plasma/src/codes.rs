//! The codes of this crate's faults; stable for ever.

use fault::Code;

/// The folder holds no cloud.
pub(crate) const NO_CLOUD: Code = Code("PL-1001");
/// A cloud runs in the folder already.
pub(crate) const RUNNING: Code = Code("PL-1002");
/// Another process has a port that the cloud needs.
pub(crate) const PORT_IN_USE: Code = Code("PL-1003");
/// The folder has something else in it.
pub(crate) const NOT_OURS: Code = Code("PL-1004");
/// A cloud cannot shrink by starting fewer nodes.
pub(crate) const SHRINK: Code = Code("PL-1005");
/// A program that the cloud consists of is not there.
pub(crate) const NO_PROGRAM: Code = Code("PL-1006");
/// The folder cannot be read or written.
pub(crate) const FOLDER: Code = Code("PL-1007");
/// The inventory has faults; each is printed.
pub(crate) const INVENTORY: Code = Code("PL-1008");
/// A process did not start.
pub(crate) const NOT_STARTED: Code = Code("PL-1009");
/// Something did not come about in time.
pub(crate) const TOO_LATE: Code = Code("PL-1010");
/// Destroying needs a yes.
pub(crate) const UNCONFIRMED: Code = Code("PL-1011");
/// No log of this name.
pub(crate) const NO_LOG: Code = Code("PL-1012");
/// A process did not stop.
pub(crate) const NOT_STOPPED: Code = Code("PL-1013");
/// The JSON is not what the Nix file says.
pub(crate) const STALE: Code = Code("PL-1014");
/// A node of the inventory has no configuration in its folder.
pub(crate) const NO_NODE_FILE: Code = Code("PL-1015");
/// The folder belongs to a cloud of the other kind: `up` or `serve`.
pub(crate) const OTHER_KIND: Code = Code("PL-1016");
/// The boot server's address is not one of this machine's.
pub(crate) const NOT_HERE: Code = Code("PL-1017");
/// No images to boot machines with.
pub(crate) const NO_IMAGES: Code = Code("PL-1018");
/// A file that names a lab cannot be used.
pub(crate) const LAB: Code = Code("PL-1019");
/// The node's host key is not known.
pub(crate) const NO_HOST_KEY: Code = Code("PL-1020");
/// The node's host key is another than the one it enrolled with.
pub(crate) const WRONG_HOST_KEY: Code = Code("PL-1021");
/// No connection by SSH.
pub(crate) const SSH_UNREACHABLE: Code = Code("PL-1022");
/// The node takes none of the operator's keys.
pub(crate) const SSH_REFUSED: Code = Code("PL-1023");
/// The SSH session broke.
pub(crate) const SSH_BROKEN: Code = Code("PL-1024");
/// The node does not reboot though it was told to.
pub(crate) const REBOOT_REFUSED: Code = Code("PL-1025");
