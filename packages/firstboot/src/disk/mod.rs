//! Step disk: the node's disk is claimed, laid out and mounted.

use std::sync::Arc;

use fault::Fault;
use serde::Deserialize;
use steps::Probe;

use crate::{Context, Settings};

/// `[disk]`: where the disk step works; other paths than the defaults are for tests.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSettings {}

/// The step, and what it knows so far in this run.
pub(crate) struct DiskStep {}

impl DiskStep {
    pub(crate) fn new(_settings: Arc<Settings>) -> Self {
        DiskStep {}
    }

    /// The disk is ours, laid out and mounted.
    pub(crate) async fn probe(&mut self, _context: &Context<'_>) -> Result<Probe, Fault> {
        Ok(Probe::True)
    }

    /// Makes it so.
    pub(crate) async fn act(&mut self, _context: &Context<'_>) -> Result<(), Fault> {
        Ok(())
    }
}
