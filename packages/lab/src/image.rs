//! The image that the machines boot: made once of the same inputs, shared by all labs.

use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use fault::{Fault, Kind};
use serde_json::Value;
use testkit::binary;

use crate::codes;

/// An image, which no other lab removes while this lives.
#[derive(Debug)]
pub struct Image {
    /// Its folder.
    pub dir: PathBuf,
    // a shared lock on the folder; whoever removes images must have it alone
    _served: File,
}

impl Image {
    /// Its files and their sizes in bytes, by its manifest.
    pub fn files(&self) -> Result<Vec<(String, u64)>> {
        let text = fs::read(self.dir.join("manifest.json")).context("the image has no manifest")?;
        let manifest: Value = serde_json::from_slice(&text)?;
        let files = manifest["files"].as_object().context("the manifest lists no files")?;
        let bytes = |file: &Value| file["bytes"].as_u64().context("a file has no size");
        files.iter().map(|(name, file)| Ok((name.clone(), bytes(file)?))).collect()
    }
}

/// What makes an image, from the project's folder.
const BUILD: &str = "netboot/lab/build";

/// The image of these binaries; it is made by `netboot/lab/build` when it is not there, while other
/// labs wait.
pub fn image(bins: Option<&Path>) -> Result<Image> {
    make(bins).map_err(|error| {
        let hint = "it needs root, Debian's package sources and netboot/lab beside it";
        Fault::new(codes::IMAGE, Kind::Unavailable, format!("{error:#}"), hint).into()
    })
}

fn make(bins: Option<&Path>) -> Result<Image> {
    let bins = match bins {
        Some(dir) => dir.to_owned(),
        None => binary("firstboot")?.parent().context("a folder of binaries")?.to_owned(),
    };
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("wait for another lab's image")?;
    let out = cache.join("next");
    let script = root()?.join(BUILD);
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

/// Gives a new image the name of its contents: a lab that serves an older one goes on with it. The
/// caller has the cache's lock.
fn settle(cache: &Path, new: &Path) -> Result<Image> {
    let manifest = fs::read(new.join("manifest.json")).context("the image has no manifest")?;
    let mut hasher = DefaultHasher::new();
    manifest.hash(&mut hasher);
    let settled = cache.join(format!("image-{:016x}", hasher.finish()));
    if settled.exists() {
        fs::remove_dir_all(new)?;
    } else {
        fs::rename(new, &settled)?;
    }
    let served = File::open(&settled)?;
    served.set_modified(SystemTime::now())?;
    served.lock_shared()?;
    let mut images = Vec::new();
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("image-") && entry.path() != settled {
            images.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    images.sort();
    for (_, old) in images.iter().rev().skip(KEPT) {
        match File::open(old)?.try_lock() {
            Ok(()) => fs::remove_dir_all(old)?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Ok(Image { dir: settled, _served: served })
}

/// The project's folder: around the package that cargo tests, or the folder that this runs in.
fn root() -> Result<PathBuf> {
    let here = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => package.into(),
        None => std::env::current_dir()?,
    };
    let found = here.ancestors().find(|dir| dir.join(BUILD).is_file());
    found.map(Path::to_path_buf).with_context(|| {
        format!("{} is not in PlasmaCloud's sources: there is no {BUILD}", here.display())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_a_lab_serves_is_kept() {
        let cache = tempfile::tempdir().unwrap();
        let make = |number: usize| {
            let new = cache.path().join("next");
            fs::create_dir(&new).unwrap();
            fs::write(new.join("manifest.json"), number.to_string()).unwrap();
            settle(cache.path(), &new).unwrap()
        };
        let served = make(0);
        let gone = make(1).dir;
        let last: Vec<PathBuf> = (2..7).map(|number| make(number).dir).collect();
        assert!(served.dir.is_dir());
        assert!(!gone.exists());
        assert!(last.iter().skip(1).all(|dir| dir.is_dir()), "{last:?}");
        let dir = served.dir.clone();
        drop(served);
        make(7);
        assert!(!dir.exists());
    }
}
