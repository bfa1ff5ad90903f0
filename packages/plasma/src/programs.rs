//! The programs that a cloud consists of, and where they are.

use std::path::{Path, PathBuf};

use fault::{Fault, Kind};

use crate::codes;

/// The programs, found.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) bootserver: PathBuf,
    pub(crate) firstboot: PathBuf,
    pub(crate) chainfire: PathBuf,
}

impl Programs {
    /// All of them; see [`program`].
    pub(crate) fn find() -> Result<Programs, Fault> {
        Ok(Programs {
            bootserver: program("bootserver")?,
            firstboot: program("firstboot")?,
            chainfire: program("chainfire")?,
        })
    }
}

/// In `$PLASMA_BIN_DIR` and nowhere else if that is set; otherwise beside this program, then on
/// the path.
pub(crate) fn program(name: &str) -> Result<PathBuf, Fault> {
    let dirs: Vec<PathBuf> = match std::env::var_os("PLASMA_BIN_DIR") {
        Some(dir) => vec![dir.into()],
        None => {
            let beside = std::env::current_exe().ok();
            let beside = beside.and_then(|exe| exe.parent().map(Path::to_owned));
            let path = std::env::var_os("PATH").unwrap_or_default();
            beside.into_iter().chain(std::env::split_paths(&path)).collect()
        }
    };
    let found = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.and_then(|path| std::path::absolute(path).ok()).ok_or_else(|| {
        Fault::new(
            codes::NO_PROGRAM,
            Kind::NotFound,
            format!("the program {name} is neither beside plasma nor on the path"),
            "build all: ./scripts/up does; or say where they are: PLASMA_BIN_DIR",
        )
    })
}
