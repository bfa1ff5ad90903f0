//! Counters of calls, and figures that are read when they are asked for.
//!
//! Where etcd has a metric of the same meaning it is there under etcd's name, too: dashboards and
//! alerts that were made for etcd go on working.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use api::chainfire::{Quota, QuotaUsage};
use api::etcdserverpb::AlarmType;
use journal::SYNC_BOUNDS_MICROS;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{IntCounter, Opts, Registry};

use super::node::Node;
use super::tally::Tally;
use super::watch::Hub;
use crate::store::Auth;

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

/// What is read for one answer.
struct Seen {
    status: consensus::Status,
    counts: consensus::Counts,
    hub: super::watch::HubStats,
    journal: journal::Stats,
    reader: crate::store::Reader,
    quota_bytes: u64,
    quotas: Vec<QuotaUsage>,
    auth: Arc<Auth>,
    quorum: bool,
}

impl Seen {
    fn alarms(&self, kind: AlarmType) -> f64 {
        let raised = self.reader.alarms();
        raised.iter().filter(|alarm| alarm.alarm == kind as i32).count() as f64
    }
}

/// One figure: its name (none: another crate has it), etcd's name for it (none: etcd has it not), what it is, and how it is read.
struct Figure {
    name: &'static str,
    etcd: &'static str,
    help: &'static str,
    kind: MetricType,
    read: fn(&Seen) -> f64,
}

const fn gauge(
    name: &'static str,
    etcd: &'static str,
    help: &'static str,
    read: fn(&Seen) -> f64,
) -> Figure {
    Figure { name, etcd, help, kind: MetricType::GAUGE, read }
}

const fn counter(
    name: &'static str,
    etcd: &'static str,
    help: &'static str,
    read: fn(&Seen) -> f64,
) -> Figure {
    Figure { name, etcd, help, kind: MetricType::COUNTER, read }
}

