//! The servers, started afresh with empty data on the same disk.

use crate::Settings;
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testkit::etcd::{self, Etcd};
use testkit::{Cluster, Options, Process};

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    Chainfire,
    Etcd,
}

impl fmt::Display for Side {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Side::Chainfire => "chainfire",
            Side::Etcd => "etcd",
        })
    }
}

enum Running {
    Chainfire(Box<Cluster>),
    Etcd(Etcd),
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
        program: Option<&Path>,
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
            Side::Chainfire => Running::Chainfire(Box::new(
                Cluster::start_with(Options {
                    members: usize::from(nodes),
                    tls: false,
                    program: program.map(Path::to_owned),
                    data: Some(data.path().to_owned()),
                    ..Options::default()
                })
                .await?,
            )),
            Side::Etcd => {
                let hint =
                    "etcd is not installed: apt-get install etcd-server, or set PLASMA_BIN_ETCD";
                etcd::installed().context(hint)?;
                Running::Etcd(Etcd::start(nodes, data.path()).await?)
            }
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
        }
    }

    fn processes(&self) -> Vec<&Process> {
        match &self.running {
            Running::Chainfire(cluster) => cluster.processes().collect(),
            Running::Etcd(etcd) => etcd.processes().collect(),
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
}

/// The binary to measure: the one named, or a release build of this tree.
#[expect(clippy::print_stderr, reason = "progress of a program")]
pub(crate) fn chainfire_binary(settings: &Settings) -> Result<Option<PathBuf>> {
    if !settings.servers.contains(&Side::Chainfire) {
        return Ok(None);
    }
    if let Some(path) = &settings.chainfire {
        return Ok(Some(path.clone()));
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
    Ok(Some(path))
}
