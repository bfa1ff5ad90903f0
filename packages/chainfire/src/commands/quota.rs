//! `chainfire quota`: limits on parts of the key space.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use chainfire_client::{Client, Credentials, Error, Options, Quota, QuotaUsage};
use clap::{Args, Subcommand};
use serde::Serialize;
use settings::SettingsArgs;

use super::{Output, Reach, Shown, json, runtime};

const EXAMPLES: &str = "Examples:
  chainfire quota list
      of the cluster that /etc/plasma/chainfire.toml names
  chainfire quota set team/ --keys 1000 --bytes 64MiB
  chainfire quota set team/ --requests-per-second 0
      takes that limit away, and leaves the others as they are
  chainfire quota set '' --bytes 4GiB
      all keys
  chainfire quota remove team/ --endpoint https://node01:2379 --tls ~/.plasma/tls";

#[derive(Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Command {
    /// Show each namespace that has a quota, with what it holds.
    List(List),
    /// Limit what lives under a prefix, and how often it is asked for.
    Set(Set),
    /// Take all limits of exactly this prefix away; no key is touched.
    Remove(Remove),
}

#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Args)]
pub(crate) struct Set {
    /// What the keys begin with, to the letter; '' is every key.
    prefix: OsString,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    shown: Shown,
}

/// What is not named stays as it is; 0 is no limit.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Limits {
    /// Live keys.
    #[arg(long, value_name = "N")]
    keys: Option<u64>,
    /// Bytes of live keys and their values, such as 1048576, 1024KiB or 1MiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes: Option<u64>,
    /// Calls a second that begin in the namespace, on each member.
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u64>,
}

#[derive(Args)]
pub(crate) struct Remove {
    /// Exactly the prefix that was set.
    prefix: OsString,
    #[command(flatten)]
    reach: Reach,
}

/// A namespace as it is printed.
#[derive(Serialize)]
struct Row {
    prefix: String,
    keys: u64,
    keys_limit: u64,
    bytes: u64,
    bytes_limit: u64,
    requests_per_second_limit: u64,
}

impl From<QuotaUsage> for Row {
    fn from(usage: QuotaUsage) -> Row {
        let Quota { prefix, keys, bytes, requests_per_second } = usage.quota;
        Row {
            prefix: prefix.escape_ascii().to_string(),
            keys: usage.keys,
            keys_limit: keys,
            bytes: usage.bytes,
            bytes_limit: bytes,
            requests_per_second_limit: requests_per_second,
        }
    }
}

pub(crate) fn run(command: &Command, args: &SettingsArgs) -> anyhow::Result<()> {
    runtime()?.block_on(answer(command, args))
}

async fn answer(command: &Command, args: &SettingsArgs) -> anyhow::Result<()> {
    match command {
        Command::List(list) => {
            let client = client(&list.reach, args)?;
            let all = client.quotas().await?;
            print(all, list.shown.output)
        }
        Command::Set(set) => {
            let client = client(&set.reach, args)?;
            let usage = change(&client, set).await?;
            print(vec![usage], set.shown.output)
        }
        Command::Remove(remove) => {
            let client = client(&remove.reach, args)?;
            let prefix = remove.prefix.clone().into_vec();
            client.delete_quota(prefix.clone()).await?;
            println!("removed   {:?}", prefix.escape_ascii().to_string());
            Ok(())
        }
    }
}

async fn change(client: &Client, set: &Set) -> Result<QuotaUsage, Error> {
    let prefix = set.prefix.clone().into_vec();
    let before = match client.quota(prefix.clone()).await {
        Ok(usage) => usage.quota,
        Err(Error::Refused { status: tonic::Code::NotFound, .. }) => Quota::default(),
        Err(error) => return Err(error),
    };
    let Limits { keys, bytes, requests_per_second } = set.limits;
    let quota = Quota {
        prefix: prefix.into(),
        keys: keys.unwrap_or(before.keys),
        bytes: bytes.unwrap_or(before.bytes),
        requests_per_second: requests_per_second.unwrap_or(before.requests_per_second),
    };
    client.set_quota(quota).await
}

fn client(reach: &Reach, args: &SettingsArgs) -> anyhow::Result<Client> {
    let found = reach.resolve(args)?;
    let credentials = found.user.map(|(name, password)| Credentials::new(name, password));
    let options = Options { credentials, ..Options::default() };
    Ok(Client::connect_with([found.endpoint], found.tls, options)?)
}

fn print(all: Vec<QuotaUsage>, output: Output) -> anyhow::Result<()> {
    let rows: Vec<Row> = all.into_iter().map(Row::from).collect();
    if output == Output::Json {
        return json(&rows);
    }
    let of = |used: u64, limit: u64| match limit {
        0 => format!("{used} of any"),
        limit => format!("{used} of {limit}"),
    };
    println!("{:<22} {:<26} {:<16} PREFIX", "KEYS", "BYTES", "REQUESTS/S");
    for row in &rows {
        let rate = match row.requests_per_second_limit {
            0 => "any".to_owned(),
            limit => format!("at most {limit}"),
        };
        println!(
            "{:<22} {:<26} {rate:<16} {:?}",
            of(row.keys, row.keys_limit),
            of(row.bytes, row.bytes_limit),
            row.prefix
        );
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("a size is a number of bytes, or one with KiB, MiB or GiB: {0:?}")]
struct NoSize(String);

fn size(text: &str) -> Result<u64, NoSize> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let unit = units.iter().find_map(|(name, bits)| Some((text.strip_suffix(name)?, *bits)));
    let (number, bits) = unit.unwrap_or((text, 0));
    let number = number.trim_end().parse::<u64>().ok();
    number.and_then(|number| number.checked_mul(1 << bits)).ok_or_else(|| NoSize(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let table = [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("64MiB", Some(64 << 20)),
            ("3 KiB", Some(3 << 10)),
            ("2GiB", Some(2 << 30)),
            ("", None),
            ("MiB", None),
            ("1MB", None),
            ("-1", None),
            ("99999999999GiB", None),
        ];
        for (text, expected) in table {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
    }
}
