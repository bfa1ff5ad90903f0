//! Follows all keys under a prefix, over restarts and changes of leader:
//! `cargo run -p chainfire-client --example follow -- http://127.0.0.1:2379 services/`

#![expect(clippy::print_stdout, reason = "a program's result")]

use chainfire_client::{Client, Error, EventKind, Watch};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let endpoints = arguments.next().unwrap_or_else(|| "http://127.0.0.1:2379".to_owned());
    let prefix = arguments.next().unwrap_or_default();
    let client = Client::connect(endpoints.split(','), None)?;
    loop {
        // A listing and a watch from the next revision: together they miss nothing.
        let listing = client.prefix(prefix.clone()).await?;
        println!("{} keys at revision {}", listing.kvs.len(), listing.revision);
        let from = listing.revision + 1;
        let mut watcher = client.watch(Watch::prefix(prefix.clone()).from(from)).await?;
        let ended = loop {
            let changes = match watcher.next().await {
                Ok(changes) => changes,
                Err(error) => break error,
            };
            for event in changes.events {
                let key = String::from_utf8_lossy(&event.kv.key);
                match event.kind {
                    EventKind::Put => println!("{} put {key}", changes.revision),
                    EventKind::Delete => println!("{} delete {key}", changes.revision),
                }
            }
        };
        // Away for so long that history is gone: begin again with a listing.
        if !matches!(ended, Error::Compacted { .. }) {
            return Err(ended);
        }
    }
}
