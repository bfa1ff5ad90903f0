//! The agent that turns a booted machine into a member of the cluster.
//!
//! What is decided stands in the pure crate `steps`; here is the thin shell that looks at the
//! machine and changes it. A step's probe asks the world, never the ledger: the ledger says what
//! was done and how long it took, for people and for the boot server.
//!
//! States of a run: going, waiting(reason), blessed, rescue, failed(code, hint). What survives a
//! restart: the ledger, the keys, the certificates, the boot server's answer to the enrolment, the
//! rendered settings of the services, and the services' data. On an installed machine all of it is
//! on the data partition, which is mounted before anything is read; until the step disk has made
//! one, the folder is in memory and holds nothing that matters.
//!
//! The boot server may be away at any time: a machine that is not enrolled waits for it, one that
//! is goes on without it.

mod agent;
mod bootserver;
mod clock;
pub mod codes;
mod command;
mod console;
mod context;
mod disk;
mod enroll;
mod files;
mod hardware;
mod identify;
mod install;
mod join;
mod kernel;
mod network;
mod node;
mod report;
mod settings;
mod ssh;
mod supervisor;
mod systemd;

pub use agent::{Ending, run};
pub(crate) use context::Context;
pub use disk::DiskSettings;
pub use files::{describe_ledger, lock};
pub use node::Node;
pub use report::Reporter;
pub use settings::{MachineSettings, Mode, Settings, Target};
pub use supervisor::{Running, Service, Supervised};
