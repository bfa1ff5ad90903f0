//! The `chainfire` command.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command speaks to people

mod commands;

use std::process::ExitCode;

use anyhow::Context;
use chainfire::Settings;
use clap::{CommandFactory, Parser, Subcommand};
use commands::Backup;
use settings::SettingsArgs;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVICE: &str = "chainfire";
const EXAMPLES: &str = "Examples:
  chainfire --config /etc/plasma/chainfire.toml
  chainfire --config /etc/plasma/chainfire.toml --check-config
  CHAINFIRE_RAFT__ELECTION_MS=2000 chainfire --set log.level=debug

Without a subcommand it serves. Settings: the file, then the environment
(CHAINFIRE_CLIENT__LISTEN=…), then --set client.listen=….";

/// The cluster's key-value store: etcd's v3 API on Raft.
#[derive(Parser)]
#[command(name = SERVICE, version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Stop when standard input closes: the supervisor holds its other end.
    #[arg(long)]
    lifeline: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Take, check and show backups.
    Backup {
        /// What to do.
        #[command(subcommand)]
        command: Backup,
    },
    /// Make the data folder of a new cluster's first member out of a backup.
    Restore(Box<commands::Restore>),
    /// Limit parts of the key space: keys, bytes, requests a second.
    Quota {
        /// What to do.
        #[command(subcommand)]
        command: Box<commands::quota::Command>,
    },
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    match answer(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{SERVICE}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn answer(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), SERVICE, &mut std::io::stdout());
            Ok(())
        }
        Some(Command::Version) => {
            println!("{SERVICE} {}", telemetry::VERSION);
            Ok(())
        }
        Some(Command::Backup { command }) => commands::backup(&command, &cli.settings),
        Some(Command::Restore(command)) => commands::restore(&command, &cli.settings),
        Some(Command::Quota { command }) => commands::quota::run(&command, &cli.settings),
        None => serve(&cli),
    }
}

fn serve(cli: &Cli) -> anyhow::Result<()> {
    let settings: Settings = settings::load(SERVICE, &cli.settings)?;
    settings.check()?;
    if let Some(sentence) = cli.settings.checked(SERVICE) {
        println!("{sentence}");
        return Ok(());
    }
    telemetry::init(SERVICE, &settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
        .context("threads cannot be started")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let (asked, with_lifeline) = (stop.clone(), cli.lifeline);
        tokio::spawn(async move {
            telemetry::stop_requested(with_lifeline).await;
            asked.cancel();
        });
        chainfire::run(settings, stop).await
    })?;
    Ok(())
}

/// Half of the cores: a lone request hops less between threads, and the journal's and the store's
/// own threads do a good part of the work.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1)
}
