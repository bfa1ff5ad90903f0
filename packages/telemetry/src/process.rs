//! Metrics of the process itself, read from /proc when they are asked for.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge, IntGaugeVec, Opts, Registry};

/// Kernel clock ticks a second: fixed at 100 for user space on every architecture of Linux we run on.
const TICKS: f64 = 100.0;
/// Bytes of a page in /proc/self/stat.
const PAGE: i64 = 4096;

/// Adds memory, CPU time, open files, threads, start time and the build to a registry. Doing it
/// twice is harmless.
pub fn process_metrics(registry: &Registry) {
    if let Some(process) = Process::new() {
        // The only refusal is a second registration.
        let _ = registry.register(Box::new(process));
    }
    let opts = Opts::new("plasma_build_info", "Version of this process; the value is always 1.");
    if let Ok(build) = IntGaugeVec::new(opts, &["service", "version"]) {
        build.with_label_values(&[crate::service(), crate::VERSION]).set(1);
        let _ = registry.register(Box::new(build));
    }
}

struct Process {
    rss: IntGauge,
    fds: IntGauge,
    threads: IntGauge,
    start: Gauge,
    cpu: Counter,
}

/// What one reading of /proc/self says.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    cpu_seconds: f64,
    threads: i64,
    start_ticks: f64,
    rss_bytes: i64,
}

impl Process {
    fn new() -> Option<Self> {
        Some(Self {
            rss: IntGauge::new("process_resident_memory_bytes", "Resident memory.").ok()?,
            fds: IntGauge::new("process_open_fds", "Open file descriptors.").ok()?,
            threads: IntGauge::new("process_threads", "Threads of the system.").ok()?,
            start: Gauge::new("process_start_time_seconds", "Start, seconds since 1970.").ok()?,
            cpu: Counter::new("process_cpu_seconds_total", "CPU time, user and system.").ok()?,
        })
    }

    fn parts(&self) -> [&dyn Collector; 5] {
        [&self.rss, &self.fds, &self.threads, &self.start, &self.cpu]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(now) = fs::read_to_string("/proc/self/stat").ok().and_then(|s| parse_stat(&s)) {
            self.rss.set(now.rss_bytes);
            self.threads.set(now.threads);
            self.cpu.inc_by((now.cpu_seconds - self.cpu.get()).max(0.0));
            if let Some(boot) = boot_time() {
                self.start.set(boot + now.start_ticks / TICKS);
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The listing itself holds one.
            self.fds.set(open.count().saturating_sub(1) as i64);
        }
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

/// The command in parentheses may contain anything, so fields are counted from its end.
fn parse_stat(stat: &str) -> Option<Reading> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    Some(Reading {
        cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS,
        threads: field(20)?,
        start_ticks: field(22)? as f64,
        rss_bytes: field(24)? * PAGE,
    })
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 9 0 1000 4096 25 0";
        let read = parse_stat(stat).unwrap();
        let expected =
            Reading { cpu_seconds: 2.0, threads: 9, start_ticks: 1000.0, rss_bytes: 25 * 4096 };
        assert_eq!(read, expected);
        assert_eq!(parse_stat("garbage"), None);
        assert_eq!(parse_stat("7 (x) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_files_and_a_start() {
        let registry = Registry::new();
        process_metrics(&registry);
        process_metrics(&registry);
        let values: std::collections::BTreeMap<String, f64> = registry
            .gather()
            .iter()
            .map(|family| {
                let metric = &family.get_metric()[0];
                let value = metric.get_gauge().get_value() + metric.get_counter().get_value();
                (family.name().to_owned(), value)
            })
            .collect();
        assert!(values["process_resident_memory_bytes"] > 100_000.0, "{values:?}");
        assert!(values["process_open_fds"] >= 3.0, "{values:?}");
        assert!(values["process_threads"] >= 1.0, "{values:?}");
        assert!(values["process_start_time_seconds"] > 1.0e9, "{values:?}");
        assert_eq!(values["plasma_build_info"], 1.0);
    }
}
