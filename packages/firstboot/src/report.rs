//! Tells the boot server where the node is. Progress informs: a lost report stops nothing.

use std::sync::Arc;
use std::time::Duration;

use bootserver::wire::Progress;
use fault::Fault;
use steps::{Ledger, Outcome, Step};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bootserver::BootServer;
use crate::{Settings, enroll, kernel};

/// Sends the latest state, and only the latest: what was not sent yet is overtaken.
pub struct Reporter {
    settings: Arc<Settings>,
    tell: watch::Sender<Option<Progress>>,
    task: JoinHandle<()>,
}

/// How long the last report may hold up the agent's end.
const LAST: Duration = Duration::from_secs(2);
/// A report that was not taken is sent again after this long.
const AGAIN: Duration = Duration::from_secs(2);

impl Reporter {
    /// Reports until `stop`.
    pub fn start(settings: Arc<Settings>, stop: CancellationToken) -> Self {
        let (tell, told) = watch::channel(None);
        let task = tokio::spawn(send(settings.clone(), told, stop));
        Reporter { settings, tell, task }
    }

    /// The ledger changed.
    pub fn tell(&self, node: Option<&str>, ledger: &Ledger) {
        if let Some(node) = node {
            let up = kernel::uptime(&self.settings.machine);
            self.tell.send_replace(Some(progress(node, ledger, up)));
        }
    }

    /// Waits for the task; the latest report is sent if that works at once.
    pub async fn stop(self) {
        let Reporter { tell, task, .. } = self;
        drop(tell);
        let _ = tokio::time::timeout(LAST, task).await;
    }
}

fn progress(node: &str, ledger: &Ledger, up: Duration) -> Progress {
    // what a disk's ledger says of later steps is of an earlier run: the node is where the first
    // step is that is not done
    let mut known = ledger.steps.iter().filter(|(_, r)| !matches!(r.outcome, Outcome::Off { .. }));
    let current = known.clone().find(|(_, record)| record.outcome != Outcome::Done);
    let latest = current.or_else(|| known.next_back());
    let (step, state, detail) = match latest.map(|(step, record)| (*step, &record.outcome)) {
        Some((step, Outcome::Running)) => (step, "running", String::new()),
        Some((step, Outcome::Waiting { reason })) => (step, "waiting", reason.clone()),
        Some((step, Outcome::Failed { code, what, hint })) => {
            (step, "failed", format!("{code} {what}, {hint}"))
        }
        Some((step, Outcome::Done | Outcome::Off { .. })) => (step, "done", String::new()),
        None => (Step::Identify, "running", String::new()),
    };
    let phases = ledger
        .steps
        .iter()
        .filter(|(_, record)| record.outcome == Outcome::Done)
        .map(|(step, record)| (step.name().to_owned(), record.millis))
        .collect();
    Progress {
        node: node.to_owned(),
        step: step.name().to_owned(),
        state: state.to_owned(),
        detail,
        generation: ledger.generation,
        phases,
        uptime_millis: up.as_millis() as u64,
    }
}

async fn send(
    settings: Arc<Settings>,
    mut told: watch::Receiver<Option<Progress>>,
    stop: CancellationToken,
) {
    let mut line = None;
    while told.changed().await.is_ok() {
        loop {
            let Some(progress) = told.borrow_and_update().clone() else { break };
            match attempt(&settings, &mut line, &progress).await {
                Ok(()) => break,
                Err(fault) => tracing::debug!(%fault, "progress was not taken"),
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Over the connection of the report before it, where there is one: handshakes cost.
async fn attempt(
    settings: &Settings,
    line: &mut Option<(bool, BootServer)>,
    progress: &Progress,
) -> Result<(), Fault> {
    let own = enroll::tls_files(settings, "node");
    let certified = own.cert.exists();
    let server = match line.take() {
        Some((with, server)) if with == certified => server,
        _ => BootServer::new(settings, certified.then_some(&own))?,
    };
    server.progress(progress).await?;
    *line = Some((certified, server));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_goes_on_with_an_older_ledger_is_where_this_run_is() {
        let mut ledger = Ledger::default();
        ledger.note(Step::Disk, Outcome::Done, 1, false);
        ledger.note(Step::Install, Outcome::Running, 0, false);
        ledger.note(Step::Bless, Outcome::Done, 1, false);
        let at = progress("node01", &ledger, Duration::ZERO);
        assert_eq!((at.step.as_str(), at.state.as_str()), ("install", "running"));
        ledger.note(Step::Install, Outcome::Done, 1, false);
        let at = progress("node01", &ledger, Duration::ZERO);
        assert_eq!((at.step.as_str(), at.state.as_str()), ("bless", "done"));
    }
}
