//! The folder of images: its manifest, and files whose bytes are the manifest's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fault::{Fault, Kind};
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use serde::Deserialize;

use crate::codes;

const MANIFEST: &str = "manifest.json";
const MAX_MANIFEST: u64 = 1 << 20;
const MAX_FILES: usize = 64;
const VERSION: u32 = 1;

/// What can be booted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    /// `lab` or `nixos`.
    pub(crate) target: String,
    /// More kernel arguments, that belong to these images.
    #[serde(default)]
    pub(crate) cmdline: Option<String>,
    /// The files, by name.
    pub(crate) files: BTreeMap<String, Listed>,
}

/// A file in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Listed {
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

impl Manifest {
    /// Reads a manifest, and refuses what could not be put into a script or a path.
    pub(crate) fn parse(text: &[u8]) -> Result<Manifest, BadManifest> {
        let manifest: Manifest = serde_json::from_slice(text)?;
        if manifest.version != VERSION {
            return Err(BadManifest::Version(manifest.version));
        }
        if !is_plain(&manifest.target) {
            return Err(BadManifest::Target);
        }
        if manifest.files.len() > MAX_FILES {
            return Err(BadManifest::TooMany);
        }
        let printable = |text: &str| text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if manifest.cmdline.as_deref().is_some_and(|line| !printable(line) || line.len() > 2048) {
            return Err(BadManifest::Cmdline);
        }
        for (name, listed) in &manifest.files {
            let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if !is_plain(name) || name == MANIFEST {
                return Err(BadManifest::Name(name.clone()));
            }
            if listed.sha256.len() != 64 || !listed.sha256.bytes().all(hex) {
                return Err(BadManifest::Sum(name.clone()));
            }
        }
        match ["vmlinuz", "initrd"].into_iter().find(|name| !manifest.files.contains_key(*name)) {
            Some(name) => Err(BadManifest::Lacks(name)),
            None => Ok(manifest),
        }
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadManifest {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}, not {VERSION}")]
    Version(u32),
    #[error("its target is no name")]
    Target,
    #[error("it lists more than {MAX_FILES} files")]
    TooMany,
    #[error("its cmdline is no line of kernel arguments")]
    Cmdline,
    #[error("{0:?} is no name of an image")]
    Name(String),
    #[error("the sha256 of {0} is no sum")]
    Sum(String),
    #[error("it lists no {0}")]
    Lacks(&'static str),
}

/// A file's name and nothing that leads elsewhere.
fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    matches!(name.len(), 1..=64) && name.bytes().all(plain) && !name.starts_with('.')
}

/// An open file whose bytes were found to be the manifest's.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) file: File,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// The folder of images. It may be replaced while the boot server runs.
#[derive(Debug)]
pub(crate) struct Images {
    dir: PathBuf,
    /// Whose bytes were compared, by name; held while one is, so that nobody reads twice.
    compared: Mutex<BTreeMap<String, Stamp>>,
}

/// A file that has not changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    sha256: String,
}

impl Images {
    pub(crate) fn new(dir: &Path) -> Images {
        Images { dir: dir.to_owned(), compared: Mutex::default() }
    }

    /// What can be booted. Reads the disk.
    pub(crate) fn manifest(&self) -> Result<Manifest, Fault> {
        let text = self.manifest_text()?;
        Manifest::parse(&text).map_err(|why| {
            self.unusable(format!("{} is not usable: {why}", self.dir.join(MANIFEST).display()))
        })
    }

    /// The manifest as it is on disk.
    pub(crate) fn manifest_text(&self) -> Result<Vec<u8>, Fault> {
        let path = self.dir.join(MANIFEST);
        let read = || -> std::io::Result<Vec<u8>> {
            let mut text = Vec::new();
            File::open(&path)?.take(MAX_MANIFEST + 1).read_to_end(&mut text)?;
            Ok(text)
        };
        let text =
            read().map_err(|e| self.unusable(format!("{} cannot be read: {e}", path.display())))?;
        if text.len() as u64 > MAX_MANIFEST {
            return Err(self.unusable(format!("{} is too long", path.display())));
        }
        Ok(text)
    }

