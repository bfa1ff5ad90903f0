//! The operator's command line, and a whole cloud on one machine.
//!
//! `plasma <noun> <verb>`: results on stdout, progress on stderr; exit code 0 is success, 1 a
//! failure, 2 a mistake in the command line. `plasma ssh` passes the status of the node's command
//! on, and ends with 255 when there was none.

mod check;
mod child;
mod cloud;
mod codes;
mod command_line;
mod commands;
mod home;
mod lab;
mod node;
mod overview;
mod plan;
mod ports;
mod print;
mod process;
mod programs;
mod remote;
mod screen;
mod serve;
mod source;
mod ssh;
mod token;
mod topology;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use fault::Fault;

use crate::command_line::{Cli, Command, InventoryCommand};
use crate::home::Home;
use crate::node::BootCommand;
use crate::print::Output;
use crate::remote::{Remote, ServerArgs};

/// As other clients of SSH say that the node's command never ended.
const NO_CONNECTION: u8 = 255;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.output == Output::Svg && !matches!(cli.command, Command::Topology { .. }) {
        let message = "only plasma topology draws: use -o table, json or yaml";
        Cli::command().error(ErrorKind::InvalidValue, message).exit();
    }
    let is_ssh = matches!(cli.command, Command::Ssh { .. });
    match enter_lab(&cli).and_then(|()| run(cli)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&error);
            let code = error.downcast_ref::<Fault>().map(|fault| fault.code);
            let usage = code == Some(codes::UNCONFIRMED);
            ExitCode::from(if usage {
                2
            } else if is_ssh {
                NO_CONNECTION
            } else {
                1
            })
        }
    }
}

#[allow(clippy::print_stderr)] // the command's last word
fn complain(error: &anyhow::Error) {
    eprintln!("plasma: {error:#}");
}

/// Before anything else runs: the process is replaced by one in the lab's network.
fn enter_lab(cli: &Cli) -> anyhow::Result<()> {
    if cli.command.speaks_with_machines() {
        lab::enter(&Home::locate(cli.dir.clone())?)?;
    }
    Ok(())
}

/// The exit status; a failure that is not an error has been said already.
#[tokio::main(flavor = "current_thread")]
async fn run(cli: Cli) -> anyhow::Result<u8> {
    let home = Home::locate(cli.dir.clone())?;
    let remote = |server: &ServerArgs| Remote::find(&home, server);
    let good = match cli.command {
        Command::Up(args) => up::up(home, args).await.map(|()| true)?,
        Command::Serve(args) => serve::serve(home, args).await.map(|()| true)?,
        Command::Status { wait, server } => {
            let wait = wait.map(Duration::from_secs);
            commands::status(&home, &remote(&server)?, cli.output, wait).await?
        }
        Command::Down => commands::down(&home).await.map(|()| true)?,
        Command::Logs { name, follow, lines } => {
            commands::logs(&home, name.as_deref(), follow, lines).await.map(|()| true)?
        }
        Command::Destroy { yes } => commands::destroy(&home, yes).map(|()| true)?,
        Command::Check { file } => check::check(&home, file.as_deref(), cli.output)?,
        Command::Inventory { command: InventoryCommand::Check { file } } => {
            check::check(&home, file.as_deref(), cli.output)?
        }
        Command::Plan { file, server } => {
            plan::plan(&home, &remote(&server)?, file.as_deref(), cli.output).await?
        }
        Command::Machines { server } => {
            node::machines(&remote(&server)?, cli.output).await.map(|()| true)?
        }
        Command::Boot { server, command: BootCommand::Explain { node } } => {
            node::explain(&remote(&server)?, &node, cli.output).await.map(|()| true)?
        }
        Command::Node { server, command } => {
            node::node(&remote(&server)?, command, cli.output).await.map(|()| true)?
        }
        Command::Token { server, command } => {
            token::token(&remote(&server)?, command, cli.output).await.map(|()| true)?
        }
        Command::Ssh { server, node, ssh, command } => {
            return Ok(ssh::ssh(&remote(&server)?, &node, &ssh, &command).await?);
        }
        Command::Topology { file } => {
            topology::topology(&home, file.as_deref(), cli.output).map(|()| true)?
        }
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "plasma", &mut std::io::stdout());
            true
        }
        Command::Version => print::result(&format!("plasma {}\n", telemetry::VERSION)),
    };
    Ok(if good { 0 } else { 1 })
}
