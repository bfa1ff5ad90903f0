//! Checks that cargo itself makes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

pub(crate) fn format(root: &Path) -> Result<()> {
    run(root, &["fmt", "--all", "--check"], &[])
}

pub(crate) fn clippy(root: &Path) -> Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "-q", "--", "-D", "warnings"];
    run(root, &args, &[])
}

pub(crate) fn doc(root: &Path) -> Result<()> {
    let args = ["doc", "--workspace", "--no-deps", "--locked", "-q"];
    run(root, &args, &[("RUSTDOCFLAGS", "-D warnings")])
}

/// Writes: formats, and applies what clippy is sure of.
pub(crate) fn fix(root: &Path) -> Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "-q"];
    run(root, &args, &[])?;
    run(root, &["fmt", "--all"], &[])
}

/// What `cargo metadata` says of the workspace and its dependencies.
pub(crate) fn metadata(root: &Path) -> Result<serde_json::Value> {
    let output = Command::new(cargo())
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn run(root: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let status = Command::new(cargo())
        .args(args)
        .envs(env.iter().copied())
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    Ok(())
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}