    /// Opens a file of the manifest, after its bytes were compared once. Reads the disk.
    pub(crate) fn open(&self, name: &str) -> Result<Image, Fault> {
        let manifest = self.manifest()?;
        let Some(listed) = manifest.files.get(name) else {
            let name: String = name.chars().take(64).collect();
            return Err(Fault::new(
                codes::NO_SUCH_PATH,
                Kind::NotFound,
                format!("the manifest lists no image {name:?}"),
                "",
            ));
        };
        let path = self.dir.join(name);
        let unreadable =
            |e: std::io::Error| self.unusable(format!("{} cannot be read: {e}", path.display()));
        let file = File::open(&path).map_err(unreadable)?;
        let data = file.metadata().map_err(unreadable)?;
        let stamp = Stamp {
            inode: (data.dev(), data.ino()),
            bytes: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            sha256: listed.sha256.clone(),
        };
        let mut compared = self.compared.lock();
        if compared.get(name) != Some(&stamp) {
            let right = data.is_file()
                && data.len() == listed.bytes
                && sum(&file).map_err(unreadable)? == listed.sha256;
            if !right {
                let what = format!("{} is not the file that the manifest lists", path.display());
                return Err(self.unusable(what));
            }
            compared.insert(name.to_owned(), stamp);
        }
        Ok(Image { file, bytes: listed.bytes, sha256: listed.sha256.clone() })
    }

    fn unusable(&self, what: String) -> Fault {
        Fault::new(
            codes::NO_IMAGES,
            Kind::Unavailable,
            what,
            "build the images (netboot/lab/build --out, or the flake's netboot-node) into boot.images",
        )
    }
}

fn sum(mut file: &File) -> std::io::Result<String> {
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0u8; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => context.update(&buffer[..count]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Images) {
        let dir = tempfile::tempdir().unwrap();
        let mut listed = serde_json::Map::new();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
            let hash = sum(&File::open(dir.path().join(name)).unwrap()).unwrap();
            let entry = serde_json::json!({"sha256": hash, "bytes": content.len()});
            listed.insert((*name).to_owned(), entry);
        }
        let manifest = serde_json::json!({"version": 1, "target": "lab", "files": listed});
        std::fs::write(dir.path().join(MANIFEST), manifest.to_string()).unwrap();
        let images = Images::new(dir.path());
        (dir, images)
    }

    #[test]
    fn only_what_the_manifest_lists_and_only_as_it_lists_it() {
        let (dir, images) = folder(&[("vmlinuz", "kernel"), ("initrd", "ramdisk")]);
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        assert_eq!(images.open("vmlinuz").unwrap().bytes, 6);
        for name in ["secret", "../secret", "", ".", "manifest.json", "/etc/passwd"] {
            assert_eq!(images.open(name).unwrap_err().code, codes::NO_SUCH_PATH, "{name}");
        }
        std::fs::write(dir.path().join("vmlinuz"), "kernal").unwrap();
        assert_eq!(images.open("vmlinuz").unwrap_err().code, codes::NO_IMAGES);
        std::fs::write(dir.path().join("vmlinuz"), "kernel").unwrap();
        images.open("vmlinuz").unwrap();
        std::fs::remove_file(dir.path().join("initrd")).unwrap();
        assert_eq!(images.open("initrd").unwrap_err().kind, Kind::Unavailable);
        std::fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        assert_eq!(images.open("vmlinuz").unwrap_err().code, codes::NO_IMAGES);
    }

    #[test]
    fn a_manifest_that_could_harm_a_script_is_refused() {
        let sum = "0".repeat(64);
        let with = |extra: &str, version: u32, target: &str| {
            let file = format!("{{\"sha256\":\"{sum}\",\"bytes\":1}}");
            Manifest::parse(
                format!(
                    "{{\"version\":{version},\"target\":\"{target}\",\"files\":{{\
                     \"vmlinuz\":{file},\"initrd\":{file}{extra}}}}}"
                )
                .as_bytes(),
            )
        };
        with("", 1, "lab").unwrap();
        with("", 2, "lab").unwrap_err();
        with("", 1, "lab shell").unwrap_err();
        with(",\"../x\":{\"sha256\":\"\",\"bytes\":1}", 1, "lab").unwrap_err();
        with(",\"x\":{\"sha256\":\"zz\",\"bytes\":1}", 1, "lab").unwrap_err();
        Manifest::parse(b"{}").unwrap_err();
        Manifest::parse(b"\xff").unwrap_err();
    }
}
