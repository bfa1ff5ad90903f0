//! How long what took, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use bootserver::wire::NodeStatus;

use crate::machine::Machine;

/// A machine's way from power-on.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// The node.
    pub node: String,
    /// After power-on: what the console showed, by name.
    pub marks: BTreeMap<&'static str, Duration>,
    /// After power-on: the agent reported that the node has joined.
    pub joined: Option<Duration>,
    /// Processor time that emulating it has taken since power-on.
    pub cpu: Duration,
    /// How long each step took.
    pub steps: BTreeMap<String, Duration>,
}

/// The steps in their order.
pub const STEPS: [&str; 11] = [
    "identify", "clock", "network", "disk", "install", "identity", "enroll", "join", "services",
    "gates", "bless",
];

/// What is shown of the console, in its order.
pub const MARKS: [&str; 5] = ["rom", "kernel", "systemd", "agent", "bare"];

/// Of a machine and what the boot server knows of it.
pub fn times(machine: &Machine, status: Option<&NodeStatus>) -> Times {
    let marks = MARKS.into_iter().filter_map(|name| Some((name, machine.console.mark(name)?)));
    let report = status.and_then(|status| status.report.as_ref());
    let mut times = Times {
        node: machine.spec.name.clone(),
        marks: marks.collect(),
        cpu: machine.cpu(),
        ..Times::default()
    };
    if let Some(report) = report {
        let joined = crate::joined(status.unwrap_or(&NodeStatus::default()), machine);
        if joined {
            let millis = report.received.saturating_sub(machine.powered_unix());
            times.joined = Some(Duration::from_millis(millis));
        }
        times.steps = report
            .progress
            .phases
            .iter()
            .map(|(step, millis)| (step.clone(), Duration::from_millis(*millis)))
            .collect();
    }
    times
}

/// The table: a column for each machine, with a title, and ratios to `bare` (seconds from power-on
/// to a system without the agent) where that was measured.
pub fn table(columns: &[(String, Times)], bare: Option<Duration>) -> String {
    let mut text = String::new();
    let _ = write!(text, "{:<22}", "seconds");
    for (title, _) in columns {
        let _ = write!(text, "{title:>12}");
    }
    text.push('\n');
    let mut row = |name: &str, cell: &dyn Fn(&Times) -> Option<String>| {
        let cells: Vec<Option<String>> = columns.iter().map(|(_, times)| cell(times)).collect();
        if cells.iter().all(Option::is_none) {
            return;
        }
        let _ = write!(text, "{name:<22}");
        for cell in cells {
            let _ = write!(text, "{:>12}", cell.unwrap_or_else(|| "-".to_owned()));
        }
        text.push('\n');
    };
    let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
    for mark in MARKS {
        let name = match mark {
            "rom" => "power-on to iPXE",
            "kernel" => "power-on to kernel",
            "systemd" => "power-on to systemd",
            "agent" => "power-on to agent",
            _ => "power-on to bare boot",
        };
        row(name, &|times| times.marks.get(mark).copied().map(seconds));
    }
    for step in STEPS {
        row(&format!("  step {step}"), &|times| times.steps.get(step).copied().map(seconds));
    }
    row("power-on to joined", &|times| times.joined.map(seconds));
    if let Some(bare) = bare.filter(|bare| !bare.is_zero()) {
        row("joined / bare boot", &|times| {
            times.joined.map(|time| format!("{:.2}", time.as_secs_f64() / bare.as_secs_f64()))
        });
    }
    row("processor time", &|times| Some(seconds(times.cpu)));
    text
}

/// How much longer several machines took `together` than one `alone`, and how much longer they
/// must take on so few cores, since emulating them is work for the cores.
pub fn together(together: &[Times], alone: Duration, cores: usize) -> Option<String> {
    let seconds = alone.as_secs_f64();
    let ratio = all_joined(together)?.as_secs_f64() / seconds;
    let work: Duration = together.iter().map(|times| times.cpu).sum();
    let least = work.as_secs_f64() / cores as f64 / seconds;
    Some(format!(
        "{} machines together / one alone: {ratio:.2} (their {:.0} s of processor time on {cores} \
         cores make no less than {least:.2})",
        together.len(),
        work.as_secs_f64(),
    ))
}

/// When the last of them had joined.
pub fn all_joined(times: &[Times]) -> Option<Duration> {
    times.iter().map(|times| times.joined).collect::<Option<Vec<_>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_set_a_floor() {
        let one = |joined, cpu| Times {
            joined: Some(Duration::from_secs(joined)),
            cpu: Duration::from_secs(cpu),
            ..Times::default()
        };
        let all = [one(90, 60), one(100, 60), one(95, 60)];
        let line = together(&all, Duration::from_secs(80), 2);
        let expected = "3 machines together / one alone: 1.25 (their 180 s of processor time on 2 \
                        cores make no less than 1.12)";
        assert_eq!(line.as_deref(), Some(expected));
        let unfinished = [one(90, 60), Times::default()];
        assert_eq!(together(&unfinished, Duration::from_secs(80), 2), None);
    }
}
