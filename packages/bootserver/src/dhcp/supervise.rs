//! dnsmasq as a child process: checked, started, watched, stopped.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use fault::{Fault, Kind};
use inventory::Inventory;
use rustix::process::{Pid, Signal, kill_process};
use telemetry::Gate;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::settings::{DhcpSettings, bad};
use super::{leases, log, stage};
use crate::codes;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Whoever ran this long is started again at once.
const LONG_RUN: Duration = Duration::from_secs(60);
const TEST_DEADLINE: Duration = Duration::from_secs(10);
const END_DEADLINE: Duration = Duration::from_secs(3);
/// Starts a program that ends when this process does, however this process ends. The kernel tells
/// `timeout`, which passes the signal on and has no deadline of its own; dnsmasq itself would lose
/// the kernel's promise with root. The kernel takes the thread that starts it for the parent, so
/// that thread must live as long as the runtime.
const BOUND: [&str; 6] = ["setpriv", "--pdeathsig", "TERM", "--", "timeout", "0"];
/// More of what a failed test printed helps nobody.
const MOST_WORDS: u64 = 4096;
/// A longer line is logged in pieces.
const LONGEST_LINE: u64 = 2048;

/// Runs dnsmasq until the stop, starting it again when it ends.
///
/// `config` is what [`super::config`] made; `dir` is kept between runs and holds it, the leases and
/// the process id; `loaders` has the boot loaders. The gate is open while dnsmasq serves. Returns
/// early only for what no restart can mend.
pub async fn supervise(
    settings: DhcpSettings,
    inventory: &Inventory,
    config: &str,
    loaders: &Path,
    dir: &Path,
    stop: CancellationToken,
    gate: Gate,
) -> Result<(), Fault> {
    let place = Place::prepare(&settings, inventory, config, loaders, dir)?;
    place.end_leftover().await;
    place.test().await?;
    let bound = can_bind().await;
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let Some(reason) = place.run(bound, &stop, &gate).await else { break };
        if begun.elapsed() >= LONG_RUN {
            pause = FIRST_PAUSE;
        }
        tracing::warn!(reason, again_in_ms = millis(pause), "dnsmasq ended");
        gate.close(reason);
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => break,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    stage::unstage(&place.tftp, place.root);
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The words of its manual for its exit codes.
fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(1) => "dnsmasq refuses its configuration".to_owned(),
        Some(2) => "dnsmasq cannot use the network: an interface is missing, the port is taken, \
                    or a right is"
            .to_owned(),
        Some(3) => "dnsmasq cannot use its files".to_owned(),
        _ => format!("dnsmasq ended by itself: {status}"),
    }
}

/// The files and the program of one dnsmasq.
struct Place {
    program: PathBuf,
    config: PathBuf,
    leases: PathBuf,
    pid: PathBuf,
    tftp: PathBuf,
    root: bool,
}

impl Place {
    fn prepare(
        settings: &DhcpSettings,
        inventory: &Inventory,
        config: &str,
        loaders: &Path,
        dir: &Path,
    ) -> Result<Place, Fault> {
        let root = rustix::process::geteuid().is_root();
        // dnsmasq goes to the root folder when it starts
        let dir = &std::path::absolute(dir).map_err(|e| stage::storage("find", dir, &e))?;
        let place = Place {
            program: settings.dnsmasq.clone(),
            config: dir.join("dnsmasq.conf"),
            leases: dir.join("leases"),
            pid: dir.join("pid"),
            tftp: stage::tftp_dir(dir, root),
            root,
        };
        if place.tftp.as_os_str().as_encoded_bytes().contains(&b',') {
            return Err(bad(
                codes::BAD_SETTING,
                format!("state_dir holds a comma, which dnsmasq cannot have: {}", dir.display()),
                "choose another folder",
            ));
        }
        fs::create_dir_all(dir).map_err(|e| stage::storage("create", dir, &e))?;
        stage::stage(loaders, &place.tftp, root)?;
        let write = |path: &Path, text: &str| {
            fs::write(path, text).map_err(|e| stage::storage("write", path, &e))
        };
        write(&place.config, config)?;
        if let Ok(known) = fs::read_to_string(&place.leases)
            && let Some(kept) = leases::prune(&known, inventory)
        {
            tracing::info!("leases that stand in the way of nodes are dropped");
            write(&place.leases, &kept)?;
        }
        Ok(place)
    }

