//! A heavy dependency in two versions costs build time and binary size: each needs a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};

use crate::cargo::metadata;

/// Dependencies whose second copy would be felt.
const HEAVY: &[&str] = &[
    "axum",
    "clap",
    "fjall",
    "h2",
    "http",
    "hyper",
    "hyper-util",
    "lsm-tree",
    "openraft",
    "prost",
    "rcgen",
    "regex",
    "ring",
    "aws-lc-rs",
    "rustls",
    "serde",
    "syn",
    "time",
    "tokio",
    "tonic",
    "tower",
    "tracing",
    "x509-parser",
];

/// Heavy ones that are there twice, and why that is borne.
const BORNE: &[(&str, &str)] =
    &[("syn", "derive macros are moving from 2 to 3; it is needed only while building")];

pub(crate) fn verify(root: &Path) -> Result<()> {
    let metadata = metadata(root)?;
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if let (Some(name), Some(version)) = (package["name"].as_str(), package["version"].as_str())
        {
            versions.entry(name).or_default().insert(version);
        }
    }
    let twice: Vec<String> = HEAVY
        .iter()
        .filter(|name| !BORNE.iter().any(|(borne, _)| borne == *name))
        .filter_map(|name| Some((name, versions.get(name).filter(|found| found.len() > 1)?)))
        .map(|(name, found)| format!("{name} is there as {found:?}"))
        .collect();
    if !twice.is_empty() {
        bail!(
            "{}\nmake them one, or give a reason in BORNE in xtask/src/versions.rs",
            twice.join("\n")
        );
    }
    Ok(())
}
