//! One program for all decoders: `PLASMA_FUZZ` names the one, as the crates' `fuzz` modules do.
//! `PLASMA_FUZZ_CORPUS` makes it write the valid inputs into that folder first.

#![no_main]

use std::sync::LazyLock;

use chainfire::fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let all: Vec<&Target> = [
        journal::fuzz::TARGETS,
        engine::fuzz::TARGETS,
        consensus::fuzz::TARGETS,
        chainfire::fuzz::STORE,
        chainfire::fuzz::TARGETS,
    ]
    .into_iter()
    .flatten()
    .collect();
    let wanted = std::env::var("PLASMA_FUZZ").unwrap_or_default();
    let names: Vec<&str> = all.iter().map(|(name, ..)| *name).collect();
    let found = all.into_iter().find(|(name, ..)| *name == wanted);
    *found.unwrap_or_else(|| panic!("PLASMA_FUZZ must be one of {names:?}"))
});

fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("PLASMA_FUZZ_CORPUS") {
            for (number, sample) in TARGET.2().iter().enumerate() {
                let path = std::path::Path::new(&folder).join(format!("valid-{number}"));
                std::fs::write(path, sample).expect("the folder of the corpus");
            }
        }
    },
    |data: &[u8]| TARGET.1(data)
);