    fn command(&self, bound: bool) -> Command {
        let option = |name: &str, path: &Path| {
            let mut text = OsString::from(name);
            text.push(path);
            text
        };
        let mut command = match BOUND {
            [first, rest @ ..] if bound => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
            _ => Command::new(&self.program),
        };
        command
            .arg(option("--conf-file=", &self.config))
            .arg(option("--dhcp-leasefile=", &self.leases))
            .arg(option("--pid-file=", &self.pid))
            .arg(option("--tftp-root=", &self.tftp))
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Whether dnsmasq is there and understands its configuration.
    async fn test(&self) -> Result<(), Fault> {
        let mut child = self.spawn(self.command(false).kill_on_drop(true).arg("--test"))?;
        let mut words = String::new();
        let run = async {
            if let Some(stderr) = child.stderr.take() {
                let _ = stderr.take(MOST_WORDS).read_to_string(&mut words).await;
            }
            child.wait().await
        };
        let refused = match timeout(TEST_DEADLINE, run).await {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(_)) => words.trim().to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {} s", TEST_DEADLINE.as_secs()),
        };
        Err(Fault::new(
            codes::DHCP_REFUSED,
            Kind::Precondition,
            format!("{} refuses {}: {refused}", self.program.display(), self.config.display()),
            "dnsmasq 2.85 or later with DHCP and TFTP is needed",
        ))
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, Fault> {
        command.spawn().map_err(|error| {
            Fault::new(
                codes::NO_DNSMASQ,
                Kind::Precondition,
                format!("{} cannot be started: {error}", self.program.display()),
                "install dnsmasq (Debian: dnsmasq-base), or name it in dhcp.dnsmasq",
            )
        })
    }

    /// One life of dnsmasq: `None` when it was stopped, else why it ended.
    async fn run(&self, bound: bool, stop: &CancellationToken, gate: &Gate) -> Option<String> {
        let mut command = self.command(bound);
        let spawned = self.spawn(command.args(["--keep-in-foreground", "--log-facility=-"]));
        let mut running = match spawned {
            Ok(child) => Running(child),
            Err(fault) => return Some(fault.what),
        };
        let stderr = running.0.stderr.take();
        let listen = async {
            let Some(stderr) = stderr else { return };
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            loop {
                line.clear();
                let mut piece = (&mut reader).take(LONGEST_LINE);
                match piece.read_until(b'\n', &mut line).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {
                        if log::line(String::from_utf8_lossy(&line).trim_end()) {
                            gate.open();
                        }
                    }
                }
            }
        };
        tokio::pin!(listen);
        let mut silent = false;
        loop {
            tokio::select! {
                () = &mut listen, if !silent => silent = true,
                status = running.0.wait() => {
                    // what it said last is why it ended
                    if !silent {
                        let _ = timeout(Duration::from_secs(1), &mut listen).await;
                    }
                    return Some(status.map_or_else(|e| e.to_string(), ended));
                }
                () = stop.cancelled() => {
                    gate.close("stopping");
                    running.end().await;
                    self.end_leftover().await;
                    return None;
                }
            }
        }
    }

    /// Ends a dnsmasq that was left behind, by a killed boot server too: it holds the port.
    async fn end_leftover(&self) {
        let Some(pid) = fs::read_to_string(&self.pid)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .and_then(Pid::from_raw)
        else {
            return;
        };
        if !self.is_ours(pid) {
            return;
        }
        tracing::info!(pid = pid.as_raw_nonzero(), "a dnsmasq that was left behind is ended");
        let deadline = Instant::now() + END_DEADLINE;
        let _ = kill_process(pid, Signal::TERM);
        while self.is_ours(pid) {
            if Instant::now() >= deadline {
                let _ = kill_process(pid, Signal::KILL);
            }
            sleep(Duration::from_millis(20)).await;
            if Instant::now() >= deadline + END_DEADLINE {
                return;
            }
        }
    }

    /// A process with our configuration on its command line; a number alone may be anybody's.
    fn is_ours(&self, pid: Pid) -> bool {
        let Ok(line) = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) else {
            return false;
        };
        let mut option = b"--conf-file=".to_vec();
        option.extend_from_slice(self.config.as_os_str().as_encoded_bytes());
        line.split(|byte| *byte == 0).any(|word| word == option)
    }
}

/// dnsmasq, or what passes signals on to it; told to end when it is dropped.
struct Running(Child);

impl Running {
    fn tell(&self) {
        // no id: it has ended and was waited for
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    async fn end(&mut self) {
        self.tell();
        if timeout(END_DEADLINE, self.0.wait()).await.is_err() {
            let _ = self.0.kill().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Whether this system's programs can do it: those of small systems cannot.
async fn can_bind() -> bool {
    let [first, rest @ ..] = BOUND;
    let mut command = Command::new(first);
    command.args(rest).arg("true").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).kill_on_drop(true);
    let done = timeout(TEST_DEADLINE, command.status()).await;
    let can = matches!(done, Ok(Ok(status)) if status.success());
    if !can {
        tracing::info!("setpriv and timeout cannot be used: dnsmasq outlives a killed boot server");
    }
    can
}
