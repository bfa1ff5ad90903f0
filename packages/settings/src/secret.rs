//! A secret is the path of a file, read when it is used.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use fault::{Fault, Kind};
use serde::Deserialize;

use crate::codes;

/// A secret's file is short; more is a mistake.
const SECRET_MAX: u64 = 64 << 10;

/// The path of a file that holds a secret. The content is read on each use, never kept here and
/// never printed: neither the settings, nor the environment, nor the arguments of a process ever
/// contain a secret.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(PathBuf);

impl Secret {
    /// The secret in this file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads it; white space around it does not count, and it must not be empty.
    pub fn read(&self) -> Result<String, Fault> {
        let refuse = |why: String| {
            Fault::new(
                codes::SECRET,
                Kind::Invalid,
                format!("secret file {} cannot be used: {why}", self.0.display()),
                "write the secret into this file, readable by this process only",
            )
        };
        let mut text = String::new();
        std::fs::File::open(&self.0)
            .and_then(|file| file.take(SECRET_MAX + 1).read_to_string(&mut text))
            .map_err(|e| refuse(e.to_string()))?;
        if text.len() as u64 > SECRET_MAX {
            return Err(refuse(format!("it is longer than {SECRET_MAX} bytes")));
        }
        match text.trim() {
            "" => Err(refuse("it is empty".to_owned())),
            secret => Ok(secret.to_owned()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_on_use_and_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let secret = Secret::at(&path);
        let missing = secret.read().unwrap_err();
        assert_eq!(missing.code, codes::SECRET);
        assert!(missing.what.contains("token"), "{missing}");

        std::fs::write(&path, "  \n").unwrap();
        assert!(secret.read().unwrap_err().what.contains("empty"));
        std::fs::write(&path, "hunter2\n").unwrap();
        assert_eq!(secret.read().unwrap(), "hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(..)");

        std::fs::write(&path, vec![b'x'; SECRET_MAX as usize + 1]).unwrap();
        assert!(secret.read().unwrap_err().what.contains("longer"));
    }
}
