//! Counters of packets, and gauges of nodes by state.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::nodes::{NodeState, Nodes};
use super::seal::Refused;

/// What the metrics endpoint shows of gossip.
#[derive(Clone)]
pub(super) struct Stats {
    pub(super) sent: IntCounter,
    pub(super) received: IntCounter,
    refused: IntCounterVec,
    nodes: IntGaugeVec,
}

impl Stats {
    pub(super) fn new(registry: &Registry) -> Result<Stats, prometheus::Error> {
        let refused = "Gossip packets that were dropped, by reason.";
        let nodes = "Members by what gossip says of them.";
        let stats = Stats {
            sent: IntCounter::new("chainfire_gossip_packets_sent_total", "Gossip packets sent.")?,
            received: IntCounter::new(
                "chainfire_gossip_packets_received_total",
                "Gossip packets that were taken.",
            )?,
            refused: IntCounterVec::new(
                Opts::new("chainfire_gossip_packets_refused_total", refused),
                &["reason"],
            )?,
            nodes: IntGaugeVec::new(Opts::new("chainfire_gossip_nodes", nodes), &["state"])?,
        };
        registry.register(Box::new(stats.sent.clone()))?;
        registry.register(Box::new(stats.received.clone()))?;
        registry.register(Box::new(stats.refused.clone()))?;
        registry.register(Box::new(stats.nodes.clone()))?;
        for (_, reason) in REASONS {
            stats.refused.with_label_values(&[reason]);
        }
        Ok(stats)
    }

    pub(super) fn refuse(&self, why: Refused) {
        if let Some((_, reason)) = REASONS.iter().find(|(known, _)| *known == why) {
            self.refused.with_label_values(&[reason]).inc();
        }
    }

    pub(super) fn show(&self, nodes: &Nodes) {
        for (state, name) in NodeState::ALL {
            self.nodes.with_label_values(&[name]).set(nodes.count(state) as i64);
        }
    }
}

const REASONS: [(Refused, &str); 7] = [
    (Refused::Size, "size"),
    (Refused::Version, "version"),
    (Refused::Sender, "sender"),
    (Refused::Session, "session"),
    (Refused::Forged, "forged"),
    (Refused::Replayed, "replayed"),
    (Refused::Malformed, "malformed"),
];
