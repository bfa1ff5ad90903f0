//! A member inside another program.
//!
//! ```no_run
//! # async fn example() -> Result<(), fault::Fault> {
//! use chainfire::embed::{ClusterBuilder, ClusterEvent, ClusterEventHandler};
//!
//! struct Tell;
//!
//! impl ClusterEventHandler for Tell {
//!     async fn handle(&mut self, event: ClusterEvent) {
//!         println!("{event:?}");
//!     }
//! }
//!
//! // One node, in one folder. Without certificates only because that is said.
//! let cluster =
//!     ClusterBuilder::new("/var/lib/example/store").without_tls().on_cluster(Tell).start().await?;
//! cluster.client()?.put("greeting", "hello").await?;
//! cluster.stop().await;
//! # Ok(()) }
//! ```
//!
//! What an embedder is told, and how:
//!
//! - [`ClusterEventHandler`] is told who leads, who is a member, and which members answer. A handler
//!   that is slow is told the sum of what it missed.
//! - [`KvEventHandler`] is told every change under a prefix, revision by revision, each once and in
//!   order, from a revision on that the embedder names, so that it goes on after a restart where it
//!   was. It reads the store's history at its own pace: nothing waits for it, and nothing is kept
//!   for it but what compaction leaves.
//!
//! Each handler has a task of its own and is called by nobody else. Stopping the cluster waits for
//! the call that is under way.
//!
//! Embedding starts threads and listeners as the `chainfire` program does: a multi-threaded tokio
//! runtime is needed. Logs go to `tracing`, and are the embedder's to show.

mod builder;
mod cluster_events;
mod kv_events;

pub use builder::{Cluster, ClusterBuilder};
pub use cluster_events::{ClusterEvent, ClusterEventHandler};
pub use kv_events::{From, Gap, KvChange, KvEventHandler, KvRevision};
