//! The image that the machines boot: made once of the same inputs, shared by all labs.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use testkit::binary;

/// Where the image of these binaries lies; it is made by `netboot/lab/build` when it is not there,
/// while other labs wait.
pub fn image(bins: Option<&Path>) -> Result<PathBuf> {
    let bins = match bins {
        Some(dir) => dir.to_owned(),
        None => binary("firstboot")?.parent().context("a folder of binaries")?.to_owned(),
    };
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("wait for another lab's image")?;
    let out = cache.join("next");
    let script = root().join("netboot/lab/build");
    let made = Command::new(&script)
        .arg("--out")
        .arg(&out)
        .arg("--bin")
        .arg(&bins)
        .output()
        .with_context(|| format!("run {}", script.display()))?;
    if !made.status.success() {
        bail!(
            "{} failed: {}{}",
            script.display(),
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
    }
    settle(&cache, &out)
}

/// Images that are kept beside the newest.
const KEPT: usize = 3;

/// Gives a new image the name of its contents: a lab that serves an older one goes on with it.
fn settle(cache: &Path, new: &Path) -> Result<PathBuf> {
    let manifest = fs::read(new.join("manifest.json")).context("the image has no manifest")?;
    let mut hasher = DefaultHasher::new();
    manifest.hash(&mut hasher);
    let settled = cache.join(format!("image-{:016x}", hasher.finish()));
    if settled.exists() {
        fs::remove_dir_all(new)?;
        File::open(&settled)?.set_modified(SystemTime::now())?;
    } else {
        fs::rename(new, &settled)?;
    }
    let mut images = Vec::new();
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("image-") && entry.path() != settled {
            images.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    images.sort();
    for (_, old) in images.iter().rev().skip(KEPT) {
        fs::remove_dir_all(old)?;
    }
    Ok(settled)
}

/// The project's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("PLASMA_LAB_CACHE") {
        return dir.into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let cache =
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    cache.join("plasmacloud/lab")
}
