//! Counters of calls, and gauges that are read when they are asked for.

use std::sync::Weak;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Opts, Registry};

use super::node::Node;
use super::watch::Hub;

/// Counters of calls.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) range: IntCounter,
    pub(crate) put: IntCounter,
    pub(crate) delete_range: IntCounter,
    pub(crate) txn: IntCounter,
    pub(crate) keep_alive: IntCounter,
    pub(crate) expired: IntCounter,
}

fn calls(method: &str) -> Result<IntCounter, prometheus::Error> {
    let help = "Calls that passed the checks of the request, by method.";
    IntCounter::with_opts(Opts::new("chainfire_calls_total", help).const_label("method", method))
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let expired = "Leases that ended by their time, by this member as the leader.";
        let metrics = Metrics {
            range: calls("range")?,
            put: calls("put")?,
            delete_range: calls("delete_range")?,
            txn: calls("txn")?,
            keep_alive: calls("lease_keep_alive")?,
            expired: IntCounter::new("chainfire_leases_expired_total", expired)?,
        };
        for counter in [
            &metrics.range,
            &metrics.put,
            &metrics.delete_range,
            &metrics.txn,
            &metrics.keep_alive,
            &metrics.expired,
        ] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(metrics)
    }
}

/// Gauges of one member.
pub(crate) struct Gauges {
    node: Weak<Node>,
    hub: Weak<Hub>,
    journal: journal::Journal,
    gauges: Vec<IntGauge>,
}

const GAUGES: [(&str, &str); 21] = [
    ("chainfire_has_leader", "Whether a leader is known."),
    ("chainfire_is_leader", "Whether this member leads."),
    ("chainfire_raft_term", "The term."),
    ("chainfire_raft_last_index", "The last index in the log."),
    ("chainfire_raft_committed_index", "The last index that a quorum holds."),
    ("chainfire_raft_applied_index", "The last index that was applied."),
    ("chainfire_raft_persisted_index", "The last index that is durable in the engine."),
    ("chainfire_members", "Members, learners too."),
    ("chainfire_learners", "Members without a vote."),
    ("chainfire_revision", "The present revision."),
    ("chainfire_compacted_revision", "The compaction revision."),
    ("chainfire_keys", "Live keys."),
    ("chainfire_leases", "Leases."),
    ("chainfire_db_bytes", "Bytes of the engine on disk."),
    ("chainfire_db_bytes_in_use", "Bytes of keys, values and history, about."),
    ("chainfire_db_quota_bytes", "Beyond this the NOSPACE alarm is raised."),
    ("chainfire_watch_streams", "Watch streams."),
    ("chainfire_watches", "Watches."),
    ("chainfire_watch_queued_bytes", "Bytes that wait for watch streams."),
    ("chainfire_watch_lost", "How often a stream was too slow and went over to history."),
    ("chainfire_journal_syncs", "Syncs of the journal since the start."),
];

impl Gauges {
    pub(crate) fn register(
        registry: &Registry,
        node: Weak<Node>,
        hub: Weak<Hub>,
        journal: journal::Journal,
    ) -> Result<(), prometheus::Error> {
        let gauges: Result<Vec<IntGauge>, _> =
            GAUGES.iter().map(|(name, help)| IntGauge::new(*name, *help)).collect();
        registry.register(Box::new(Gauges { node, hub, journal, gauges: gauges? }))
    }

    fn read(&self) -> Option<[i64; 21]> {
        let (node, hub) = (self.node.upgrade()?, self.hub.upgrade()?.stats());
        let status = node.group.status();
        let reader = &node.reader;
        let learners = status.members.iter().filter(|member| !member.voter).count();
        Some([
            i64::from(status.leader.is_some()),
            i64::from(status.leads()),
            status.term as i64,
            status.last_index as i64,
            status.committed as i64,
            status.applied as i64,
            status.persisted as i64,
            status.members.len() as i64,
            learners as i64,
            reader.revision(),
            reader.compacted(),
            reader.keys() as i64,
            reader.lease_count() as i64,
            reader.db_size() as i64,
            reader.db_size_in_use() as i64,
            node.quota_bytes as i64,
            hub.streams as i64,
            hub.watches as i64,
            hub.queued_bytes as i64,
            hub.lost as i64,
            self.journal.stats().syncs as i64,
        ])
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(values) = self.read() else { return Vec::new() };
        for (gauge, value) in self.gauges.iter().zip(values) {
            gauge.set(value);
        }
        self.gauges.iter().flat_map(Collector::collect).collect()
    }
}
