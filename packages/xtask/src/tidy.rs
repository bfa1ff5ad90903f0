//! Rules that hold for the files of the tree.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Past this a file is two rooms.
const LINES_MAX: usize = 650;

/// Names that say nothing about what is inside.
const DRAWERS: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// What no source line may hold, and why. Written in halves, so that this file passes itself.
const BANNED: &[(&str, &str, &str)] = &[
    ("todo", "!(", "what is not done is not merged"),
    ("unimplemented", "!(", "what is not done is not merged"),
    (", String", "> {", "an error is a type: make an enum or a Fault"),
];

pub(crate) fn verify(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    for path in files(root)? {
        let shown = path.display().to_string();
        if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
            && DRAWERS.contains(&stem)
        {
            faults.push(format!("{shown}: the name says nothing about what is inside"));
        }
        if shown.starts_with("packages/api/src/gen/") || !shown.ends_with(".rs") {
            continue;
        }
        let full = root.join(&path);
        let text = std::fs::read_to_string(&full).with_context(|| shown.clone())?;
        check(&shown, &text, &mut faults);
    }
    faults.extend(folders(root)?);
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

fn check(shown: &str, text: &str, faults: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!("{shown}: {lines} lines; is it one room, or several?"));
    }
    let is_root = ["src/lib.rs", "src/main.rs"].iter().any(|end| shown.ends_with(end));
    if is_root && !text.starts_with("//!") {
        faults.push(format!("{shown}: begins without saying what the crate is"));
    }
    for (number, line) in text.lines().enumerate() {
        for (head, tail, why) in BANNED {
            let result = *head != ", String" || line.contains("Result<");
            if result && line.contains(&format!("{head}{tail}")) {
                faults.push(format!("{shown}:{}: {head}{tail} {why}", number + 1));
            }
        }
    }
}

/// A package's folder has the package's name.
fn folders(root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for entry in std::fs::read_dir(root.join("packages"))? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml"))
            .with_context(|| format!("packages/{name} has no Cargo.toml"))?;
        if !manifest.contains(&format!("name = \"{name}\"")) {
            faults.push(format!("packages/{name}: the package has another name than its folder"));
        }
        if !manifest.contains("[lints]\nworkspace = true") {
            faults.push(format!("packages/{name}: takes no part in the workspace's lints"));
        }
    }
    Ok(faults)
}

/// The files that git tracks or would add.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(PathBuf::from).filter(|path| root.join(path).is_file()).collect())
}
