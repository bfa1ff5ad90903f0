//! Progress for people who stand before the machine: one line when a step ends, waits or fails.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steps::{Ledger, Outcome, Step};

use crate::{Settings, kernel};

/// Where the lines go, and what was said last.
pub(crate) struct Console {
    settings: Arc<Settings>,
    path: Option<PathBuf>,
    at: Option<(Step, Instant)>,
    said: Option<(Step, Outcome)>,
}

impl Console {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let path = settings.console();
        Console { settings, path, at: None, said: None }
    }

    /// Shows what changed since the last time.
    pub(crate) fn show(&mut self, node: Option<&str>, ledger: &Ledger) {
        let now = Instant::now();
        // steps end one at a time: what was under way is looked at first, then what is now
        for step in [self.at.map(|(step, _)| step), current(ledger)].into_iter().flatten() {
            let Some(record) = ledger.steps.get(&step) else { continue };
            if self.at.is_none_or(|(last, _)| last < step) {
                self.at = Some((step, now));
            }
            let told = (step, record.outcome.clone());
            if self.said.as_ref() == Some(&told) {
                continue;
            }
            let began = self.at.map_or(now, |(_, began)| began);
            if let Some(words) = words(&record.outcome, now - began) {
                self.line(node, step.name(), &words);
            }
            self.said = Some(told);
        }
    }

    /// One line; a console that cannot be written to holds up nothing.
    pub(crate) fn line(&self, node: Option<&str>, step: &str, words: &str) {
        let Some(path) = &self.path else { return };
        let up = kernel::uptime(&self.settings.machine).as_secs_f64();
        let name = node.unwrap_or("?");
        let line = format!("[{up:7.1} s] {name:<8} {step:<9} {words}\r\n");
        let written = OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut console| console.write_all(line.as_bytes()));
        if let Err(error) = written {
            tracing::debug!(%error, path = %path.display(), "the console was not written to");
        }
    }
}

/// The last step that was begun and is in the plan.
fn current(ledger: &Ledger) -> Option<Step> {
    let in_plan = |outcome: &Outcome| !matches!(outcome, Outcome::Off { .. });
    let mut steps = ledger.steps.iter().filter(|(_, record)| in_plan(&record.outcome));
    // a ledger of an earlier run may be ahead of this one
    steps.find(|(_, record)| record.outcome != Outcome::Done).or(steps.next_back()).map(|(s, _)| *s)
}

fn words(outcome: &Outcome, took: Duration) -> Option<String> {
    match outcome {
        Outcome::Running | Outcome::Off { .. } => None,
        Outcome::Done => Some(format!("done in {:.1} s", took.as_secs_f64())),
        Outcome::Waiting { reason } => Some(format!("waits: {reason}")),
        Outcome::Failed { code, what, hint } => Some(format!("FAILED {code} {what}; {hint}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_when_a_step_ends_waits_or_fails() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("console");
        std::fs::write(&path, "").expect("a console");
        let text = format!("bootserver = \"https://x\"\nca = \"ca\"\nconsole = {path:?}\n");
        let settings = settings::parse(std::path::Path::new("x.toml"), &text).expect("settings");
        let mut console = Console::new(Arc::new(settings));
        let mut ledger = Ledger::default();
        let mut note = |step, outcome, node| {
            ledger.note(step, outcome, 0, false);
            console.show(node, &ledger);
            console.show(node, &ledger);
        };
        let waits = || Outcome::Waiting { reason: "no link".into() };
        note(Step::Identify, Outcome::Running, None);
        note(Step::Identify, waits(), None);
        note(Step::Identify, waits(), None);
        note(Step::Identify, Outcome::Done, Some("node01"));
        note(Step::Clock, Outcome::Running, Some("node01"));
        note(Step::Clock, Outcome::Done, Some("node01"));
        note(Step::Disk, Outcome::Running, Some("node01"));
        let failed = ["FB-2003", "vda holds data", "consent"].map(str::to_owned);
        let [code, what, hint] = failed;
        note(Step::Disk, Outcome::Failed { code, what, hint }, Some("node01"));
        let text = std::fs::read_to_string(&path).expect("the console");
        let said: Vec<&str> =
            text.lines().filter_map(|line| line.split_once("s] ")?.1.into()).collect();
        let (waits, fails) = ("waits: no link", "FAILED FB-2003 vda holds data; consent");
        let expected = [
            format!("?        identify  {waits}"),
            "node01   identify  done in 0.0 s".to_owned(),
            "node01   clock     done in 0.0 s".to_owned(),
            format!("node01   disk      {fails}"),
        ];
        assert_eq!(said, expected);
    }
}
