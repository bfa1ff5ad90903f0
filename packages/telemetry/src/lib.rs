//! Logs, metrics and the ops listener: `/healthz`, `/readyz` with reasons, `/metrics`, `/version`.
//!
//! Log levels say who must act: ERROR a person now, WARN a person soon, INFO nobody (a change of
//! state worth knowing later), DEBUG whoever looks for a mistake. Messages are lower case, and what
//! varies stands in fields.

pub mod codes;
mod health;
mod lifeline;
mod log;
mod ops;
mod process;
mod signal;

pub use health::{Gate, Health};
pub use lifeline::{lifeline, stop_requested};
pub use log::{Format, LogSettings, init};
pub use ops::{OpsSettings, ops};
pub use process::process_metrics;
pub use signal::stop_signal;

use std::sync::OnceLock;

/// The version of the whole workspace: all crates carry the same one.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

static SERVICE: OnceLock<&'static str> = OnceLock::new();

/// The service that called [`init`], for the version and the build metric.
fn service() -> &'static str {
    SERVICE.get().copied().unwrap_or("unnamed")
}
