//! What the steps that change the machine are told about it.

use crate::settings::Target;

/// The node as the boot server answered.
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
}
