//! `plasma token`: join tokens of the boot server.
#![allow(clippy::print_stderr)] // a command speaks to people

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::print::{Output, columns, render, result};
use crate::remote::Remote;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for a node; it is shown once.
    #[command(
        after_help = "Examples:\n  plasma token new node02\n  plasma token new node02 --ttl 600"
    )]
    New {
        /// Its name in the inventory.
        node: String,
        /// Its lifetime in seconds.
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// List all tokens, without their secrets.
    #[command(after_help = "Examples:\n  plasma token list -o yaml")]
    List,
    /// Take a token back.
    #[command(after_help = "Examples:\n  plasma token revoke 0f3a9c2e")]
    Revoke {
        /// Its id, as `list` shows it.
        id: String,
    },
}

pub(crate) async fn token(
    remote: &Remote,
    command: TokenCommand,
    output: Output,
) -> anyhow::Result<()> {
    let operator = remote.operator()?;
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
