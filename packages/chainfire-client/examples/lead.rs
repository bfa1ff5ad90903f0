//! Waits to lead, works while it leads, and stops the moment it no longer does:
//! `cargo run -p chainfire-client --example lead -- http://127.0.0.1:2379 alice`
//!
//! Run it twice and stop one.

#![expect(clippy::print_stdout, reason = "a program's result")]

use chainfire_client::{Client, Error};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let endpoints = arguments.next().unwrap_or_else(|| "http://127.0.0.1:2379".to_owned());
    let name = arguments.next().unwrap_or_else(|| "someone".to_owned());
    let client = Client::connect(endpoints.split(','), None)?;
    loop {
        println!("{name} stands for election");
        let leadership = client.campaign("example", name.clone(), Duration::from_secs(5)).await?;
        println!("{name} leads, fencing token {}", leadership.token());
        let work = async {
            loop {
                // Compares the token in the same transaction: a deposed leader writes nothing.
                leadership.put("example-owner", name.clone()).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let ended: Result<(), Error> = tokio::select! {
            () = leadership.lost() => Err(Error::LeaseLost { id: leadership.lease().id() }),
            ended = work => ended,
        };
        println!("{name} leads no more: {ended:?}");
    }
}
