//! What a process counts of all its groups. Read by monitoring; nothing is decided by it.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};

use crate::error::ProposeError;
use crate::types::{Counts, NodeId};

/// Bounds of durations in seconds, from 0.25 ms to 8 s.
fn seconds() -> Vec<f64> {
    exponential_buckets(0.000_25, 2.0, 16).expect("bounds are constant")
}

pub(crate) struct Figures {
    pub(crate) apply: Histogram,
    pub(crate) persist: Histogram,
    pending: IntGauge,
    failed: IntCounterVec,
    pub(crate) leader_changes: IntCounter,
    round_trip: HistogramVec,
    pub(crate) sent: Transfers,
    pub(crate) received: Transfers,
}

/// Snapshots on their way to peers, or from them.
#[derive(Clone)]
pub(crate) struct Transfers {
    done: IntCounter,
    failed: IntCounter,
    under_way: IntGauge,
    bytes: IntCounter,
}

impl Transfers {
    fn new(way: &str) -> Transfers {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("direction", way);
        let ended = |result: &str| {
            let opts = opts("consensus_snapshots_total", "Snapshots sent or received, by result.");
            IntCounter::with_opts(opts.const_label("result", result)).expect("names are constant")
        };
        let bytes = opts("consensus_snapshot_bytes_total", "Bytes of snapshots on the way.");
        let under_way = opts("consensus_snapshots_under_way", "Snapshots on the way now.");
        Transfers {
            done: ended("done"),
            failed: ended("failed"),
            under_way: IntGauge::with_opts(under_way).expect("names are constant"),
            bytes: IntCounter::with_opts(bytes).expect("names are constant"),
        }
    }

    /// One begins. It counts as failed unless it is told that it is done.
    pub(crate) fn begin(&self) -> Transfer {
        self.under_way.inc();
        Transfer { of: self.clone(), done: false }
    }

    pub(crate) fn count(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
    }
}

pub(crate) struct Transfer {
    of: Transfers,
    done: bool,
}

impl Transfer {
    pub(crate) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.of.under_way.dec();
        if self.done { self.of.done.inc() } else { self.of.failed.inc() }
    }
}

/// One proposal that waits.
pub(crate) struct Pending<'a>(&'a IntGauge);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Figures {
    pub(crate) fn new() -> Figures {
        let histogram = |name: &str, help: &str| {
            let opts = HistogramOpts::new(name, help).buckets(seconds());
            Histogram::with_opts(opts).expect("names and bounds are constant")
        };
        let round_trip = HistogramOpts::new(
            "consensus_peer_round_trip_seconds",
            "A heartbeat until its answer, by the member asked. Only a leader sends them.",
        );
        let failed = Opts::new(
            "consensus_proposals_failed_total",
            "Proposals that were refused or whose fate is not known, by reason.",
        );
        let failed = IntCounterVec::new(failed, &["reason"]).expect("names are constant");
        // Zeros are shown from the start, so that a rate sees the first one.
        for reason in REASONS {
            failed.with_label_values(&[reason]);
        }
        Figures {
            apply: histogram(
                "consensus_apply_seconds",
                "Applying committed entries that were at hand together.",
            ),
            persist: histogram(
                "consensus_persist_seconds",
                "Making applied state durable, in the background.",
            ),
            pending: IntGauge::new("consensus_proposals_pending", "Proposals that wait now.")
                .expect("names are constant"),
            failed,
            leader_changes: IntCounter::new(
                "consensus_leader_changes_total",
                "How often this node saw another leader than before.",
            )
            .expect("names are constant"),
            round_trip: HistogramVec::new(round_trip.buckets(seconds()), &["peer"])
                .expect("names are constant"),
            sent: Transfers::new("sent"),
            received: Transfers::new("received"),
        }
    }

    pub(crate) fn register(&self, registry: &Registry) {
        let mut all: Vec<Box<dyn Collector>> = vec![
            Box::new(self.apply.clone()),
            Box::new(self.persist.clone()),
            Box::new(self.pending.clone()),
            Box::new(self.failed.clone()),
            Box::new(self.leader_changes.clone()),
            Box::new(self.round_trip.clone()),
        ];
        for way in [&self.sent, &self.received] {
            all.push(Box::new(way.done.clone()));
            all.push(Box::new(way.failed.clone()));
            all.push(Box::new(way.under_way.clone()));
            all.push(Box::new(way.bytes.clone()));
        }
        for one in all {
            // A second registration is refused, and means nothing.
            let _ = registry.register(one);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let failed = REASONS.iter().map(|reason| self.failed.with_label_values(&[reason]).get());
        Counts {
            pending: self.pending.get().max(0) as u64,
            failed: failed.sum(),
            leader_changes: self.leader_changes.get(),
        }
    }

    pub(crate) fn waits(&self) -> Pending<'_> {
        self.pending.inc();
        Pending(&self.pending)
    }

    pub(crate) fn refused(&self, error: &ProposeError) {
        let reason = match error {
            ProposeError::NoLeader { .. } => "no_leader",
            ProposeError::TooBusy => "too_busy",
            ProposeError::TimedOut(_) => "timed_out",
            ProposeError::LeaderChanged => "leader_changed",
            ProposeError::TooLarge { .. } => "too_large",
            ProposeError::Stopped => "stopped",
            ProposeError::Failed(_) => "failed",
        };
        self.failed.with_label_values(&[reason]).inc();
    }

    /// Forgets what is counted of peers that are none any more.
    pub(crate) fn keep_peers(&self, is_peer: impl Fn(NodeId) -> bool) {
        for family in self.round_trip.collect() {
            for metric in family.get_metric() {
                for label in metric.get_label().iter().filter(|label| label.name() == "peer") {
                    let id = NodeId::from_str_radix(label.value(), 16);
                    if !id.is_ok_and(&is_peer) {
                        let _ = self.round_trip.remove_label_values(&[label.value()]);
                    }
                }
            }
        }
    }

    pub(crate) fn round_trip(&self, peer: NodeId, seconds: f64) {
        self.round_trip.with_label_values(&[&format!("{peer:x}")]).observe(seconds);
    }
}

const REASONS: [&str; 7] =
    ["no_leader", "too_busy", "timed_out", "leader_changed", "too_large", "stopped", "failed"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_of_a_peer_goes_with_it() {
        let figures = Figures::new();
        for id in [1, 0xab, 0xfeed_0000_0000_0001] {
            figures.round_trip(id, 0.1);
        }
        figures.keep_peers(|id| id != 0xab);
        let families = figures.round_trip.collect();
        let labels = families.iter().flat_map(|family| family.get_metric());
        let labels = labels.flat_map(|metric| metric.get_label());
        let mut left: Vec<&str> = labels.map(|label| label.value()).collect();
        left.sort_unstable();
        assert_eq!(left, ["1", "feed000000000001"]);
    }
}
