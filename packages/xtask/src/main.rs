//! Checks and repairs of the tree.
//!
//! `verify` never writes, `fix` and `gen` do. This crate depends on none of ours, so that it
//! builds before code is generated.

mod generate;
mod tree;

use clap::{Parser, Subcommand};

/// Checks and repairs of the tree.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Generate packages/api/src/gen from packages/api/proto
    Gen,
    /// Fail if anything that is generated is stale; writes nothing
    Verify,
    /// Repair what verify complains about
    Fix,
}

fn main() -> anyhow::Result<()> {
    let root = tree::root()?;
    match Cli::parse().task {
        Task::Gen => generate::write(&root),
        Task::Verify => generate::verify(&root),
        Task::Fix => generate::write(&root),
    }
}
