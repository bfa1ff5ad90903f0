//! Chaos: rounds of seeded faults on a cluster of real processes under load, each judged.
//!
//! In every round clients put, get and swap registers (checked for linearizability), write keys that
//! must stay, hold leases (none may end early, none may leave keys behind) and watch everything (no
//! event lost, doubled or reordered, all members tell the same past). Then one or two faults
//! strike, last a moment, and heal. After each round all members must be ready and the same; none
//! may have ended by itself, unless its disk was full.
//!
//! ```sh
//! cargo nextest run -p chainfire --test chaos                       # 20 rounds
//! cargo test -p chainfire --test chaos -- --ignored --nocapture     # 500
//! PLASMA_CHAOS_SEED=7 PLASMA_CHAOS_ROUNDS=40 …                      # others; and again the same
//! ```

#![expect(clippy::print_stdout, reason = "measured figures are part of a test's result")]

mod faults;
mod field;
mod plan;

use anyhow::{Context, Result};
use field::Field;
use plan::Plan;

fn asked(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("{name}={value}")),
        Err(_) => Ok(default),
    }
}

async fn run(rounds: u64) -> Result<()> {
    let seed = asked("PLASMA_CHAOS_SEED", 1)?;
    let rounds = asked("PLASMA_CHAOS_ROUNDS", rounds)?;
    let begun = std::time::Instant::now();
    let mut field = Field::start(seed).await?;
    for number in 0..rounds {
        let plan = Plan::draw(seed, number, field.means());
        let outcome = field.round(number, &plan).await;
        outcome.with_context(|| {
            format!("round {number} of seed {seed}: {plan:?}; repeat with PLASMA_CHAOS_SEED={seed}")
        })?;
    }
    let sum = field.finish().await.with_context(|| format!("after the rounds of seed {seed}"))?;
    println!("seed {seed}: {rounds} rounds in {} s: {sum}", begun.elapsed().as_secs());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos() -> Result<()> {
    run(20).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: cargo test -p chainfire --test chaos -- --ignored --nocapture"]
async fn chaos_long() -> Result<()> {
    run(500).await
}
