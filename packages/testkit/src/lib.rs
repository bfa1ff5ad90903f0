//! What tests of real processes need: free addresses, processes that end with the test, whole
//! clusters, faults between their members, recorded histories, and checkers that judge them.
//!
//! A test owns its world: addresses of its own in 127.64.0.0/10, a folder of its own, processes
//! of its own, ended by their id. Nothing here sleeps for time: waiting has a condition and a
//! deadline ([`eventually`]).

#![forbid(unsafe_code)]

pub mod certificates;
pub mod clients;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod etcd;
pub mod history;
pub mod leases;
pub mod linearizable;
pub mod links;
pub mod logs;
pub mod net;
pub mod process;
pub mod tail;
pub mod watched;
pub mod workload;

pub use cluster::{Cluster, Options};
pub use process::{Process, binary};

use std::future::Future;
use std::time::{Duration, Instant};

/// Waits until `probe` yields something, asking again every few milliseconds; tells the last
/// reason when the deadline passes.
pub async fn eventually<T, F, Fut>(
    what: &str,
    deadline: Duration,
    mut probe: F,
) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let begun = Instant::now();
    loop {
        let error = match probe().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if begun.elapsed() > deadline {
            return Err(error.context(format!("waited {:?} for: {what}", begun.elapsed())));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// True in a soak run (`PLASMA_SOAK=1`), where tests go many more rounds.
pub fn soak() -> bool {
    std::env::var_os("PLASMA_SOAK").is_some_and(|value| value != "0")
}
