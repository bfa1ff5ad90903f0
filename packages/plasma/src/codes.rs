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
