//! The `firstboot` command.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};
use firstboot::{Ending, Node, Reporter, Settings};
use tokio_util::sync::CancellationToken;

/// Turns a booted machine into a member of the cluster.
///
/// It runs the steps identify, clock, network, disk, install, identity, enroll, join, services, gates and bless.
/// Each is looked at first and only done when it is not true already, so it may be stopped (or lose
/// power) at any point and started again.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  firstboot --config /etc/plasma/firstboot.toml\n  firstboot --config node02.toml --check-config\n  firstboot ledger --config node02.toml"
)]
struct Cli {
    #[command(flatten)]
    settings: settings::SettingsArgs,
    #[command(subcommand)]
    command: Option<Command>,
    /// Stop when standard input closes: set by a supervisor, so that nothing outlives it
    #[arg(long)]
    lifeline: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Print what was done so far, and how long it took
    Ledger,
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::from(1)
        }
    }
}

#[allow(clippy::print_stderr, reason = "the command's last word, before or after logging")]
fn complain(error: &anyhow::Error) {
    eprintln!("firstboot: {error:#}");
}

#[allow(clippy::print_stdout, reason = "results of a command go to standard output")]
fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(Command::Completions { shell }) = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "firstboot", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let settings: Settings = settings::load("firstboot", &cli.settings)?;
    if cli.settings.check_config {
        println!("ok");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(Command::Ledger) = cli.command {
        print!("{}", firstboot::describe_ledger(&settings)?);
        return Ok(ExitCode::SUCCESS);
    }
    telemetry::init("firstboot", &settings.log)?;
    // one thread: the agent waits more than it works
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings, cli.lifeline))
}

async fn serve(settings: Settings, lifeline: bool) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        telemetry::stop_requested(lifeline).await;
        token.cancel();
    });
    let settings = Arc::new(settings);
    let _lock = firstboot::lock(&settings)?;
    let reporter = Reporter::start(settings.clone(), stop.clone());
    let mut node = Node::new(settings);
    let ending = firstboot::run(&mut node, &reporter, &stop).await.context("the run broke off")?;
    if matches!(ending, Ending::Blessed | Ending::Rescue) {
        node.stay(&stop).await;
    }
    node.stop().await;
    reporter.stop().await;
    Ok(match ending {
        Ending::Blessed | Ending::Rescue | Ending::Stopped => ExitCode::SUCCESS,
        Ending::Failed(_, failure) => ExitCode::from(ended_by(&failure.code)),
    })
}

/// A failure is looked at again when the unit starts the agent again, but for these: looking again
/// would erase again, with the same end. The units have this code in `RestartPreventExitStatus=`.
fn ended_by(code: &str) -> u8 {
    use firstboot::codes::{DISK_GIVEN_UP, DISK_NOT_EMPTY};
    const FOR_A_PERSON: u8 = 3;
    if [DISK_GIVEN_UP, DISK_NOT_EMPTY].iter().any(|last| last.0 == code) { FOR_A_PERSON } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_erase_again_is_left_to_a_person() {
        assert_eq!([ended_by("FB-2008"), ended_by("FB-2013")], [3, 3]);
        // nothing was destroyed: an operator may have mended the cause meanwhile
        assert_eq!([ended_by("FB-2003"), ended_by("FB-1001"), ended_by("FB-2009")], [1, 1, 1]);
    }
}
