//! Chainfire, the cluster's key-value store: etcd's v3 API on Raft.
//!
//! ```text
//! tonic services (server) ──propose──► consensus::Group ──► store (apply thread)
//!        │  ▲                                                  │
//!        │  └── watch hub ◄────────── changes ◄────────────────┤
//!        └── reads ─────────► store::Reader ◄──────────────────┘
//! ```
//!
//! [`start`] makes a whole member in this process, [`run`] is the same until it is told to stop.
//! What must survive goes through the log; what is in memory here can be lost at any moment.

mod assembly;
pub mod backup;
pub mod codes;
mod data_dir;
pub mod embed;
mod follow;
#[doc(hidden)]
pub mod fuzz;
mod gateway;
mod gossip;
mod joining;
mod run;
mod server;
pub mod settings;
#[cfg(all(test, feature = "simulation"))]
mod simulation;
pub mod store;

pub use data_dir::Endpoints;
pub use gossip::{About, Node, NodeState, Nodes};
pub use run::{Member, run, start};
pub use settings::Settings;
