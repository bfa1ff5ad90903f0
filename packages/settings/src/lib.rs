//! One loader for every service's configuration: TOML file, then environment, then flags.
