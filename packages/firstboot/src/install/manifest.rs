//! Reads the image's manifest: which files it has, how long they are, and their sums.

use std::collections::BTreeMap;

use fault::Fault;
use serde::Deserialize;

use crate::codes;
use crate::disk::{Expected, stop};

/// The files without which nothing boots.
pub(crate) const FILES: [&str; 4] = ["vmlinuz", "initrd", "root.squashfs", "plasma.squashfs"];
/// They fit on the partition that boots, with room for the loader.
const BYTES_MAX: u64 = 360 << 20;

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    pub(crate) target: String,
    pub(crate) kernel_release: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Entry {
    sha256: String,
    bytes: u64,
}

impl Manifest {
    /// Reads a manifest; every file that boots is in it.
    pub(crate) fn parse(text: &[u8]) -> Result<Manifest, Fault> {
        let manifest: Manifest =
            serde_json::from_slice(text).map_err(|error| refused(&error.to_string()))?;
        if manifest.version != 1 || manifest.target != "lab" {
            return Err(refused(&format!(
                "version {} for target {:?}",
                manifest.version, manifest.target
            )));
        }
        let mut total = 0_u64;
        for name in FILES {
            let entry = manifest.files.get(name).ok_or_else(|| refused(&format!("no {name}")))?;
            let hex = entry.sha256.len() == 64
                && entry.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !hex || entry.bytes == 0 {
                return Err(refused(&format!("{name} has no size or no sum")));
            }
            total = total.saturating_add(entry.bytes);
        }
        if total > BYTES_MAX {
            return Err(refused(&format!("{total} bytes do not fit on the boot partition")));
        }
        Ok(manifest)
    }

    /// What a file must be.
    pub(crate) fn expected(&self, name: &str) -> Result<Expected, Fault> {
        let entry = self.files.get(name).ok_or_else(|| refused(&format!("no {name}")))?;
        Ok(Expected { sha256: entry.sha256.clone(), bytes: entry.bytes })
    }
}

fn refused(why: &str) -> Fault {
    stop(
        codes::IMAGE,
        format!("the images' manifest cannot be used: {why}"),
        "build the images again with netboot/lab/build, and start the boot server with them",
    )
}

#[cfg(test)]
pub(crate) fn sample(files: &[(&str, &[u8])]) -> Vec<u8> {
    let files: serde_json::Map<String, serde_json::Value> = files
        .iter()
        .map(|(name, bytes)| {
            let entry = serde_json::json!({
                "sha256": super::fetch::hex_sum(bytes),
                "bytes": bytes.len(),
            });
            ((*name).to_owned(), entry)
        })
        .collect();
    let text = serde_json::json!({
        "version": 1, "target": "lab", "kernel_release": "6.1.0-test", "files": files,
    });
    text.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_manifest_names_every_file_that_boots() {
        let all: Vec<(&str, &[u8])> = FILES.iter().map(|&name| (name, b"x".as_slice())).collect();
        let manifest = Manifest::parse(&sample(&all)).expect("complete");
        assert_eq!(manifest.expected("vmlinuz").map(|file| file.bytes), Ok(1));
        assert_eq!(Manifest::parse(&sample(&all[1..])).map_err(|f| f.code), Err(codes::IMAGE));
        let empty: Vec<(&str, &[u8])> = FILES.iter().map(|&name| (name, b"".as_slice())).collect();
        assert!(Manifest::parse(&sample(&empty)).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&bytes);
        }
    }
}
