//! What the steps that change the machine are told about it.

use std::path::Path;

use crate::settings::Target;

/// The node as the boot server answered, and where this agent works.
pub(crate) struct Context<'a> {
    /// The node's name.
    pub(crate) node: &'a str,
    /// The cluster's id.
    pub(crate) cluster_id: &'a str,
    /// The node in the inventory.
    pub(crate) inventory: &'a inventory::Node,
    /// The operator's order to install: one id is destructive at most once.
    pub(crate) install_id: &'a str,
    /// What is installed.
    pub(crate) target: Target,
    /// `/etc/machine-id` of installer and system.
    pub(crate) machine_id: &'a str,
    /// URL of the folder with the images; empty when it is not known.
    pub(crate) images: &'a str,
    /// The agent's own folder; after the step disk it is on the data partition.
    #[allow(
        dead_code,
        reason = "the disk's settings name it too; here for what is installed later"
    )]
    pub(crate) state_dir: &'a Path,
}
