//! `plasma token`: join tokens of the boot server.
#![allow(clippy::print_stderr)] // a command speaks to people

use std::path::PathBuf;
use std::time::Duration;

use bootserver::client::Operator;
use identity::TlsFiles;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cloud::base;
use crate::home::Home;
use crate::print::{Output, columns, render, result};

/// Which boot server.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// The boot server; without it the one on this machine.
    #[arg(long, value_name = "URL", env = "PLASMA_BOOTSERVER", global = true)]
    bootserver: Option<String>,
    /// The folder with the operator's cert.pem, key.pem and ca.pem.
    #[arg(long, value_name = "DIR", env = "PLASMA_OPERATOR", global = true)]
    operator: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for a node; it is shown once.
    New {
        /// Its name in the inventory.
        node: String,
        /// Its lifetime in seconds.
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// List all tokens, without their secrets.
    List,
    /// Take a token back.
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
    },
}

pub(crate) async fn token(
    home: &Home,
    server: ServerArgs,
    command: TokenCommand,
    output: Output,
) -> anyhow::Result<()> {
    let files = match server.operator {
        Some(dir) => TlsFiles::in_dir(dir),
        None => {
            home.must_exist()?;
            home.operator()
        }
    };
    let operator = Operator::new(&server.bootserver.unwrap_or_else(base), &files)?;
    match command {
        TokenCommand::New { node, ttl } => {
            let minted = operator.mint(&node, ttl.map(Duration::from_secs)).await?;
            result(&render(output, &minted, || format!("{}\n", minted.token))?);
        }
        TokenCommand::List => {
            let tokens = operator.tokens().await?;
            let table = || {
                let mut rows = vec![["ID", "NODE", "STATE", "EXPIRES"].map(str::to_owned).to_vec()];
                rows.extend(tokens.tokens.iter().map(|token| {
                    let token = token.clone();
                    vec![token.id, token.node, token.state, date(token.expires)]
                }));
                columns(&rows)
            };
            result(&render(output, &tokens.tokens, table)?);
        }
        TokenCommand::Revoke { id } => {
            operator.revoke(&id).await?;
            eprintln!("token {id} is revoked");
        }
    }
    Ok(())
}

fn date(unix: u64) -> String {
    let time = i64::try_from(unix).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| unix.to_string())
}
