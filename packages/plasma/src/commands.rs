//! `status`, `down`, `destroy`, `logs`: each a short command on a folder.
#![allow(clippy::print_stderr)] // a command speaks to people

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fault::{Fault, Kind};
use rustix::process::Signal;

use crate::child::end_orphans;
use crate::codes;
use crate::home::{Home, folder};
use crate::overview::{Observer, Overview};
use crate::print::{self, Output, render};
use crate::process::Process;
use crate::remote::Remote;
use crate::screen::Screen;

/// The supervisor stops nodes and boot server, each with its own grace time.
const DOWN_PATIENCE: Duration = Duration::from_secs(90);

/// `plasma status`; false when the cloud is not ready. While it waits, progress is on stderr.
pub(crate) async fn status(
    home: &Home,
    remote: &Remote,
    output: Output,
    wait: Option<Duration>,
) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut screen = wait.map(|_| Screen::new());
    let new = |inventory| Observer::at(remote.base.clone(), remote.files.clone(), inventory);
    let mut observer = new(remote.inventory.clone());
    loop {
        // an inventory that `up` is just writing
        if remote.local
            && remote.inventory.is_none()
            && let Some(inventory) = home.inventory()?
        {
            observer = new(Some(inventory));
        }
        let runs = !remote.local || home.is_locked();
        let view = if runs { observer.look().await } else { Overview::default() };
        if view.ready || wait.is_none_or(|wait| began.elapsed() >= wait) {
            if let Some(screen) = &mut screen {
                screen.release();
            }
            let table = || match (runs, view.ready) {
                (true, true) => format!("{}\n{}", print::overview(&view), print::next_steps(&view)),
                (true, false) => format!("{}{}", print::overview(&view), print::open_gates(&view)),
                (false, _) => {
                    format!("{}: not running, start it: plasma up\n", home.dir().display())
                }
            };
            print::result(&render(output, &view, table)?);
            return Ok(view.ready);
        }
        if let Some(screen) = screen.as_mut().filter(|_| runs) {
            screen.show(&view);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// `plasma down`: returns when every process of the cloud is gone.
pub(crate) async fn down(home: &Home) -> anyhow::Result<()> {
    home.must_exist()?;
    let supervisor = home.supervisor().and_then(|s| Process::of(s.pid));
    let processes = home.processes();
    if supervisor.is_none() && processes.is_empty() {
        eprintln!("{}: not running", home.dir().display());
        return Ok(());
    }
    if let Some(supervisor) = &supervisor {
        eprintln!("stopping the cloud in {} (pid {})", home.dir().display(), supervisor.pid);
        supervisor.signal(Signal::TERM);
    }
    let mut all: Vec<Process> = supervisor.into_iter().collect();
    all.extend(processes);
    let left = end_orphans(all, DOWN_PATIENCE).await;
    // started while it was asked to stop, or left behind by one that had to be killed
    let late = end_orphans(home.processes(), Duration::from_secs(20)).await;
    if let Some(process) = left.iter().chain(&late).next() {
        let fault = Fault::new(
            codes::NOT_STOPPED,
            Kind::Internal,
            format!("{} (pid {}) does not end", process.name(), process.pid),
            "it may wait for a disk; look at its log: plasma logs",
        );
        return Err(fault.into());
    }
    eprintln!("stopped");
    Ok(())
}

/// `plasma destroy --yes`
pub(crate) fn destroy(home: &Home, yes: bool) -> anyhow::Result<()> {
    home.must_exist()?;
    if home.is_locked() || !home.processes().is_empty() {
        let fault = Fault::new(
            codes::RUNNING,
            Kind::Precondition,
            format!("the cloud in {} runs", home.dir().display()),
            "stop it first: plasma down",
        );
        return Err(fault.into());
    }
    if !yes {
        let fault = Fault::new(
            codes::UNCONFIRMED,
            Kind::Precondition,
            format!("this would remove {} with all data and keys in it", home.dir().display()),
            "if that is meant: plasma destroy --yes",
        );
        return Err(fault.into());
    }
    home.remove()?;
    eprintln!("removed {}", home.dir().display());
    Ok(())
}

/// `plasma logs [-f] [NAME]`
pub(crate) async fn logs(
    home: &Home,
    name: Option<&str>,
    follow: bool,
    lines: usize,
) -> anyhow::Result<()> {
    home.must_exist()?;
    let known = log_names(home)?;
    let names: Vec<String> = match name {
        None => known,
        Some(name) if known.iter().any(|known| known == name) => vec![name.to_owned()],
        Some(name) => {
            let fault = Fault::new(
                codes::NO_LOG,
                Kind::NotFound,
                format!("there is no log of {name:?}"),
                format!("use one of {}", known.join(", ")),
            );
            return Err(fault.into());
        }
    };
    let prefixed = names.len() > 1;
    let mut tails = Vec::new();
    for name in names {
        let path = home.log(&name);
        let prefix = if prefixed { format!("{name:<10} | ") } else { String::new() };
        tails.push(Tail::start(path, prefix, lines)?);
    }
    if !follow {
        return Ok(());
    }
    loop {
        tokio::select! {
            () = telemetry::stop_signal() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        for tail in &mut tails {
            if !tail.more()? {
                return Ok(());
            }
        }
    }
}

fn log_names(home: &Home) -> Result<Vec<String>, Fault> {
    let dir = home.dir().join("logs");
    let entries = dir.read_dir().map_err(|e| folder("read", &dir, &e))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// A log that is read as it grows.
struct Tail {
    path: PathBuf,
    prefix: String,
    at: u64,
    /// A line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Tail {
    fn start(path: PathBuf, prefix: String, lines: usize) -> anyhow::Result<Tail> {
        let text = std::fs::read(&path).map_err(|e| folder("read", &path, &e))?;
        let starts =
            text.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1);
        let from = match lines {
            0 => text.len(),
            lines => starts.filter(|start| *start < text.len()).nth(lines - 1).unwrap_or(0),
        };
        let mut tail = Tail { path, prefix, at: text.len() as u64, partial: Vec::new() };
        tail.print(&text[from..])?;
        Ok(tail)
    }

    fn more(&mut self) -> anyhow::Result<bool> {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return Ok(true) };
        let length = file.metadata()?.len();
        if length < self.at {
            // it made room for a new one
            self.at = 0;
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut text = Vec::new();
        self.at += file.take(1 << 20).read_to_end(&mut text)? as u64;
        self.print(&text)
    }

    /// False when nobody reads any more.
    fn print(&mut self, text: &[u8]) -> anyhow::Result<bool> {
        let mut lines = String::new();
        self.partial.extend_from_slice(text);
        while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            lines.push_str(&self.prefix);
            lines.push_str(&String::from_utf8_lossy(&line));
        }
        Ok(print::result(&lines))
    }
}
