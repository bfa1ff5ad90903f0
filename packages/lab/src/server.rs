//! The boot server of a lab: the program itself, with settings for the lab's network.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bootserver::client::Operator;
use bootserver::wire::Status;
use fault::{Fault, Kind};
use identity::TlsFiles;
use testkit::Process;

use crate::codes;
use crate::netns::BRIDGE;

/// Where nodes and operators call it.
pub const URL: &str = "https://10.20.0.1:8443";

const PATIENCE: Duration = Duration::from_secs(30);

/// What varies between labs.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Beside a foreign DHCP server.
    pub proxy: bool,
    /// More kernel arguments for the installer.
    pub extra_args: Vec<String>,
    /// How long a token lives that is handed out.
    pub token_seconds: Option<u64>,
}

/// A boot server, running or not. Dropping it kills it.
#[derive(Debug)]
pub struct BootServer {
    dir: PathBuf,
    bin: PathBuf,
    images: PathBuf,
    options: ServerOptions,
    process: Option<Process>,
}

impl BootServer {
    /// Makes the cluster's CA; starts nothing.
    pub fn init(
        dir: &Path,
        bin: &Path,
        images: &Path,
        inventory: &serde_json::Value,
        options: ServerOptions,
    ) -> Result<BootServer> {
        fs::create_dir_all(dir)?;
        let server = BootServer {
            dir: dir.to_owned(),
            bin: bin.to_owned(),
            images: images.to_owned(),
            options,
            process: None,
        };
        server.write_inventory(inventory)?;
        server.make_state()?;
        Ok(server)
    }

    fn make_state(&self) -> Result<()> {
        let out = Command::new(&self.bin)
            .arg("init")
            .arg("--dir")
            .arg(self.state())
            .arg("--inventory")
            .arg(self.inventory())
            .output()
            .with_context(|| format!("run {}", self.bin.display()))?;
        if !out.status.success() {
            bail!("bootserver init: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(())
    }

    /// Starts over with a new cluster that nobody has joined.
    pub async fn forget(&mut self) -> Result<()> {
        self.kill();
        fs::remove_dir_all(self.state())?;
        self.make_state()?;
        self.start().await
    }

    /// What varies; changes hold from the next start.
    pub fn options(&mut self) -> &mut ServerOptions {
        &mut self.options
    }

    /// Another inventory, read at the next start.
    pub fn write_inventory(&self, inventory: &serde_json::Value) -> Result<()> {
        Ok(fs::write(self.inventory(), serde_json::to_string_pretty(inventory)?)?)
    }

    /// Starts it, and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        let config = self.dir.join("bootserver.toml");
        fs::write(&config, self.settings()?)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(&self.bin).arg("--config").arg(&config);
        let process = Process::spawn("bootserver", command, &self.log())?;
        self.process = Some(process);
        let begun = Instant::now();
        while let Err(error) = self.status().await {
            self.check()?;
            if begun.elapsed() > PATIENCE {
                return Err(fault(
                    format!("the boot server does not answer: {error:#}"),
                    &self.log(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Fails when it ended by itself, with its last words.
    pub fn check(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process
            && let Some(status) = process.ended()
        {
            let log = fs::read_to_string(process.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default();
            let what = format!("the boot server ended with {status}:\n{}\n---", last.join("\n"));
            return Err(fault(what, &self.log()));
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The operator's identity.
    pub fn operator_files(&self) -> TlsFiles {
        bootserver::operator_files(&self.state())
    }

    /// The operator's side of its API.
    pub fn operator(&self) -> Result<Operator> {
        Ok(Operator::new(URL, &self.operator_files())?)
    }

    /// Where every node is.
    pub async fn status(&self) -> Result<Status> {
        Ok(self.operator()?.status().await?)
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("bootserver.log")
    }

    fn state(&self) -> PathBuf {
        self.dir.join("bootserver")
    }

    fn inventory(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    fn settings(&self) -> Result<String> {
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let options = &self.options;
        let mut text = String::new();
        writeln!(text, "state_dir = {}", quoted(&self.state()))?;
        writeln!(text, "inventory = {}", quoted(&self.inventory()))?;
        writeln!(text, "listen = \"0.0.0.0:8443\"\n\n[ops]\nlisten = \"127.0.0.1:9080\"")?;
        writeln!(text, "\n[boot]\nlisten = \"0.0.0.0:8080\"\nimages = {}", quoted(&self.images))?;
        writeln!(text, "extra_args = {:?}", options.extra_args)?;
        writeln!(text, "\n[enrollment]\nhand_out = \"declared\"")?;
        if let Some(seconds) = options.token_seconds {
            writeln!(text, "\n[tokens]\ndefault_ttl_seconds = {seconds}")?;
        }
        let mode = if options.proxy { "proxy" } else { "full" };
        writeln!(text, "\n[dhcp]\nmode = \"{mode}\"\ninterface = \"{BRIDGE}\"")?;
        if !options.proxy {
            writeln!(text, "range = [\"10.20.0.100\", \"10.20.0.199\"]")?;
        }
        Ok(text)
    }
}

fn fault(what: String, log: &Path) -> anyhow::Error {
    let hint = format!("its log is {}", log.display());
    Fault::new(codes::BOOT_SERVER, Kind::Unavailable, what, hint).into()
}
