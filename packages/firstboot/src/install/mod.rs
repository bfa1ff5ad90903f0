//! Step install: the system is on the disk, and boots from it.

use std::sync::Arc;

use fault::Fault;
use steps::Probe;

use crate::{Context, Settings};

/// The step, and what it knows so far in this run.
pub(crate) struct InstallStep {}

impl InstallStep {
    pub(crate) fn new(_settings: Arc<Settings>) -> Self {
        InstallStep {}
    }

    /// The system is on the disk.
    pub(crate) async fn probe(&mut self, _context: &Context<'_>) -> Result<Probe, Fault> {
        Ok(Probe::True)
    }

    /// Makes it so.
    pub(crate) async fn act(&mut self, _context: &Context<'_>) -> Result<(), Fault> {
        Ok(())
    }
}
