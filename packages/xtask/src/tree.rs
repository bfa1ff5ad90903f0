//! Where things are in the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the repository in which cargo runs this. It is asked for now and not when this was
/// compiled: checkouts may share a target folder.
pub(crate) fn root() -> Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").context("run it as cargo xtask")?;
    let here = Path::new(&here);
    here.ancestors().nth(2).map(Path::to_path_buf).context("xtask is not in packages/xtask")
}
