//! The operator's command line, and a whole cloud on one machine.
//!
//! `plasma <noun> <verb>`: results on stdout, progress on stderr; exit code 0 is success, 1 a
//! failure, 2 a mistake in the command line.

mod child;
mod cloud;
mod codes;
mod commands;
mod home;
mod overview;
mod ports;
mod print;
mod process;
mod programs;
mod screen;
mod token;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use fault::Fault;

use crate::home::Home;
use crate::print::Output;
use crate::token::{ServerArgs, TokenCommand};
use crate::up::UpArgs;

const EXAMPLES: &str = "Examples:
  plasma up                        three nodes on this machine, until Ctrl-C
  plasma up --nodes 1 --detach     the small embedded one, in the background
  plasma status -o json
  plasma logs -f node01
  plasma down
  plasma destroy --yes
  plasma token new node02 --ttl 600
  plasma inventory check nodes/cluster.json
  plasma completions bash > /etc/bash_completion.d/plasma";

/// Runs and operates a PlasmaCloud.
#[derive(Parser)]
#[command(name = "plasma", version, after_help = EXAMPLES)]
struct Cli {
    /// The folder of the cloud on this machine [default: $PLASMA_HOME or ~/.local/share/plasma]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// How to print results.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a cloud on this machine; again goes on with the same data.
    #[command(
        after_help = "Examples:\n  plasma up --nodes 3\n  plasma up --detach --dir /tmp/cloud"
    )]
    Up(UpArgs),
    /// How the cloud is; fails when it is not ready.
    #[command(after_help = "Examples:\n  plasma status\n  plasma status --wait 60 -o json")]
    Status {
        /// Wait so many seconds until it is ready.
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
    },
    /// Stop the cloud, and wait until it is gone; its data stays.
    Down,
    /// Show logs.
    #[command(
        after_help = "Examples:\n  plasma logs\n  plasma logs -f node01\n  plasma logs -n 500 bootserver"
    )]
    Logs {
        /// A node, `bootserver` or `supervisor`; without it all.
        name: Option<String>,
        /// Go on as they grow.
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
    },
    /// Remove the cloud with all its data.
    Destroy {
        /// It is meant.
        #[arg(long)]
        yes: bool,
    },
    /// Join tokens.
    #[command(after_help = "Examples:\n  plasma token new node02\n  plasma token list -o yaml")]
    Token {
        #[command(flatten)]
        server: ServerArgs,
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// The description of a cluster.
    Inventory {
        #[command(subcommand)]
        command: InventoryCommand,
    },
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

#[derive(Subcommand)]
enum InventoryCommand {
    /// Check an inventory's JSON, and say all that is wrong with it.
    Check {
        /// Without it the built-in inventory.
        file: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            let unconfirmed = error.downcast_ref::<Fault>().map(|fault| fault.code);
            let usage = unconfirmed == Some(codes::UNCONFIRMED);
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

#[allow(clippy::print_stderr)] // the command's last word
fn complain(error: &anyhow::Error) {
    eprintln!("plasma: {error:#}");
}

/// False for a failure that has been said already.
#[tokio::main(flavor = "current_thread")]
async fn run(cli: Cli) -> anyhow::Result<bool> {
    let home = || Home::locate(cli.dir.clone());
    match cli.command {
        Command::Up(args) => up::up(home()?, args).await?,
        Command::Status { wait } => {
            return commands::status(&home()?, cli.output, wait.map(Duration::from_secs)).await;
        }
        Command::Down => commands::down(&home()?).await?,
        Command::Logs { name, follow, lines } => {
            commands::logs(&home()?, name.as_deref(), follow, lines).await?;
        }
        Command::Destroy { yes } => commands::destroy(&home()?, yes)?,
        Command::Token { server, command } => {
            token::token(&home()?, server, command, cli.output).await?;
        }
        Command::Inventory { command: InventoryCommand::Check { file } } => {
            commands::check_inventory(file.as_deref())?;
        }
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "plasma", &mut std::io::stdout());
        }
        Command::Version => {
            print::result(&format!("plasma {}\n", telemetry::VERSION));
        }
    }
    Ok(true)
}
