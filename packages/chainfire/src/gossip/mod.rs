//! Who is there: SWIM gossip between the members, over UDP.
//!
//! It informs and never decides. Nothing of Raft reads it; what is a member stands in the Raft
//! membership alone, and gossip says which of the members answer, and what they are.
//!
//! ```text
//! Raft membership ──ids, peer URLs──► task ──greet (gRPC, peer listener, mTLS)──► other members
//!                                      │ ▲  key, address, metadata
//!            foca (the SWIM protocol) ─┤ │
//!                                      ▼ │
//!                                    UDP socket, each packet sealed for its receiver
//! ```
//!
//! - **Finding each other.** A member asks every other member of the Raft membership at its peer
//!   URL ([`service::GreetService`]); the answer has where it gossips, what it is, and a key. There
//!   is no list of seeds. That is one call for each pair of members and start of a process.
//! - **Keys.** Each process draws a secret when it starts. What `a` sends to `b` is sealed with a
//!   key derived from `a`'s secret and `b`'s id, which `b` learned from `a` over the peer channel,
//!   where certificates say who asks. So a packet can come from nobody but its sender, no key is
//!   ever on a disk or in a backup, and a member that was removed gets no new key and is not heard.
//!   Without `[tls]` nobody can be known and the keys travel in the clear, as all else does.
//! - **Packets** are at most [`seal::PACKET_MAX`] bytes. One that is too long, of another version,
//!   from nobody known, not authentic, or seen before, is dropped and counted.
//! - **States.** A member that answers no probe, neither asked directly nor by others, is suspected,
//!   and down three probe periods later. A process that is back counts as another run of the same
//!   member, so it is up at once. Who left in an orderly way is down at once.
//!
//! What survives a restart: the number of the run, so that a clock that was set back does not make
//! a new run look older than the one before.

mod identity;
mod nodes;
mod seal;
mod service;
mod stats;
mod task;

pub use nodes::{About, Node, NodeState, Nodes};
pub(crate) use service::{GossipService, GreetService};
pub(crate) use task::{Gossip, Start};
