//! Wall clocks that jump, and monotonic clocks that begin anew.
//!
//! The wall clock of a member is what libfaketime (Debian's package faketime) makes of it, read from
//! a file that is written here. The monotonic clock cannot jump on Linux; but it begins somewhere
//! else after every boot, and so it does after every start here, by a time namespace.

use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A member's wall clock.
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock that is right until it is told otherwise; `offset` is the file to keep that in. None
    /// where libfaketime is not installed.
    pub fn make(offset: &Path) -> Result<Option<Clock>> {
        let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
        let places = places.map(|place| format!("/usr/lib/{place}/faketime/libfaketimeMT.so.1"));
        let Some(library) = places.into_iter().map(PathBuf::from).find(|path| path.is_file())
        else {
            return Ok(None);
        };
        let clock = Clock { library, offset: offset.to_owned() };
        clock.jump(0)?;
        Ok(Some(clock))
    }

    /// From now on (within a second) it is wrong by so many seconds.
    pub fn jump(&self, seconds: i64) -> Result<()> {
        // In one piece: it is read at any time.
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n"))?;
        Ok(std::fs::rename(new, &self.offset)?)
    }

    /// Gives a command this clock.
    pub fn give(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.offset)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DISABLE_SHM", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
    }
}

/// What stands before a command whose monotonic clock is to be ahead by so many seconds. Needs root.
pub fn booted(seconds: u64) -> Vec<String> {
    ["unshare", "--time", "--monotonic", &seconds.to_string(), "--boottime", &seconds.to_string()]
        .map(str::to_owned)
        .to_vec()
}
