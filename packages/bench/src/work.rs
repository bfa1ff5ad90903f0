//! The pieces of work that servers are measured on.

use crate::servers::Side;
use std::fmt;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Op {
    /// Puts of random keys
    Put,
    /// Linearizable gets of random keys
    GetLin,
    /// Serializable gets of random keys
    GetSer,
    /// Linearizable ranges of 1,000 keys
    Range,
    /// Compare-and-swap, each client on a key of its own
    Cas,
    /// Compare-and-swap, all clients on one key
    CasHot,
    /// Half puts, half linearizable gets
    Mixed,
    /// Grants of leases
    LeaseGrant,
    /// Keep-alives on a stream a client
    LeaseKeepAlive,
    /// Revokes of leases that were granted before
    LeaseRevoke,
    /// No such work
    None,
}

impl Op {
    /// What no run with that op can do without: every key has been written.
    pub(crate) fn needs_keys(self) -> bool {
        matches!(self, Op::GetLin | Op::GetSer | Op::Range | Op::Mixed)
    }

    /// Whether a server knows this work.
    pub(crate) fn suits(self, side: Side) -> bool {
        match side {
            Side::Chainfire | Side::Before | Side::Etcd => true,
            Side::Grpc => matches!(self, Op::Put | Op::GetLin | Op::GetSer),
            Side::SyncedLog => self == Op::Put,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use clap::ValueEnum;
        let name = self.to_possible_value();
        out.write_str(name.as_ref().map_or("", |value| value.get_name()))
    }
}
