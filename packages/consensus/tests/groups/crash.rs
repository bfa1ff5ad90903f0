//! Power lost at seeded points: what was acknowledged survives, and the group always opens.

use std::time::Duration;

use consensus::GroupOptions;

use crate::common::{self, Net, Node, kv, put, until};

/// How many seeds. `CONSENSUS_CRASHES` asks for more.
fn seeds() -> u64 {
    std::env::var("CONSENSUS_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

#[tokio::test(flavor = "multi_thread")]
async fn power_lost_at_any_call_to_the_disk_loses_nothing_acknowledged() {
    let options = GroupOptions {
        keep_entries: 3,
        persist_interval: Duration::from_millis(10),
        request_timeout: Duration::from_secs(10),
        ..common::options()
    };
    let net = Net::default();
    for seed in 0..seeds() {
        let mut node = Node::new(1, &net, seed).await;
        node.options = options.clone();
        node.start().await;
        node.group().form(node.info()).await.unwrap();
        let mut acknowledged: Vec<String> = Vec::new();
        // Two lives a seed: the second begins on what the first has left.
        for life in 0..2 {
            node.disk.lose_power_after(1 + (seed * 13 + life * 7) % 60);
            let writers: Vec<_> = (0..4)
                .map(|w| {
                    let group = node.group();
                    tokio::spawn(async move {
                        let mut done = Vec::new();
                        for n in 0..200 {
                            let key = format!("{life}-{w}-{n}");
                            match group.propose(put(&key)).await {
                                Ok((1, _)) => done.push(key),
                                Ok((count, _)) => panic!("{key} was put {count} times"),
                                Err(_) => break,
                            }
                        }
                        done
                    })
                })
                .collect();
            for writer in writers {
                acknowledged.extend(writer.await.unwrap());
            }
            node.lose_power().await;
            node.start().await;
            let group = node.group();
            until("reads again", || async { group.read_index().await.is_ok() }).await;
            for key in &acknowledged {
                let count = kv::count(&*node.engine(), key.as_bytes());
                assert_eq!(count, 1, "seed {seed}: {key} was acknowledged");
            }
        }
        node.stop().await;
    }
}
