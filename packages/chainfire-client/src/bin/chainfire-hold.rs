//! Holds a lock, and writes as its holder when it is told to:
//! `cargo run -p chainfire-client --bin chainfire-hold -- http://127.0.0.1:2379 jobs 5`
//!
//! Each line on standard input is an order: `put` writes as a careful holder does; `force` sends the
//! guarded write whatever the own clock says, so that the cluster has to refuse it; `end` gives the
//! lock up. Stop the process with SIGSTOP for longer than the lease lives, let another take the
//! lock, and go on: neither writes. The tests do just that.

#![allow(clippy::print_stdout)] // a program speaks to people

use chainfire_client::{Client, Error, Op};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let endpoints = arguments.next().unwrap_or_else(|| "http://127.0.0.1:2379".to_owned());
    let name = arguments.next().unwrap_or_else(|| "jobs".to_owned());
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let client = Client::connect(endpoints.split(','), None)?;
    let lock = client.lock(&name, Duration::from_secs(seconds)).await?;
    println!("held, fencing token {}", lock.token());

    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(order)) = orders.next_line().await {
        let written = match order.as_str() {
            "put" => lock.put("protected", "by hold").await,
            "force" => {
                let forced = client.txn().when(lock.guard()).then(Op::put("protected", "forced"));
                match forced.commit().await {
                    Ok(done) if done.succeeded => Ok(done.revision),
                    Ok(_) => Err(Error::Deposed { election: name.clone() }),
                    Err(error) => Err(error),
                }
            }
            _ => break,
        };
        match written {
            Ok(revision) => println!("{order}: written at {revision}"),
            Err(error) => println!("{order}: {} {error}", error.code()),
        }
    }
    lock.unlock().await
}
