//! The servers, started afresh with empty data on the same disk.

use crate::Settings;
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testkit::etcd::{self, Etcd};
use testkit::{Cluster, Options, Process, eventually};

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    /// This tree's Chainfire
    Chainfire,
    /// Another build of Chainfire, named by --before
    Before,
    /// etcd, Debian's or the one that PLASMA_BIN_ETCD names
    Etcd,
    /// A gRPC server that answers at once
    Grpc,
    /// A gRPC server that appends to a synced log
    SyncedLog,
}

impl Side {
    /// Whether it is no store but shows what a store must cost at least.
    pub(crate) fn is_floor(self) -> bool {
        matches!(self, Side::Grpc | Side::SyncedLog)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Side::Chainfire => "chainfire",
            Side::Before => "before",
            Side::Etcd => "etcd",
            Side::Grpc => "grpc",
            Side::SyncedLog => "synced-log",
        })
    }
}

/// The programs of a run.
pub(crate) struct Programs {
    pub(crate) chainfire: Option<PathBuf>,
    pub(crate) before: Option<PathBuf>,
}

enum Running {
    Chainfire(Box<Cluster>),
    Etcd(Etcd),
    Floor(Process, String),
}

/// A running cluster of one side. Dropping it ends it and deletes its data.
pub(crate) struct Server {
    running: Running,
    side: Side,
    _data: TempDir,
}

impl Server {
    pub(crate) async fn start(
        side: Side,
        nodes: u8,
        programs: &Programs,
        settings: &Settings,
    ) -> Result<Server> {
        let base = settings.dir.clone().unwrap_or_else(std::env::temp_dir);
        let data = tempfile::Builder::new().prefix("plasma-bench-").tempdir_in(&base)?;
        let file_system = rustix::fs::statfs(data.path())?;
        const TMPFS: i64 = 0x0102_1994;
        ensure!(
            file_system.f_type != TMPFS,
            "{} is in memory, where fsync costs nothing: name a folder on a disk with --dir",
            base.display()
        );
        let running = match side {
            Side::Chainfire => chainfire(nodes, programs.chainfire.clone(), data.path()).await?,
            Side::Before => chainfire(nodes, programs.before.clone(), data.path()).await?,
            Side::Etcd => {
                let hint =
                    "etcd is not installed: apt-get install etcd-server, or set PLASMA_BIN_ETCD";
                etcd::installed().context(hint)?;
                Running::Etcd(Etcd::start(nodes, data.path()).await?)
            }
            Side::Grpc | Side::SyncedLog => floor(side, data.path(), settings).await?,
        };
        Ok(Server { running, side, _data: data })
    }

    pub(crate) fn side(&self) -> Side {
        self.side
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        match &self.running {
            Running::Chainfire(cluster) => {
                (0..cluster.len()).map(|place| cluster.endpoint(place)).collect()
            }
            Running::Etcd(etcd) => etcd.endpoints(),
            Running::Floor(_, endpoint) => vec![endpoint.clone()],
        }
    }

    fn processes(&self) -> Vec<&Process> {
        match &self.running {
            Running::Chainfire(cluster) => cluster.processes().collect(),
            Running::Etcd(etcd) => etcd.processes().collect(),
            Running::Floor(process, _) => vec![process],
        }
    }

    /// CPU time used by all its processes so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.processes().into_iter().map(Process::cpu).sum()
    }

    /// Resident memory of all its processes.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.processes().into_iter().map(Process::resident).sum()
    }

    /// Ends the first member, by SIGTERM or SIGKILL.
    pub(crate) async fn end(&mut self, kill: bool) -> Result<()> {
        match &mut self.running {
            Running::Chainfire(cluster) if kill => cluster.kill(0),
            Running::Chainfire(cluster) => cluster.terminate(0).await?,
            Running::Etcd(etcd) => {
                if !kill {
                    let process = etcd.process(0).context("etcd does not run")?;
                    process.terminate(Duration::from_secs(60)).await?;
                }
                etcd.kill(0);
            }
            Running::Floor(..) => bail!("a floor has nothing to come back with"),
        }
        Ok(())
    }

    /// Starts the first member with the data it has; does not wait.
    pub(crate) fn begin(&mut self) -> Result<()> {
        match &mut self.running {
            Running::Chainfire(cluster) => cluster.spawn(0),
            Running::Etcd(etcd) => etcd.restart(0),
            Running::Floor(..) => bail!("a floor has nothing to come back with"),
        }
    }
}

async fn chainfire(nodes: u8, program: Option<PathBuf>, data: &Path) -> Result<Running> {
    let cluster = Cluster::start_with(Options {
        members: usize::from(nodes),
        tls: false,
        program,
        data: Some(data.to_owned()),
        patience: Duration::from_secs(180),
        ..Options::default()
    });
    Ok(Running::Chainfire(Box::new(cluster.await?)))
}

async fn floor(side: Side, data: &Path, settings: &Settings) -> Result<Running> {
    let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["floor", "--listen", &address.to_string()]);
    command.args(["--value", &settings.value.to_string()]);
    if side == Side::SyncedLog {
        command.arg("--log").arg(data.join("log"));
    }
    let process = Process::spawn(&side.to_string(), command, &data.join("out"))?;
    let limit = Duration::from_secs(10);
    eventually("the floor listens", limit, || async {
        Ok(tokio::net::TcpStream::connect(address).await.map(drop)?)
    })
    .await?;
    Ok(Running::Floor(process, format!("http://{address}")))
}

/// The binaries to measure: those named, or a release build of this tree.
#[expect(clippy::print_stderr, reason = "progress of a program")]
pub(crate) fn programs(settings: &Settings) -> Result<Programs> {
    let before = settings.before.clone();
    if settings.sides().contains(&Side::Before) {
        ensure!(before.is_some(), "name the other build of Chainfire with --before");
    }
    if !settings.sides().contains(&Side::Chainfire) {
        return Ok(Programs { chainfire: None, before });
    }
    if let Some(path) = &settings.chainfire {
        return Ok(Programs { chainfire: Some(path.clone()), before });
    }
    eprintln!("building chainfire in release mode");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--package", "chainfire", "--bin", "chainfire"])
        .status()
        .context("run cargo")?;
    ensure!(built.success(), "chainfire does not build");
    let this = std::env::current_exe()?;
    let target = this.parent().and_then(Path::parent).context("target folder")?;
    let path = target.join("release").join("chainfire");
    if !path.is_file() {
        bail!("no {}: name the binary with --chainfire", path.display());
    }
    Ok(Programs { chainfire: Some(path), before })
}
