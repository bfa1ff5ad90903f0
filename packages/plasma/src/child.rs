//! One child process, kept running: started again with back-off when it ends, stopped in order.
//!
//! The child holds the read end of a pipe as its standard input (`--lifeline`), so that it stops by
//! itself however this process ends; it is in a process group of its own, so that Ctrl-C on the
//! terminal reaches this process alone, which stops all in order.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use fault::Fault;
use rpc::Backoff;
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::home::folder;
use crate::process::{self, Process};

/// Longer than the child's own grace times, so that it is never killed while it stops in order.
const PATIENCE: Duration = Duration::from_secs(25);
/// A child that ran this long was well: its end is answered at once again.
const WELL: Duration = Duration::from_secs(30);
const MAX_LOG: u64 = 16 << 20;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// As in messages and for the log file.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) log: PathBuf,
}

/// What happened to a child, for people.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Runs the task until `stop`; `before` is called before each start, and its fault is a reason
/// to try again later.
pub(crate) async fn keep<F>(
    task: Task,
    mut before: impl FnMut() -> F,
    notices: mpsc::Sender<Notice>,
    stop: CancellationToken,
) where
    F: Future<Output = Result<(), Fault>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    while !stop.is_cancelled() {
        let began = Instant::now();
        let prepared = tokio::select! {
            prepared = before() => prepared,
            () = stop.cancelled() => return,
        };
        let why = match prepared.and_then(|()| spawn(&task)) {
            Err(fault) => fault.to_string(),
            Ok(child) => match run(child, &stop).await {
                None => return,
                Some(status) => format!("ended with {status}; its log: {}", task.log.display()),
            },
        };
        if began.elapsed() > WELL {
            backoff.reset();
        }
        let pause = backoff.next();
        let text = format!("{why}; starting it again in {:.1} s", pause.as_secs_f64());
        // a full queue means that nobody reads; the log has it all
        let _ = notices.try_send(Notice { name: task.name.clone(), text });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Waits for the child; `None` when it was stopped because it was asked to.
async fn run(mut child: Child, stop: &CancellationToken) -> Option<ExitStatus> {
    // held apart from the child: waiting for a child closes its standard input
    let lifeline = child.stdin.take();
    tokio::select! {
        status = child.wait() => Some(status.unwrap_or_default()),
        () = stop.cancelled() => {
            drop(lifeline);
            end(child).await;
            None
        }
    }
}

async fn end(mut child: Child) {
    let seen = child.id().and_then(Process::of);
    if let Some(process) = &seen {
        process.signal(Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn spawn(task: &Task) -> Result<Child, Fault> {
    let log = open_log(&task.log)?;
    let clone = log.try_clone().map_err(|e| folder("open", &task.log, &e))?;
    Command::new(&task.program)
        .arg("--config")
        .arg(&task.config)
        .arg("--lifeline")
        .stdin(Stdio::piped())
        .stdout(clone)
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|e| folder("start", &task.program, &e))
}

/// Opens a log to append to it; one that has grown large makes room for a new one first.
pub(crate) fn open_log(path: &Path) -> Result<File, Fault> {
    if path.metadata().is_ok_and(|metadata| metadata.len() > MAX_LOG) {
        let old = path.with_extension("log.1");
        std::fs::rename(path, &old).map_err(|e| folder("rename", path, &e))?;
    }
    File::options().create(true).append(true).open(path).map_err(|e| folder("open", path, &e))
}

/// Ends processes that nobody supervises any more: they stop by themselves when their lifeline
/// closes; whoever does not is killed.
pub(crate) async fn end_orphans(orphans: Vec<Process>, patience: Duration) -> Vec<Process> {
    let left = process::wait_gone(orphans, patience).await;
    for process in &left {
        process.signal(Signal::KILL);
    }
    process::wait_gone(left, Duration::from_secs(5)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn script(dir: &Path, text: &str) -> Task {
        use std::os::unix::fs::PermissionsExt as _;
        let program = dir.join("child");
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (config, log) = (dir.join("config"), dir.join("child.log"));
        Task { name: "child".into(), program, config, log }
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_and_stops_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let task = script(dir.path(), "echo started \"$@\"; exit 3");
        let log = task.log.clone();
        let (tell, mut told) = mpsc::channel(8);
        let (stop, starts) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&starts);
        let before = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(()))
        };
        let kept = tokio::spawn(keep(task, before, tell, stop.clone()));
        let first = told.recv().await.unwrap();
        assert!(first.text.contains("exit status: 3"), "{}", first.text);
        told.recv().await.unwrap();
        stop.cancel();
        kept.await.unwrap();
        assert!(starts.load(Ordering::SeqCst) >= 2);
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("started --config") && log.contains("--lifeline"), "{log}");
    }

    #[tokio::test]
    async fn a_stop_lets_the_child_finish() {
        let dir = tempfile::tempdir().unwrap();
        let text = "trap 'echo asked; exit 0' TERM\necho up\nwhile :; do sleep 0.02; done";
        let task = script(dir.path(), text);
        let log = task.log.clone();
        let (tell, _told) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let before = || std::future::ready(Ok(()));
        let kept = tokio::spawn(keep(task, before, tell, stop.clone()));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string(&log).unwrap_or_default().contains("up") {
            assert!(Instant::now() < deadline, "the child does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
        kept.await.unwrap();
        assert!(std::fs::read_to_string(&log).unwrap().contains("asked"));
    }
}
