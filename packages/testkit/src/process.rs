//! A real process that ends with the test.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to stop.
const STOPS: Duration = Duration::from_secs(2);

/// The binary of this name: `PLASMA_BIN_<NAME>` if set, else the one built beside the running test
/// or program.
pub fn binary(name: &str) -> Result<PathBuf> {
    let variable = format!("PLASMA_BIN_{}", name.to_uppercase().replace('-', "_"));
    if let Some(path) = std::env::var_os(&variable) {
        return Ok(PathBuf::from(path));
    }
    let this = std::env::current_exe().context("where am I")?;
    let candidates = this.ancestors().skip(1).take(3).map(|folder| folder.join(name));
    candidates.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("no binary `{name}` near {}: build it, or set {variable}", this.display())
    })
}

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it; what it writes is appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        Ok(Process { name: name.to_owned(), child, pid, log: log.to_owned(), ended: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds what it wrote.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended; none while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended() {
            bail!("{} has already ended: {status}", self.name);
        }
        // The child is not reaped yet, so the id is still its own.
        kill_process(self.pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// SIGSTOP. It stands still when this returns: the signal is heard when one of its threads is
    /// on a core again, and on a busy machine the others go on until then.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let begun = Instant::now();
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        // who waits for a disk that stands still does not hear it before that moves again
        while waitid(WaitId::Pid(self.pid), options)?.is_none() && begun.elapsed() < STOPS {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// SIGTERM, and waits until it ends.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(deadline).await
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if begun.elapsed() > deadline {
                bail!("{} has not ended within {deadline:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// CPU time it has used, user and system.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid())
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
        Ok(kib * 1024)
    }
}

fn cpu_of(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything; fields are counted after its closing bracket.
    let (_, after) = text.rsplit_once(')').context("stat")?;
    let mut fields = after.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).context("stat");
    let total = ticks()? + ticks()?;
    // Linux counts in hundredths of a second here, whatever its own clock does.
    Ok(Duration::from_millis(total * 10))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
