//! The store: etcd's multi-version key space as a deterministic state machine.
//!
//! ```text
//! log entry ─► Store::apply ─► Batch (overlay) ─► one engine batch with the mark
//!                                             └─► publish: State, then Ring ─► answers
//! Reader ─► State (live keys in memory) ─► values: cache, else engine; the past: engine
//! ```
//!
//! What must stay true:
//! - Applying depends on the state and the commands alone: no clock, no chance, no map order.
//! - What an entry changed and consensus' mark are in one engine batch; it is written before
//!   anything of it is published, and published as a whole before anything is answered.
//! - One thread applies. Readers take the lock only to look up keys, never to read the engine for
//!   long or to build an answer.
//! - A revision at or above the compaction can be read in full; what is removed in the background is
//!   out of every reader's reach before it goes.
//!
//! Absent on purpose: deadlines of leases, watchers, the quota in bytes of the whole store, rates,
//! tokens and passwords. They are the server's, which proposes what it decided. What a user may touch,
//! and how much a namespace may hold, is judged here, when a command is applied.

mod apply;
pub mod auth;
mod cache;
pub mod check;
mod chunk;
mod command;
mod compact;
mod entry;
mod error;
mod events;
#[doc(hidden)]
pub mod fuzz;
mod hash;
mod history;
mod index;
mod keys;
mod layout;
mod lease;
mod lessor;
mod machine;
mod overlay;
mod pages;
mod past;
#[cfg(all(test, feature = "simulation"))]
pub(crate) mod peek;
mod quota;
mod range;
mod reader;
mod recent;
mod snapshot;
mod state;
pub(crate) mod transfer;
mod txn;
mod values;

#[cfg(test)]
mod tests;

pub use api::chainfire_internal::{Command, Principal, command::Request};
pub use auth::{Access, Auth, AuthError};
pub use check::MAX_KEY;
pub use command::{
    Outcome, Reply, encode, encode_as, encode_claim, encode_expire, encode_remaining,
};
pub use error::StoreError;
pub use events::{Before, Changes, Lagged, Subscription};
pub use hash::HashKv;
pub use history::History;
pub use keys::KeyRange;
pub use lease::{LeaseChange, LeaseInfo, MAX_LEASE_TTL};
pub use machine::Store;
pub use pages::{Page, Pages, Totals};
pub use quota::{QUOTAS_MAX, shown};
pub use reader::Reader;
pub use snapshot::Pack;
pub(crate) use snapshot::{Chunks, MAGIC as STREAM_MAGIC};
pub use state::StoreOptions;
