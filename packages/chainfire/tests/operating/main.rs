//! What an operator does: backups by the command that is typed, from real members and from real
//! etcd, restores into clusters of one and of three, quotas, and monitoring.

#![expect(clippy::print_stdout, reason = "measured figures are part of a test's result")]

mod clusters;
mod etcd;
mod files;
mod large;
mod monitoring;
mod quotas;
mod stalls;

use anyhow::{Result, ensure};
use chainfire_client::{Client, KeyValue};
use std::path::Path;
use std::process::{Command, Output};

/// Runs `chainfire` with these words; both streams.
pub async fn run(words: &[&str]) -> Result<Output> {
    let mut command = Command::new(testkit::binary("chainfire")?);
    command.args(words);
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// What it printed; it must succeed.
pub async fn done(words: &[&str]) -> Result<String> {
    let output = run(words).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{words:?}: {}\n{said}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// What it complained of; it must fail.
pub async fn refused(words: &[&str]) -> Result<String> {
    let output = run(words).await?;
    ensure!(!output.status.success(), "{words:?} succeeded");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// All keys at a revision (0: now), with everything that is known of them.
pub async fn keys_at(client: &Client, revision: i64) -> Result<Vec<KeyValue>> {
    let request = api::etcdserverpb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        ..Default::default()
    };
    Ok(client.range(request).await?.kvs)
}

/// The checksum of keys and history at a revision, as the only or first member has it.
pub async fn hash_at(client: &Client, revision: i64) -> Result<u32> {
    let mut hashes = client.hashes(revision).await;
    ensure!(!hashes.is_empty(), "nobody was asked");
    Ok(hashes.swap_remove(0).1?)
}
