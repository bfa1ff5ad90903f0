//! Client of Chainfire, and of anything else that speaks etcd's v3 API.
//!
//! What it promises:
//! - A read is sent to the next endpoint when one fails. A write is sent again only where it
//!   surely did nothing; otherwise the call ends with [`Error::FateUnknown`].
//! - A [`Watcher`] yields every revision of its keys once and in order, over reconnects and
//!   changes of leader; where history is gone it ends with [`Error::Compacted`].
//! - A [`Lease`] kept alive says when it is lost, by the monotonic clock and never later than
//!   the cluster does.
//! - A [`Lock`] and a [`Leadership`] carry a fencing token. Their writes compare it in the same
//!   transaction, and are not even sent once the holder's own clock says that its time is over.
//!
//! ```no_run
//! # async fn example() -> Result<(), chainfire_client::Error> {
//! use chainfire_client::{Client, Expect, Swap};
//! let client = Client::connect(["http://127.0.0.1:2379"], None)?;
//! client.put("greeting", "hello").await?;
//! match client.cas("greeting", Expect::Value("hello".into()), "hi").await? {
//!     Swap::Swapped { revision } => println!("swapped at revision {revision}"),
//!     Swap::Conflict { current } => println!("someone was faster: {current:?}"),
//! }
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod auth;
mod client;
pub mod codes;
mod election;
mod endpoints;
mod error;
mod gossip;
mod kv;
mod lease;
mod lock;
mod members;
mod quota;
mod turn;
mod txn;
mod verdict;
mod watch;

pub use api::mvccpb::KeyValue;
pub use auth::Credentials;
pub use client::{Client, Options};
pub use election::Leadership;
pub use error::Error;
pub use gossip::{About, Node, NodeState, NodesWatcher};
pub use kv::{Consistency, Deleted, Expect, Listing, LocalRange, Swap};
pub use lease::Lease;
pub use lock::Lock;
pub use members::{EndpointStatus, Member};
pub use quota::{Quota, QuotaUsage};
pub use turn::Turn;
pub use txn::{Compare, Done, Op, OpResult, Txn};
pub use watch::{Changes, Event, EventKind, Watch, Watcher};

/// The first key after all keys that start with `prefix`; a single zero byte (etcd's "to the
/// end") where there is none.
pub fn prefix_end(prefix: &[u8]) -> bytes::Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    bytes::Bytes::from_static(&[0])
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn prefix_ends() {
        assert_eq!(&prefix_end(b"a/")[..], b"a0");
        assert_eq!(&prefix_end(b"a\xff")[..], b"b");
        assert_eq!(&prefix_end(b"\xff\xff")[..], b"\0");
        assert_eq!(&prefix_end(b"")[..], b"\0");
    }
}
