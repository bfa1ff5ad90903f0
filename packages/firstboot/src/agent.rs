//! Drives a run: asks the pure engine what is next, does it, writes the ledger, reports.

use std::future::Future;
use std::time::{Duration, Instant};

use fault::{Fault, Kind};
use steps::{Failure, Machine, Next, Outcome, Probe, Step, Told};
use tokio_util::sync::CancellationToken;

use crate::codes;
use crate::console::Console;
use crate::files;
use crate::node::{Node, RESCUE};
use crate::report::Reporter;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every step is true.
    Blessed,
    /// The operator wants to get in, and can.
    Rescue,
    /// A step failed for good.
    Failed(Step, Failure),
    /// The agent was told to stop.
    Stopped,
}

/// Runs the steps until all are true, one failed, or `stop`. Whatever happened before, running
/// again goes on where the world is, since every step is probed first.
///
/// # Errors
/// When the ledger cannot be written: the agent must not act without being able to say so.
pub async fn run(
    node: &mut Node,
    reporter: &Reporter,
    stop: &CancellationToken,
) -> Result<Ending, Fault> {
    node.resume().await?;
    let path = node.settings.ledger();
    let (plan, off) = node.plan();
    let clock = Instant::now();
    let ledger = files::read_ledger(&path)?.unwrap_or_default();
    let mut machine = Machine::new(plan, &off, ledger, Duration::ZERO, rand::random());
    let mut written = 0;
    let mut console = Console::new(node.settings.clone());
    loop {
        let ledger = machine.ledger();
        if ledger.generation != written {
            files::write(&path, ledger.encode().as_bytes())?;
            written = ledger.generation;
            reporter.tell(node.name(), ledger);
            console.show(node.name(), ledger);
        }
        let next = machine.next();
        let told = match next.clone() {
            Next::Done if node.is_rescue() => {
                tracing::info!("rescue: operators can log in, nothing else is done");
                return Ok(Ending::Rescue);
            }
            Next::Done => {
                tracing::info!("blessed: this node is a working member");
                return Ok(Ending::Blessed);
            }
            Next::Stopped(step, failure) => {
                tracing::error!(%step, code = failure.code, hint = failure.hint, "{}", failure.what);
                return Ok(Ending::Failed(step, failure));
            }
            Next::Pause(step, pause) => {
                log_waiting(&machine, step);
                if within(stop, tokio::time::sleep(pause)).await.is_none() {
                    return Ok(Ending::Stopped);
                }
                machine.paused();
                continue;
            }
            Next::Probe(step) | Next::Verify(step) => {
                let Some(seen) = within(stop, node.probe(step)).await else {
                    return Ok(Ending::Stopped);
                };
                if seen == Ok(Probe::True) {
                    tracing::info!(%step, "true");
                }
                seen.map(Told::Saw)
            }
            Next::Act(step) => {
                tracing::info!(%step, "acting");
                let Some(done) = within(stop, node.act(step)).await else {
                    return Ok(Ending::Stopped);
                };
                done.map(|()| Told::Acted)
            }
        };
        let told = told.unwrap_or_else(|fault| Told::Failed(failure(fault)));
        let is_true = told == Told::Saw(Probe::True);
        let last = machine.ledger().clone();
        machine.tell(told, clock.elapsed());
        match next {
            Next::Probe(Step::Identify) if is_true && node.is_rescue() => {
                machine.keep_only(&RESCUE, "rescue");
            }
            Next::Probe(Step::Disk) | Next::Verify(Step::Disk) if is_true => {
                // written by this run's last step, unless another folder came to light
                if let Some(older) = node.settle(&last)? {
                    tracing::info!(
                        generation = older.generation,
                        "going on with the disk's ledger"
                    );
                    machine.go_on_from(&older);
                }
            }
            _ => {}
        }
    }
}

async fn within<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stop.cancelled() => None,
    }
}

/// One line when the reason changes, not one per try.
fn log_waiting(machine: &Machine, step: Step) {
    if let Some(record) = machine.ledger().steps.get(&step)
        && let Outcome::Waiting { reason } = &record.outcome
    {
        tracing::debug!(%step, %reason, "waiting");
    }
}

fn failure(fault: Fault) -> Failure {
    Failure {
        again: fault.kind.passes(),
        code: fault.code.to_string(),
        what: fault.what,
        hint: fault.hint,
    }
}

/// A fault of the state folder.
pub(crate) fn state_fault(what: String) -> Fault {
    Fault::new(
        codes::STATE,
        Kind::Internal,
        what,
        "the state folder must be on a disk with room that firstboot may write to",
    )
}
