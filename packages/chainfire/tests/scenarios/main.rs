//! What went wrong in etcd, each as a scenario by the number of its issue, and each gap of this
//! platform's first attempt by its name. Real processes wherever the bug is about processes.
//!
//! | etcd's issue | what happened there | here |
//! |---|---|---|
//! | 13766 | after a kill under load applied index and data had moved apart | `kills` |
//! | 14370 | one member alone lost an acknowledged write when killed | `kills` |
//! | 14571 | permissions changed under writes, members refused unlike | `tests/auth.rs` |
//! | 14685 | killed in the midst of reclaiming space, data was inconsistent | `kills` |
//! | 17780 | killed in the midst of a compaction, the revision went back | `compaction` |
//! | 18089, 19179 | a deletion at the compacted revision never reached a watch from there | `compaction` |
//! | 18667 | a range at a compacted revision inside a transaction: members differed | `compaction` |
//! | 15220 | progress was told ahead of the events on the same stream | `watches` |
//! | 20221, 15271 | a watch told the past again after partition and snapshot | `lagging` |
//! | 17247 | an event came twice, from cache and from disk | `watches` |
//! | 17529, 16839 | hundreds of watches with prev_kv on a slow stream: lost events, memory | `crowds` |
//! | 15402 | reads on the same connection starved the watches | `crowds` |
//! | 18055 | two snapshots in quick succession ended the member | `lagging` |
//! | 20271 | a damaged page: the member went on | `damage` |
//! | 20418 | a paused leader answered stale reads when it woke | `leaders` |
//! | 12528, 15247 | a leader that was replaced while it slept or its disk stood still revoked leases | `leaders` |
//! | 15993 | a put with a lease cost time linear in the lease's keys | `leases` |

#![expect(clippy::print_stdout, reason = "measured figures are part of a test's result")]

mod compaction;
mod crowds;
mod damage;
mod gaps;
mod kills;
mod lagging;
mod leaders;
mod leases;
mod quotas;
mod stream;
mod watches;

use std::time::Duration;

use anyhow::{Result, ensure};
use chainfire_client::Client;

/// How long anything may take on a machine that is busy with other things.
const LONG: Duration = Duration::from_secs(90);

/// Waits until a member has applied this revision, by its own word.
async fn caught_up(client: &Client, revision: i64) -> Result<()> {
    testkit::eventually("it has caught up", LONG, || async {
        let now = client.status().await.remove(0).1?.revision;
        ensure!(now >= revision, "at {now}, awaited {revision}");
        Ok(())
    })
    .await
}
