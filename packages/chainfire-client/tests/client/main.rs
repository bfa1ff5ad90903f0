//! The client against real servers: etcd where it is installed, Chainfire where it is built. The
//! same scenarios on both, since both speak the same protocol.

#![expect(clippy::print_stdout, reason = "a test says why it is skipped")]

mod election;
mod failover;
mod kv;
mod lease;
mod levels;
mod lock;
mod watch;
mod world;
