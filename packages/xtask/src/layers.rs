//! A crate uses only crates above it, and certain libraries have one home each.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::cargo::metadata;

/// The crates in layers, from the lowest; a crate may use those of earlier lines.
const LAYERS: &[&[&str]] = &[
    &["fault", "xtask"],
    &["settings"],
    &["telemetry", "inventory", "identity", "api"],
    &["rpc"],
    &["journal", "engine"],
    &["consensus"],
    &["chainfire-client"],
    &["chainfire", "steps"],
    &["bootserver"],
    &["firstboot"],
    &["plasma"],
    &["testkit"],
    &["bench", "lab"],
];

/// Libraries that only these crates may name.
const HOMES: &[(&str, &[&str])] = &[
    ("openraft", &["consensus"]),
    ("fjall", &["engine"]),
    ("rustls", &["rpc"]),
    ("tokio-rustls", &["rpc"]),
    ("rcgen", &["identity"]),
];

pub(crate) fn verify(root: &Path) -> Result<()> {
    let metadata = metadata(root)?;
    let mut faults = Vec::new();
    for package in array(&metadata["packages"]) {
        if !package["source"].is_null() {
            continue;
        }
        let name = text(&package["name"]);
        let Some(layer) = layer(name) else {
            faults.push(format!("{name} has no layer: add it to LAYERS in xtask/src/layers.rs"));
            continue;
        };
        for dependency in array(&package["dependencies"]) {
            let (used, kind) = (text(&dependency["name"]), dependency["kind"].as_str());
            // tests may reach up: a service's tests use testkit
            if kind == Some("dev") {
                continue;
            }
            if self::layer(used).is_some_and(|above| above >= layer) {
                faults.push(format!("{name} uses {used}, which is not above it"));
            }
            for (library, homes) in HOMES {
                if used == *library && !homes.contains(&name) {
                    faults.push(format!("{name} names {library}, whose home is {homes:?}"));
                }
            }
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&name))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
