//! Keeps the node's services running in process mode: starts them, starts them again when they
//! die, stops them with the agent.
//!
//! A service holds the read end of a pipe as its standard input (`--lifeline`). When the agent
//! dies, however it dies, the pipe closes and the service stops by itself: no orphan keeps a port.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rpc::Backoff;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A service's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// As in logs.
    pub name: &'static str,
    /// The binary.
    pub bin: PathBuf,
    /// Its settings file.
    pub config: PathBuf,
}

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// Not started yet, or stopped.
    No,
    /// Since when, and as which process.
    Yes {
        /// Process id.
        pid: u32,
    },
    /// It ended by itself; the text says how.
    Ended(String),
}

/// One service under supervision. Dropping it kills the service.
#[derive(Debug)]
pub struct Supervised {
    state: watch::Receiver<Running>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// A service that ran this long was healthy: its next death is answered at once.
const SETTLED: Duration = Duration::from_secs(30);

impl Supervised {
    /// Starts the service and keeps it running.
    pub fn start(service: Service) -> Self {
        let (tell, state) = watch::channel(Running::No);
        let stop = CancellationToken::new();
        let task = tokio::spawn(supervise(service, tell, stop.clone()));
        Supervised { state, stop, task }
    }

    /// How it stands now.
    pub fn running(&self) -> Running {
        self.state.borrow().clone()
    }

    /// Asks the service to stop, waits, and kills it when it does not.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "supervision of a service ended badly");
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // the task owns the child, and a child that is dropped is killed
        self.task.abort();
    }
}

async fn supervise(service: Service, tell: watch::Sender<Running>, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let began = Instant::now();
        let how = match spawn(&service) {
            Err(error) => format!("cannot start {}: {error}", service.bin.display()),
            Ok(mut child) => {
                let pid = child.id().unwrap_or_default();
                tracing::info!(service = service.name, pid, "started");
                tell.send_replace(Running::Yes { pid });
                // held apart from the child: waiting for a child closes its standard input
                let lifeline = child.stdin.take();
                tokio::select! {
                    ended = child.wait() => match ended {
                        Ok(status) => status.to_string(),
                        Err(error) => error.to_string(),
                    },
                    () = stop.cancelled() => {
                        drop(lifeline);
                        end(&service, child).await;
                        tell.send_replace(Running::No);
                        return;
                    }
                }
            }
        };
        if stop.is_cancelled() {
            return;
        }
        if began.elapsed() > SETTLED {
            backoff.reset();
        }
        let pause = backoff.next();
        tracing::warn!(service = service.name, %how, ?pause, "ended by itself, starting it again");
        tell.send_replace(Running::Ended(how));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn spawn(service: &Service) -> std::io::Result<Child> {
    Command::new(&service.bin)
        .arg("--config")
        .arg(&service.config)
        .arg("--lifeline")
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// The lifeline is closed, which asks the service to stop in order.
async fn end(service: &Service, mut child: Child) {
    match tokio::time::timeout(STOP_DEADLINE, child.wait()).await {
        Ok(Ok(status)) => tracing::info!(service = service.name, %status, "stopped"),
        Ok(Err(error)) => tracing::error!(service = service.name, %error, "cannot wait for it"),
        Err(_) => {
            tracing::error!(service = service.name, "did not stop in time and was killed");
            let _ = child.kill().await;
        }
    }
}
