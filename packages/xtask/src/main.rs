//! Checks and repairs of the tree.
//!
//! `verify` never writes, `fix` and `gen` do. This crate depends on none of ours, so that it
//! builds before code is generated.

mod cargo;
mod generate;
mod layers;
mod tidy;
mod tree;
mod versions;

use anyhow::{Result, bail};
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
    /// Check everything; writes nothing
    Verify {
        /// Leave out what compiles (clippy, doc)
        #[arg(long)]
        quick: bool,
    },
    /// Repair what can be repaired: generated code, format, what clippy can mend
    Fix,
}

type Check = (&'static str, Box<dyn Fn() -> Result<()>>);

#[allow(clippy::print_stderr, reason = "a tool for people")]
fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "a tool for people")]
fn run() -> Result<()> {
    let root = tree::root()?;
    match Cli::parse().task {
        Task::Gen => generate::write(&root),
        Task::Fix => {
            generate::write(&root)?;
            cargo::fix(&root)
        }
        Task::Verify { quick } => {
            let at = |check: fn(&std::path::Path) -> Result<()>| {
                let root = root.clone();
                Box::new(move || check(&root)) as Box<dyn Fn() -> Result<()>>
            };
            let mut checks: Vec<Check> = vec![
                ("generated code is current", at(generate::verify)),
                ("the tree is tidy", at(tidy::verify)),
                ("crates use only those above them", at(layers::verify)),
                ("no heavy dependency twice without a reason", at(versions::verify)),
                ("format", at(cargo::format)),
            ];
            if !quick {
                checks.push(("clippy", at(cargo::clippy)));
                checks.push(("documentation", at(cargo::doc)));
            }
            let mut failed = 0;
            for (name, check) in checks {
                match check() {
                    Ok(()) => eprintln!("ok      {name}"),
                    Err(error) => {
                        failed += 1;
                        eprintln!("FAILED  {name}\n{error:#}\n");
                    }
                }
            }
            if failed > 0 {
                bail!("{failed} checks failed; cargo xtask fix may help");
            }
            Ok(())
        }
    }
}
