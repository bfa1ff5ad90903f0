//! The steps of first boot, in their order, and how long each may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One step. The order of the variants is the order of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Which node of the inventory is this machine?
    Identify,
    /// Is the clock right? Certificates mean nothing before it is.
    Clock,
    /// Does the machine hold its own address?
    Network,
    /// Is the disk laid out?
    Disk,
    /// Is the system installed on it?
    Install,
    /// Are the keys made?
    Identity,
    /// Are the certificates signed?
    Enroll,
    /// Is the cluster formed, or this node a voter in it?
    Join,
    /// Do the node's services run?
    Services,
    /// Do the health gates hold?
    Gates,
    /// The machine is good: say so, and boot this way from now on.
    Bless,
}

impl Step {
    /// All steps in order.
    pub const ALL: [Step; 11] = [
        Step::Identify,
        Step::Clock,
        Step::Network,
        Step::Disk,
        Step::Install,
        Step::Identity,
        Step::Enroll,
        Step::Join,
        Step::Services,
        Step::Gates,
        Step::Bless,
    ];

    /// The step's name as people and the boot server read it.
    pub fn name(self) -> &'static str {
        match self {
            Step::Identify => "identify",
            Step::Clock => "clock",
            Step::Network => "network",
            Step::Disk => "disk",
            Step::Install => "install",
            Step::Identity => "identity",
            Step::Enroll => "enroll",
            Step::Join => "join",
            Step::Services => "services",
            Step::Gates => "gates",
            Step::Bless => "bless",
        }
    }

    /// How long the step may go without success before it counts as failed. `None`: for ever,
    /// since it waits for others (peers that are not powered on yet, an operator's token).
    pub fn limits(self) -> Limits {
        let minutes = |n: u64| Some(Duration::from_secs(60 * n));
        let deadline = match self {
            Step::Identity | Step::Bless => minutes(1),
            Step::Disk => minutes(15),
            Step::Install => minutes(60),
            Step::Identify
            | Step::Clock
            | Step::Network
            | Step::Enroll
            | Step::Join
            | Step::Services
            | Step::Gates => None,
        };
        // what happens on this machine alone is looked at often: seconds count
        let longest_pause = match self {
            Step::Network | Step::Join | Step::Services | Step::Gates => Duration::from_secs(1),
            _ => Duration::from_secs(10),
        };
        Limits { deadline, longest_pause }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What bounds a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest time from the step's first probe to its success.
    pub deadline: Option<Duration>,
    /// Longest time between two looks while it waits.
    pub longest_pause: Duration,
}
