//! What can go wrong, typed by who must decide what comes next.

use std::time::Duration;

use fault::{Fault, Kind};

use crate::codes;
use crate::types::{GroupId, NodeId, NodeInfo};

/// The state machine cannot go on: its storage failed or is damaged. The group stops.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

impl Fatal {
    /// From anything that can be displayed.
    pub fn new(what: impl std::fmt::Display) -> Self {
        Self(what.to_string())
    }
}

impl From<engine::EngineError> for Fatal {
    fn from(e: engine::EngineError) -> Self {
        // with its code and hint: this is the last that is heard of it
        Self(Fault::from(e).to_string())
    }
}

/// Why a proposal has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// Nobody leads, or the leader could not be reached. It was surely not proposed.
    #[error("no leader")]
    NoLeader {
        /// Who was last known to lead.
        hint: Option<Box<NodeInfo>>,
    },
    /// Too much waits. It was surely not proposed.
    #[error("too many requests wait")]
    TooBusy,
    /// No answer in time. It may still take effect.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The leader changed meanwhile. It may still take effect.
    #[error("the leader changed")]
    LeaderChanged,
    /// The request is over the limit. It was surely not proposed.
    #[error("the request has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes of the request.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The group is stopping or has stopped here. Whether it takes effect is not known.
    #[error("the group has stopped")]
    Stopped,
    /// The group failed here. Whether it takes effect is not known.
    #[error("the group has failed: {0}")]
    Failed(String),
}

impl ProposeError {
    /// Whether the proposal can never take effect, so that proposing it again is no duplicate.
    pub fn surely_not_proposed(&self) -> bool {
        matches!(self, Self::NoLeader { .. } | Self::TooBusy | Self::TooLarge { .. })
    }
}

/// Why a linearizable read cannot be answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads, or the leader could not be reached, or it has lost its quorum.
    #[error("no leader")]
    NoLeader {
        /// Who was last known to lead.
        hint: Option<Box<NodeInfo>>,
    },
    /// Too many reads wait.
    #[error("too many reads wait")]
    TooBusy,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The group is stopping or has stopped here.
    #[error("the group has stopped")]
    Stopped,
    /// The group failed here.
    #[error("the group has failed: {0}")]
    Failed(String),
}

/// Why the members were not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MembershipError {
    /// Nobody leads, or the leader could not be reached.
    #[error("no leader")]
    NoLeader {
        /// Who was last known to lead.
        hint: Option<Box<NodeInfo>>,
    },
    /// The group has members already, and they are not this node alone.
    #[error("the group has members already")]
    Formed,
    /// No such member.
    #[error("member {0} not found")]
    NotFound(NodeId),
    /// The id is in use with other data.
    #[error("member {0} exists already")]
    Exists(NodeId),
    /// The learner lags; promote it when it has caught up.
    #[error("learner {id} has {matched} of {last} entries")]
    NotReady {
        /// The learner.
        id: NodeId,
        /// What it has.
        matched: u64,
        /// What the leader has.
        last: u64,
    },
    /// The member is a voter already.
    #[error("member {0} is no learner")]
    NotLearner(NodeId),
    /// A learner cannot lead.
    #[error("member {0} does not vote")]
    NotVoter(NodeId),
    /// Another change is under way; try again.
    #[error("another membership change is under way")]
    InProgress,
    /// The change would leave the group without a live quorum.
    #[error("the change would leave no quorum: {0}")]
    Quorum(String),
    /// No answer in time. The change may still take effect.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The leader changed meanwhile. The change may still take effect.
    #[error("the leader changed")]
    LeaderChanged,
    /// The group is stopping or has stopped here.
    #[error("the group has stopped")]
    Stopped,
    /// The group failed here.
    #[error("the group has failed: {0}")]
    Failed(String),
}

/// Why a group could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The options contradict each other.
    #[error("options: {0}")]
    Options(String),
    /// The group runs here already.
    #[error("group {0} runs already")]
    Running(GroupId),
    /// The journal was written by another member.
    #[error("the journal of group {group} belongs to member {stored:#x}, not to {asked:#x}")]
    WrongNode {
        /// The group.
        group: GroupId,
        /// Who wrote it.
        stored: NodeId,
        /// Who opens it.
        asked: NodeId,
    },
    /// The journal, the engine and the snapshots do not fit together, or cannot be read.
    #[error("{0}")]
    Storage(String),
    /// A spool folder or file cannot be used.
    #[error("spool {path}: {source}")]
    Spool {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The host was shut down.
    #[error("the host has stopped")]
    Stopped,
}

fn leader_hint(hint: &Option<Box<NodeInfo>>) -> String {
    match hint {
        Some(info) => format!("{} led last; try again", info.name),
        None => "wait for an election, or bring a majority of the voters up".into(),
    }
}

