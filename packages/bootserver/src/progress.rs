//! The nodes' reports: the latest of each, bounded in size, number and rate. Pure.
//!
//! Anybody on the network can report before a node has its certificate. Such a report is marked,
//! kept apart, and decides nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fault::{Fault, Kind};
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::wire::{Progress, Report};

/// The states that a step can be in.
pub const STATES: [&str; 6] = ["pending", "running", "waiting", "failed", "done", "off"];
const MAX_NAME: usize = 32;
const MAX_DETAIL: usize = 1024;
const MAX_PHASES: usize = 32;
/// Two reports a step, thirteen steps, and some waiting: a node needs no more.
const VERIFIED: Rate = Rate { burst: 60.0, per_second: 5.0 };
const UNVERIFIED: Rate = Rate { burst: 30.0, per_second: 2.0 };

/// The latest reports; only nodes of the inventory have a place, so the number is bounded by it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reports {
    nodes: BTreeMap<String, Slots>,
    #[serde(skip)]
    buckets: BTreeMap<(String, bool), Bucket>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Slots {
    verified: Option<Report>,
    unverified: Option<Report>,
}

impl Reports {
    /// Takes a report of a node that is in the inventory.
    pub(crate) fn take(
        &mut self,
        progress: Progress,
        verified: bool,
        unix_millis: u64,
        now: Instant,
    ) -> Result<(), Fault> {
        let progress = check(progress)?;
        let rate = if verified { VERIFIED } else { UNVERIFIED };
        let bucket = self.buckets.entry((progress.node.clone(), verified));
        if !bucket.or_insert_with(|| Bucket::full(rate, now)).take(rate, now) {
            return Err(Fault::new(
                codes::TOO_MANY,
                Kind::Exhausted,
                format!("too many reports of node {:?}", progress.node),
                "report when something changes, and again later",
            ));
        }
        let slots = self.nodes.entry(progress.node.clone()).or_default();
        let report = Report { progress, verified, received: unix_millis };
        if verified {
            // what came before the certificate is history
            *slots = Slots { verified: Some(report), unverified: None };
        } else {
            slots.unverified = Some(report);
        }
        Ok(())
    }

    /// The latest report of a node: a verified one if there is any, else what anybody said.
    pub(crate) fn latest(&self, node: &str) -> Option<&Report> {
        let slots = self.nodes.get(node)?;
        slots.verified.as_ref().or(slots.unverified.as_ref())
    }

    /// What anybody has said since the latest verified report: a node that lost its folder, or
    /// somebody who pretends to be it.
    pub(crate) fn claimed(&self, node: &str) -> Option<&Report> {
        let slots = self.nodes.get(node)?;
        slots.unverified.as_ref().filter(|_| slots.verified.is_some())
    }

    /// Drops the nodes that the inventory has no longer.
    pub(crate) fn keep(&mut self, known: impl Fn(&str) -> bool) {
        self.nodes.retain(|node, _| known(node));
        self.buckets.retain(|(node, _), _| known(node));
    }
}

fn check(mut progress: Progress) -> Result<Progress, Fault> {
    let refuse = |what: String| {
        Err(Fault::new(
            codes::BAD_REPORT,
            Kind::Invalid,
            what,
            "report the step, its state and a short detail",
        ))
    };
    let is_name = |text: &str| {
        matches!(text.len(), 1..=MAX_NAME) && text.bytes().all(|b| b.is_ascii_graphic())
    };
    if !is_name(&progress.step) {
        return refuse("the report's step is no name".to_owned());
    }
    if !STATES.contains(&progress.state.as_str()) {
        return refuse(format!("the report's state is none of {}", STATES.join(", ")));
    }
    if progress.phases.len() > MAX_PHASES || !progress.phases.keys().all(|k| is_name(k)) {
        return refuse(format!("the report's phases are more than {MAX_PHASES}, or misnamed"));
    }
    // shown on an operator's terminal: no control characters may reach it
    progress.detail = progress
        .detail
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_DETAIL)
        .collect();
    Ok(progress)
}

/// So many at once, and so many in the long run.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) burst: f64,
    pub(crate) per_second: f64,
}

/// What is left of a [`Rate`].
#[derive(Debug)]
pub(crate) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Bucket {
        Bucket { left: rate.burst, at: now }
    }

    /// Whether there is something left.
    pub(crate) fn left(&mut self, rate: Rate, now: Instant) -> bool {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.left = (self.left + passed.as_secs_f64() * rate.per_second).min(rate.burst);
        self.at = now;
        self.left >= 1.0
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let enough = self.left(rate, now);
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(node: &str) -> Progress {
        Progress {
            node: node.into(),
            step: "enroll".into(),
            state: "running".into(),
            detail: String::new(),
            generation: 1,
            phases: BTreeMap::new(),
            uptime_millis: 0,
        }
    }

    #[test]
    fn a_node_with_a_certificate_ends_what_anybody_said() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        reports.take(progress("a"), false, 1, now).unwrap();
        assert!(!reports.latest("a").unwrap().verified);
        reports.take(progress("a"), true, 2, now).unwrap();
        assert!(reports.latest("a").unwrap().verified);
        assert_eq!(reports.claimed("a"), None);
        reports.take(progress("a"), false, 3, now).unwrap();
        assert!(reports.latest("a").unwrap().verified, "nobody can speak for the node");
        assert_eq!(reports.claimed("a").map(|report| report.received), Some(3));
        assert_eq!(reports.latest("b"), None);
        reports.keep(|_| false);
        assert_eq!(reports.latest("a"), None);
    }

    #[test]
    fn floods_are_refused_and_hurt_nobody_else() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        let taken =
            (0..1000).filter(|_| reports.take(progress("a"), false, 1, now).is_ok()).count();
        assert_eq!(taken, 30);
        let fault = reports.take(progress("a"), false, 1, now).unwrap_err();
        assert_eq!(fault.code, codes::TOO_MANY);
        reports.take(progress("a"), true, 1, now).unwrap();
        reports.take(progress("b"), false, 1, now).unwrap();
        reports.take(progress("a"), false, 1, now + Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn sizes_are_bounded_and_terminals_are_safe() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        let mut long = progress("a");
        long.detail = format!("\u{1b}[2J{}", "x".repeat(5000));
        reports.take(long, true, 1, now).unwrap();
        let kept = &reports.latest("a").unwrap().progress.detail;
        assert!(kept.len() == MAX_DETAIL && kept.starts_with(" [2J"), "{kept}");
        let wrong: [fn(&mut Progress); 4] = [
            |p| p.step = "x".repeat(33),
            |p| p.step = String::new(),
            |p| p.state = "dancing".into(),
            |p| p.phases = (0..33).map(|i| (i.to_string(), 1)).collect(),
        ];
        for spoil in wrong {
            let mut bad = progress("a");
            spoil(&mut bad);
            assert_eq!(reports.take(bad, true, 1, now).unwrap_err().code, codes::BAD_REPORT);
        }
    }
}
