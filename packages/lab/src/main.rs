//! The `lab` command.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command speaks to people

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use lab::up::{UpArgs, up};

/// Boots blank virtual machines from the network into a formed cluster.
#[derive(Parser)]
#[command(
    name = "lab",
    version,
    after_help = "Examples:\n  lab up\n  lab up --nodes 1 --uefi --keep --dir /tmp/lab\n  lab up --proxy-dhcp --times\n  lab sweep"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot machines, and prove that the cluster has formed.
    Up(UpArgs),
    /// Remove what labs that were killed left behind.
    Sweep,
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(args) => up(&args),
        Command::Sweep => {
            lab::netns::sweep();
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "lab", &mut std::io::stdout());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
