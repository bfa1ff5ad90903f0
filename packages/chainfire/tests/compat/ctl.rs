//! etcdctl as a user runs it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use identity::TlsFiles;

/// Debian's own, where it is installed.
pub(crate) fn system() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/etcdctl");
    path.is_file().then_some(path)
}

/// One that `scripts/test` unpacked from another suite of Debian.
pub(crate) fn of_suite(suite: &str) -> Option<PathBuf> {
    let path = cache()?.join("etcd").join(suite).join("etcdctl");
    path.is_file().then_some(path)
}

/// Where `scripts/lib.sh` keeps what it fetches.
pub(crate) fn cache() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("plasmacloud"))
}

/// Says why a test does nothing.
#[expect(clippy::print_stderr, reason = "whoever runs the tests must see what was left out")]
pub(crate) fn skipped(what: &str) -> Result<()> {
    eprintln!("skipped: {what} is not here; ./scripts/test fetches it");
    Ok(())
}

/// One etcdctl, one user's certificate, some endpoints.
pub(crate) struct Ctl {
    binary: PathBuf,
    pub(crate) endpoints: Vec<String>,
    tls: TlsFiles,
    /// Flags before every command.
    pub(crate) flags: Vec<String>,
    /// Commands that were run, by their words without arguments.
    pub(crate) ran: Mutex<BTreeSet<String>>,
}

impl Ctl {
    pub(crate) fn new(binary: PathBuf, endpoints: Vec<String>, tls: TlsFiles) -> Ctl {
        let (flags, ran) = Default::default();
        Ctl { binary, endpoints, tls, flags, ran }
    }

    /// The same for another user, or with other flags.
    pub(crate) fn with(&self, flags: &[&str]) -> Ctl {
        Ctl {
            binary: self.binary.clone(),
            endpoints: self.endpoints.clone(),
            tls: self.tls.clone(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            ran: Mutex::default(),
        }
    }

    /// The same at one member.
    pub(crate) fn at(&self, endpoint: String) -> Ctl {
        Ctl { endpoints: vec![endpoint], ..self.with(&[]) }
    }

    /// What `help` lists, such as `lease grant`.
    pub(crate) fn commands(&self) -> Result<BTreeSet<String>> {
        let said = Command::new(&self.binary).arg("help").env("ETCDCTL_API", "3").output()?;
        let said = String::from_utf8(said.stdout)?;
        let from = said.split_once("COMMANDS:").context("help without commands")?.1;
        let list = from.split_once("OPTIONS:").context("help without options")?.0;
        let name = |line: &str| Some(line.trim_start_matches('\t').split('\t').next()?.to_owned());
        Ok(list.lines().filter(|line| line.starts_with('\t')).filter_map(name).collect())
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.note(words);
        let mut command = Command::new(&self.binary);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoints.join(",")))
            .arg(format!("--cacert={}", self.tls.ca.display()))
            .arg(format!("--cert={}", self.tls.cert.display()))
            .arg(format!("--key={}", self.tls.key.display()))
            // the machine may be busy with other tests
            .args(["--dial-timeout=20s", "--command-timeout=60s"])
            .args(&self.flags)
            .args(words);
        command
    }

    fn note(&self, words: &[&str]) {
        let mut ran = self.ran.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        ran.insert(words[0].to_owned());
        if let [first, second, ..] = words {
            ran.insert(format!("{first} {second}"));
        }
    }

    pub(crate) async fn output(&self, words: &[&str], input: &str) -> Result<Output> {
        let mut command = self.command(words);
        let input = input.to_owned();
        let run = move || -> Result<Output> {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
            Ok(child.wait_with_output()?)
        };
        tokio::task::spawn_blocking(run).await?
    }

    /// What it prints; it must succeed.
    pub(crate) async fn ok(&self, words: &[&str]) -> Result<String> {
        self.ok_with(words, "").await
    }

    pub(crate) async fn ok_with(&self, words: &[&str], input: &str) -> Result<String> {
        Ok(self.streams(words, input).await?.0)
    }

    async fn streams(&self, words: &[&str], input: &str) -> Result<(String, String)> {
        let output = self.output(words, input).await?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        if !output.status.success() {
            bail!("etcdctl {words:?}: {}\n{out}{err}", output.status);
        }
        Ok((out, err))
    }

    /// It must print this, on either stream: versions differ in which.
    pub(crate) async fn says(&self, words: &[&str], expected: &str) -> Result<String> {
        let (out, err) = self.streams(words, "").await?;
        let said = out + &err;
        ensure!(said.contains(expected), "{words:?} says {said:?}, not {expected:?}");
        Ok(said)
    }

    /// It must fail, and say this.
    pub(crate) async fn fails(&self, words: &[&str], expected: &str) -> Result<()> {
        let output = self.output(words, "").await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{words:?} succeeds");
        ensure!(said.contains(expected), "{words:?} says {said:?}, not {expected:?}");
        Ok(())
    }

    /// One that goes on until it is ended, and the lines that it prints.
    pub(crate) fn spawn(&self, words: &[&str]) -> Result<Running> {
        let mut child = self.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("stdout")?;
        let (send, lines) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            use std::io::BufRead;
            for line in std::io::BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Running { child, lines })
    }
}

/// Ends with the test.
pub(crate) struct Running {
    child: Child,
    lines: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Running {
    /// The next line.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let wait = std::time::Duration::from_secs(60);
        tokio::time::timeout(wait, self.lines.recv()).await?.context("it has ended")
    }

    pub(crate) async fn lines(&mut self, count: usize) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await?);
        }
        Ok(lines)
    }

    /// As Ctrl-C does.
    pub(crate) fn interrupt(&self) -> Result<()> {
        let pid = self.child.id().to_string();
        let ended = Command::new("kill").args(["-INT", &pid]).status()?;
        ensure!(ended.success(), "kill -INT {pid}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
