//! packages/api/proto → packages/api/src/gen, in pure Rust and the same on every machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// File name → content of everything that is generated.
type Files = BTreeMap<String, Vec<u8>>;

const PROTO: &str = "packages/api/proto";
const OUTPUT: &str = "packages/api/src/gen";

/// Makes the tree right. Touches only files whose content changes, so that nothing is rebuilt
/// for nothing, and others may read meanwhile.
pub(crate) fn write(root: &Path) -> Result<()> {
    let wanted = generate(&root.join(PROTO))?;
    let output = root.join(OUTPUT);
    fs::create_dir_all(&output)?;
    let found = read(&output)?;
    for (name, content) in &wanted {
        if found.get(name) != Some(content) {
            let scratch = output.join(format!(".{name}.{}", std::process::id()));
            fs::write(&scratch, content)?;
            fs::rename(&scratch, output.join(name))?;
        }
    }
    for name in found.keys().filter(|name| !wanted.contains_key(*name)) {
        fs::remove_file(output.join(name))?;
    }
    Ok(())
}

/// Fails if `write` would change anything.
pub(crate) fn verify(root: &Path) -> Result<()> {
    let wanted = generate(&root.join(PROTO))?;
    let found = read(&root.join(OUTPUT))?;
    let stale: Vec<&str> = wanted
        .iter()
        .filter(|(name, content)| found.get(*name) != Some(content))
        .map(|(name, _)| name.as_str())
        .chain(found.keys().filter(|name| !wanted.contains_key(*name)).map(String::as_str))
        .collect();
    if !stale.is_empty() {
        bail!("{OUTPUT} is stale ({}): run `cargo xtask gen`", stale.join(", "));
    }
    Ok(())
}

fn generate(proto: &Path) -> Result<Files> {
    let mut sources = Vec::new();
    find(proto, &mut sources)?;
    sources.sort();

    let mut compiler = protox::Compiler::new([proto])?;
    compiler.include_imports(true).include_source_info(true);
    for source in &sources {
        let name = source.strip_prefix(proto)?;
        compiler.open_file(name).with_context(|| format!("{}", source.display()))?;
    }
    let described = compiler.file_descriptor_set();

    // Comments are for the generated docs; reflection does without.
    compiler.include_source_info(false);
    let descriptors = compiler.encode_file_descriptor_set();

    let scratch = Scratch::new()?;
    tonic_prost_build::configure()
        .bytes(".")
        .emit_rerun_if_changed(false)
        .out_dir(&scratch.0)
        .compile_fds(described)
        .context("generating")?;
    let mut files = read(&scratch.0)?;
    files.insert("descriptors.bin".into(), descriptors);
    Ok(files)
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// Files of one folder by name; hidden ones are somebody's half-written work.
fn read(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("file name is not UTF-8")?;
        if !name.starts_with('.') {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(files)
}

/// A folder of this process, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("xtask-gen-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