fn yes(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

const FIGURES: &[Figure] = &[
    gauge("chainfire_has_leader", "etcd_server_has_leader", "Whether a leader is known.", |seen| {
        yes(seen.status.leader.is_some())
    }),
    gauge("chainfire_has_quorum", "", "Whether a leader and a majority can be reached.", |seen| {
        yes(seen.quorum)
    }),
    gauge("chainfire_is_leader", "etcd_server_is_leader", "Whether this member leads.", |seen| {
        yes(seen.status.leads())
    }),
    gauge(
        "chainfire_is_learner",
        "etcd_server_is_learner",
        "Whether this member has no vote.",
        |seen| yes(seen.status.member(seen.status.me).is_some_and(|me| !me.voter)),
    ),
    gauge("chainfire_raft_term", "", "The term.", |seen| seen.status.term as f64),
    gauge("chainfire_raft_last_index", "", "The last index in the log.", |seen| {
        seen.status.last_index as f64
    }),
    gauge(
        "chainfire_raft_committed_index",
        "etcd_server_proposals_committed_total",
        "The last index that a quorum holds.",
        |seen| seen.status.committed as f64,
    ),
    gauge(
        "chainfire_raft_applied_index",
        "etcd_server_proposals_applied_total",
        "The last index that was applied.",
        |seen| seen.status.applied as f64,
    ),
    gauge(
        "chainfire_raft_persisted_index",
        "",
        "The last index that is durable in the engine.",
        |seen| seen.status.persisted as f64,
    ),
    gauge("chainfire_members", "", "Members, learners too.", |seen| {
        seen.status.members.len() as f64
    }),
    gauge("chainfire_learners", "", "Members without a vote.", |seen| {
        seen.status.members.iter().filter(|member| !member.voter).count() as f64
    }),
    gauge(
        "",
        "etcd_server_proposals_pending",
        "Writes that wait for the cluster, on this member.",
        |seen| seen.counts.pending as f64,
    ),
    counter(
        "",
        "etcd_server_proposals_failed_total",
        "Writes that were refused by the cluster or whose fate is not known.",
        |seen| seen.counts.failed as f64,
    ),
    counter(
        "",
        "etcd_server_leader_changes_seen_total",
        "How often this member saw another leader than before.",
        |seen| seen.counts.leader_changes as f64,
    ),
    gauge(
        "chainfire_revision",
        "etcd_debugging_mvcc_current_revision",
        "The present revision.",
        |seen| seen.reader.revision() as f64,
    ),
    gauge(
        "chainfire_compacted_revision",
        "etcd_debugging_mvcc_compact_revision",
        "The compaction revision; -1 before the first.",
        |seen| seen.reader.compacted() as f64,
    ),
    gauge(
        "chainfire_removed_revision",
        "",
        "The compaction whose space has been given back; behind chainfire_compacted_revision \
         while one is at work.",
        |seen| seen.reader.removed_revision() as f64,
    ),
    gauge("chainfire_keys", "etcd_debugging_mvcc_keys_total", "Live keys.", |seen| {
        seen.reader.keys() as f64
    }),
    gauge("chainfire_leases", "", "Leases.", |seen| seen.reader.lease_count() as f64),
    gauge(
        "chainfire_db_bytes",
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the engine on disk.",
        |seen| seen.reader.db_size() as f64,
    ),
    gauge(
        "chainfire_db_bytes_in_use",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of keys, values and history before compression, about; the quota looks at this.",
        |seen| seen.reader.db_size_in_use() as f64,
    ),
    gauge(
        "chainfire_db_quota_bytes",
        "etcd_server_quota_backend_bytes",
        "Beyond this the NOSPACE alarm is raised; 0 is no quota.",
        |seen| seen.quota_bytes as f64,
    ),
    gauge("chainfire_auth_enabled", "", "Whether users and roles count.", |seen| {
        yes(seen.auth.enabled())
    }),
    gauge(
        "chainfire_auth_revision",
        "etcd_debugging_auth_revision",
        "Grows with every change of users and roles.",
        |seen| seen.auth.revision() as f64,
    ),
    gauge("chainfire_users", "", "Users.", |seen| seen.auth.users().count() as f64),
    gauge("chainfire_roles", "", "Roles.", |seen| seen.auth.roles().count() as f64),
    gauge("chainfire_watch_streams", "", "Watch streams.", |seen| seen.hub.streams as f64),
    gauge("chainfire_watches", "etcd_debugging_mvcc_watcher_total", "Watches.", |seen| {
        seen.hub.watches as f64
    }),
    gauge(
        "chainfire_watch_streams_slow",
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watch streams that were too slow and read history now.",
        |seen| seen.hub.slow as f64,
    ),
    counter(
        "chainfire_watch_streams_lost_total",
        "",
        "How often a stream was too slow and went over to history.",
        |seen| seen.hub.lost as f64,
    ),
    gauge("chainfire_watch_queued_bytes", "", "Bytes that wait for watch streams.", |seen| {
        seen.hub.queued_bytes as f64
    }),
    gauge("chainfire_journal_queued", "", "Calls that wait to be written to the log.", |seen| {
        seen.journal.queued as f64
    }),
    gauge("chainfire_journal_segments", "", "Files of the log in use, 64 MiB each.", |seen| {
        seen.journal.segments as f64
    }),
    counter("chainfire_journal_bytes_total", "", "Bytes written to the log.", |seen| {
        seen.journal.bytes as f64
    }),
];

/// Figures of one name, one for each value of a label.
struct Labelled {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    kind: MetricType,
    read: fn(&Seen) -> Vec<(String, f64)>,
}

fn counted<const N: usize>(all: [(&str, Tally); N]) -> Vec<(String, f64)> {
    all.map(|(name, tally)| (name.to_owned(), tally.count() as f64)).into()
}

/// A figure of each namespace that has it.
fn namespaces(seen: &Seen, read: fn(&QuotaUsage, &Quota) -> Option<u64>) -> Vec<(String, f64)> {
    let figure = |usage: &QuotaUsage| {
        let quota = usage.quota.as_ref()?;
        Some((label_of(&quota.prefix), read(usage, quota)? as f64))
    };
    seen.quotas.iter().filter_map(figure).collect()
}

/// 0 is no limit: without a figure nothing is divided by it.
fn limit(limit: u64) -> Option<u64> {
    (limit > 0).then_some(limit)
}

/// A prefix as a label: as people read it, and of a long one the beginning and a hash, since two
/// namespaces must not look alike.
fn label_of(prefix: &[u8]) -> String {
    let whole: String = prefix.escape_ascii().to_string();
    if whole.len() <= LABEL_MAX {
        return whole;
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, prefix);
    let hash =
        hash.as_ref()[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("{}~{hash}", &whole[..LABEL_MAX])
}

const LABELLED: &[Labelled] = &[
    Labelled {
        name: "chainfire_alarms",
        help: "Alarms that are raised, by kind.",
        label: "alarm",
        kind: MetricType::GAUGE,
        read: |seen| {
            let alarms = [("nospace", AlarmType::Nospace), ("corrupt", AlarmType::Corrupt)];
            alarms.map(|(name, kind)| (name.to_owned(), seen.alarms(kind))).into()
        },
    },
    Labelled {
        name: "chainfire_namespace_keys",
        help: "Live keys of each namespace that has a quota.",
        label: "prefix",
        kind: MetricType::GAUGE,
        read: |seen| namespaces(seen, |usage, _| Some(usage.keys)),
    },
    Labelled {
        name: "chainfire_namespace_keys_limit",
        help: "Keys that a namespace may have; absent without such a limit.",
        label: "prefix",
        kind: MetricType::GAUGE,
        read: |seen| namespaces(seen, |_, quota| limit(quota.keys)),
    },
    Labelled {
        name: "chainfire_namespace_bytes",
        help: "Bytes of live keys and their values of each namespace that has a quota.",
        label: "prefix",
        kind: MetricType::GAUGE,
        read: |seen| namespaces(seen, |usage, _| Some(usage.bytes)),
    },
    Labelled {
        name: "chainfire_namespace_bytes_limit",
        help: "Bytes that a namespace may have; absent without such a limit.",
        label: "prefix",
        kind: MetricType::GAUGE,
        read: |seen| namespaces(seen, |_, quota| limit(quota.bytes)),
    },
    Labelled {
        name: "chainfire_quota_refusals_total",
        help: "Calls that were refused for a namespace's quota, by the limit that was reached.",
        label: "limit",
        kind: MetricType::COUNTER,
        read: |_| {
            counted([("keys", Tally::Keys), ("bytes", Tally::Bytes), ("requests", Tally::Requests)])
        },
    },
    Labelled {
        name: "chainfire_auth_refusals_total",
        help: "Calls that were refused for who asked: no permission, nobody, a bad token, a \
               login that failed.",
        label: "reason",
        kind: MetricType::COUNTER,
        read: |_| {
            counted([
                ("permission", Tally::Permission),
                ("nobody", Tally::Nobody),
                ("token", Tally::Token),
                ("login", Tally::Login),
            ])
        },
    },
];

/// Letters of a prefix in a label, at most.
const LABEL_MAX: usize = 128;
const SYNCS: [&str; 2] = ["chainfire_journal_sync_seconds", "etcd_disk_wal_fsync_duration_seconds"];
const SYNCS_HELP: &str = "Writing and syncing the log: the disk's part of every write.";

/// Figures of one member.
pub(crate) struct Gauges {
    node: Weak<Node>,
    hub: Weak<Hub>,
    journal: journal::Journal,
    descriptions: Vec<Desc>,
}

impl Gauges {
    pub(crate) fn register(
        registry: &Registry,
        node: Weak<Node>,
        hub: Weak<Hub>,
        journal: journal::Journal,
    ) -> Result<(), prometheus::Error> {
        let named =
            FIGURES.iter().flat_map(|figure| [(figure.name, figure), (figure.etcd, figure)]);
        let named = named.filter(|(name, _)| !name.is_empty());
        let mut described: Vec<(&str, &str)> =
            named.map(|(name, figure)| (name, figure.help)).collect();
        described.extend(SYNCS.map(|name| (name, SYNCS_HELP)));
        let described = described.into_iter().map(|(name, help)| (name, help, Vec::new()));
        let labelled = LABELLED.iter().map(|one| (one.name, one.help, vec![one.label.to_owned()]));
        let descriptions: Result<Vec<Desc>, _> = described
            .chain(labelled)
            .map(|(name, help, labels)| {
                Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
            })
            .collect();
        registry.register(Box::new(Gauges { node, hub, journal, descriptions: descriptions? }))
    }

    fn see(&self) -> Option<Seen> {
        let (node, hub) = (self.node.upgrade()?, self.hub.upgrade()?.stats());
        Some(Seen {
            status: node.group.status(),
            counts: node.group.counts(),
            hub,
            journal: self.journal.stats(),
            reader: node.reader.clone(),
            quota_bytes: node.quota_bytes,
            quotas: node.reader.quotas(),
            auth: node.reader.auth(),
            quorum: *node.quorum.borrow(),
        })
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(seen) = self.see() else { return Vec::new() };
        let mut families = Vec::new();
        for figure in FIGURES {
            let value = (figure.read)(&seen);
            for name in [figure.name, figure.etcd].into_iter().filter(|name| !name.is_empty()) {
                let metric = number(figure.kind, value, Vec::new());
                families.push(family(name, figure.help, figure.kind, vec![metric]));
            }
        }
        for one in LABELLED {
            let metrics = (one.read)(&seen).into_iter().map(|(value, figure)| {
                let mut label = LabelPair::default();
                label.set_name(one.label.to_owned());
                label.set_value(value);
                number(one.kind, figure, vec![label])
            });
            families.push(family(one.name, one.help, one.kind, metrics.collect()));
        }
        for name in SYNCS {
            let metric = syncs(&seen.journal);
            families.push(family(name, SYNCS_HELP, MetricType::HISTOGRAM, vec![metric]));
        }
        families
    }
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn number(kind: MetricType, value: f64, labels: Vec<LabelPair>) -> Metric {
    let mut metric = Metric::from_label(labels);
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

fn syncs(stats: &journal::Stats) -> Metric {
    let mut sum = 0;
    let bounds = SYNC_BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6);
    let buckets = bounds.zip(stats.sync_counts).map(|(bound, count)| {
        sum += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(sum);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(stats.sync_counts.iter().sum());
    histogram.set_sample_sum(stats.sync_micros as f64 / 1e6);
    let mut metric = Metric::from_label(Vec::new());
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_prefixes_have_one_label() {
        assert_eq!(label_of(b"team/"), "team/");
        assert_eq!(label_of(b"\xff\"\n"), "\\xff\\\"\\n");
        let long = vec![b'a'; 30_000];
        let (one, other) = (label_of(&long), label_of(&long[1..]));
        assert!(one != other && one.len() == other.len() && one.len() < 2 * LABEL_MAX);
    }
}
