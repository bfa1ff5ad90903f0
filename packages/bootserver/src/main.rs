//! The `bootserver` command.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command speaks to people

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bootserver::client::Operator;
use bootserver::{CertificateSettings, Folder, Init, Settings, operator_files, read_inventory};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use settings::SettingsArgs;
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "Examples:
  bootserver init --dir /var/lib/bootserver --inventory /etc/plasma/cluster.json
  bootserver --config /etc/plasma/bootserver.toml --check-config
  bootserver --config /etc/plasma/bootserver.toml
  bootserver token new node01
  bootserver token new node02 --ttl 3600 -o json

Without a subcommand it serves. Settings: the file, then the environment
(BOOTSERVER_OPS__LISTEN=…), then --set ops.listen=….";

/// Holds the inventory and the cluster CA, and enrols nodes.
#[derive(Parser)]
#[command(name = "bootserver", version, after_help = EXAMPLES)]
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
    /// Make the cluster CA, the cluster's id and the operator's certificate; again is harmless.
    Init {
        /// The state folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The inventory's JSON.
        #[arg(long, value_name = "FILE")]
        inventory: PathBuf,
    },
    /// Join tokens of the running boot server.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Print a settings file with all defaults.
    Example,
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token for a node; it is shown once.
    New {
        /// Its name in the inventory.
        node: String,
        /// Its lifetime in seconds.
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// List all tokens, without their secrets.
    List {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Take a token back.
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
    },
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bootserver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => serve(&cli.settings, cli.lifeline),
        Some(Command::Init { dir, inventory }) => init(&dir, &inventory),
        Some(Command::Token { command }) => token(&load(&cli.settings)?, command),
        Some(Command::Example) => {
            print!("{}", Settings::EXAMPLE);
            Ok(())
        }
        Some(Command::Completions { shell }) => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "bootserver", &mut std::io::stdout());
            Ok(())
        }
        Some(Command::Version) => {
            println!("bootserver {}", telemetry::VERSION);
            Ok(())
        }
    }
}

fn load(args: &SettingsArgs) -> anyhow::Result<Settings> {
    let settings: Settings = settings::load("bootserver", args)?;
    settings.check()?;
    Ok(settings)
}

fn inventory_of(path: &std::path::Path) -> anyhow::Result<inventory::Inventory> {
    match read_inventory(path) {
        Ok(inventory) => {
            for warning in inventory.warnings() {
                eprintln!("warning: {warning}");
            }
            Ok(inventory)
        }
        Err(faults) => {
            let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
            bail!("{}", all.join("\n  "))
        }
    }
}

fn init(dir: &std::path::Path, inventory: &std::path::Path) -> anyhow::Result<()> {
    let inventory = inventory_of(inventory)?;
    let (folder, init) = Folder::init(dir, &inventory, &CertificateSettings::default())?;
    let state = match init {
        Init::Made => "made",
        Init::Already => "there already",
    };
    println!("cluster {} with id {}: {state}", folder.cluster(), folder.cluster_id());
    println!("operator's certificate: {}", folder.operator_files().cert.display());
    Ok(())
}

#[tokio::main]
async fn serve(args: &SettingsArgs, lifeline: bool) -> anyhow::Result<()> {
    let settings = load(args)?;
    let inventory = inventory_of(&settings.inventory)?;
    if let Some(checked) = args.checked("bootserver") {
        println!("{checked}");
        return Ok(());
    }
    telemetry::init("bootserver", &settings.log)?;
    let stop = CancellationToken::new();
    let running = bootserver::start(settings, inventory, stop.clone()).await?;
    let asked = stop.clone();
    tokio::spawn(async move {
        telemetry::stop_requested(lifeline).await;
        asked.cancel();
    });
    Ok(running.wait().await?)
}

#[tokio::main(flavor = "current_thread")]
async fn token(settings: &Settings, command: TokenCommand) -> anyhow::Result<()> {
    let mut address = settings.listen;
    if address.ip().is_unspecified() {
        address.set_ip([127, 0, 0, 1].into());
    }
    let files = operator_files(&settings.state_dir);
    let operator = Operator::new(&format!("https://{address}"), &files)
        .context("the operator's certificate of the state folder")?;
    match command {
        TokenCommand::New { node, ttl, output } => {
            let minted = operator.mint(&node, ttl.map(Duration::from_secs)).await?;
            match output {
                Output::Table => println!("{}", minted.token),
                Output::Json => println!("{}", serde_json::to_string_pretty(&minted)?),
            }
        }
        TokenCommand::List { output: Output::Json } => {
            println!("{}", serde_json::to_string_pretty(&operator.tokens().await?)?);
        }
        TokenCommand::List { output: Output::Table } => {
            println!("{:<18} {:<16} {:<8} EXPIRES (unix)", "ID", "NODE", "STATE");
            for t in operator.tokens().await?.tokens {
                println!("{:<18} {:<16} {:<8} {}", t.id, t.node, t.state, t.expires);
            }
        }
        TokenCommand::Revoke { id } => {
            operator.revoke(&id).await?;
            eprintln!("token {id} is revoked");
        }
    }
    Ok(())
}