const MAY_TAKE_EFFECT: &str = "it may still take effect; read before trying again";

impl From<ProposeError> for Fault {
    fn from(e: ProposeError) -> Self {
        let what = e.to_string();
        match &e {
            ProposeError::NoLeader { hint } => {
                Fault::new(codes::NO_LEADER, Kind::Unavailable, what, leader_hint(hint))
            }
            ProposeError::TooBusy => {
                Fault::new(codes::BUSY, Kind::Exhausted, what, "send less at once, or try again")
            }
            ProposeError::TimedOut(_) => {
                Fault::new(codes::TIMED_OUT, Kind::Deadline, what, MAY_TAKE_EFFECT)
            }
            ProposeError::LeaderChanged => {
                Fault::new(codes::LEADER_CHANGED, Kind::Unavailable, what, MAY_TAKE_EFFECT)
            }
            ProposeError::TooLarge { .. } => {
                Fault::new(codes::TOO_LARGE, Kind::Invalid, what, "split the request")
            }
            ProposeError::Stopped => {
                Fault::new(codes::STOPPED, Kind::Unavailable, what, "ask another node")
            }
            ProposeError::Failed(_) => failed(what),
        }
    }
}

impl From<ReadError> for Fault {
    fn from(e: ReadError) -> Self {
        let what = e.to_string();
        match &e {
            ReadError::NoLeader { hint } => {
                Fault::new(codes::NO_LEADER, Kind::Unavailable, what, leader_hint(hint))
            }
            ReadError::TooBusy => Fault::new(codes::BUSY, Kind::Exhausted, what, "try again"),
            ReadError::TimedOut(_) => {
                Fault::new(codes::TIMED_OUT, Kind::Deadline, what, "try again")
            }
            ReadError::Stopped => {
                Fault::new(codes::STOPPED, Kind::Unavailable, what, "ask another node")
            }
            ReadError::Failed(_) => failed(what),
        }
    }
}

impl From<MembershipError> for Fault {
    fn from(e: MembershipError) -> Self {
        use MembershipError as E;
        let what = e.to_string();
        let pre = |code, hint: &str| Fault::new(code, Kind::Precondition, what.clone(), hint);
        match &e {
            E::NoLeader { hint } => {
                Fault::new(codes::NO_LEADER, Kind::Unavailable, what, leader_hint(hint))
            }
            E::Formed => pre(codes::FORMED, "join it instead"),
            E::NotFound(_) => {
                Fault::new(codes::NO_MEMBER, Kind::NotFound, what, "list the members")
            }
            E::Exists(_) => {
                Fault::new(codes::MEMBER_EXISTS, Kind::Exists, what, "ids are never used again")
            }
            E::NotReady { .. } => pre(codes::NOT_READY, "try again when it has caught up"),
            E::NotLearner(_) => pre(codes::NOT_VOTER, "it votes already"),
            E::NotVoter(_) => pre(codes::NOT_VOTER, "promote it first"),
            E::InProgress => pre(codes::CHANGING, "try again in a moment"),
            E::Quorum(_) => pre(codes::QUORUM, "bring more voters up first"),
            E::TimedOut(_) => Fault::new(codes::TIMED_OUT, Kind::Deadline, what, MAY_TAKE_EFFECT),
            E::LeaderChanged => {
                Fault::new(codes::LEADER_CHANGED, Kind::Unavailable, what, MAY_TAKE_EFFECT)
            }
            E::Stopped => Fault::new(codes::STOPPED, Kind::Unavailable, what, "ask another node"),
            E::Failed(_) => failed(what),
        }
    }
}

impl From<ConsensusError> for Fault {
    fn from(e: ConsensusError) -> Self {
        let what = e.to_string();
        match e {
            ConsensusError::Options(_) => Fault::new(codes::OPTIONS, Kind::Invalid, what, ""),
            ConsensusError::Running(_) => Fault::new(codes::RUNNING, Kind::Exists, what, ""),
            ConsensusError::WrongNode { .. } => Fault::new(
                codes::WRONG_NODE,
                Kind::Precondition,
                what,
                "each member needs a data folder of its own",
            ),
            ConsensusError::Storage(_) => Fault::new(
                codes::DAMAGED,
                Kind::Corrupt,
                what,
                "remove this member, empty its folder and let it join again",
            ),
            ConsensusError::Spool { .. } => Fault::new(
                codes::SNAPSHOT,
                Kind::Internal,
                what,
                "check the folder's owner, mode and free space",
            ),
            ConsensusError::Stopped => Fault::new(codes::STOPPED, Kind::Unavailable, what, ""),
        }
    }
}

fn failed(what: String) -> Fault {
    Fault::new(
        codes::FAILED,
        Kind::Unavailable,
        what,
        "see this node's log for the cause, restart it; other nodes go on",
    )
}
