//! etcd as a peer: the client is tested against it, and the benchmark measures beside it.

use crate::links::Links;
use crate::net::Block;
use crate::{Process, eventually};
use anyhow::{Context, Result};
use chainfire_client::Client;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where Debian's package etcd-server puts it; none where it is not installed.
pub fn installed() -> Option<PathBuf> {
    let path =
        std::env::var_os("PLASMA_BIN_ETCD").map_or_else(|| "/usr/bin/etcd".into(), PathBuf::from);
    path.is_file().then_some(path)
}

/// A cluster of etcd without TLS, with its defaults: fsync on.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    block: Block,
    dir: PathBuf,
    links: Links,
}

#[derive(Debug)]
struct Member {
    arguments: Vec<String>,
    process: Option<Process>,
}

impl Etcd {
    /// Starts so many members with fresh data under `dir`, and waits until they serve.
    pub async fn start(members: u8, dir: &Path) -> Result<Etcd> {
        Etcd::start_with(members, dir, false).await
    }

    /// As [`Etcd::start`], with the members' traffic going through [`Etcd::links`].
    pub async fn start_behind_links(members: u8, dir: &Path) -> Result<Etcd> {
        Etcd::start_with(members, dir, true).await
    }

    async fn start_with(members: u8, dir: &Path, linked: bool) -> Result<Etcd> {
        let block = Block::claim()?;
        let peer = |n: u8| format!("http://{}:2380", block.address(n));
        let advertised = if linked { 2480 } else { 2380 };
        let public = |n: u8| format!("http://{}:{advertised}", block.address(n));
        let client = |n: u8| format!("http://{}:2379", block.address(n));
        let all =
            (1..=members).map(|n| format!("m{n}={}", public(n))).collect::<Vec<_>>().join(",");
        let arguments = |n: u8| {
            [
                ("--name", format!("m{n}")),
                ("--data-dir", dir.join(format!("m{n}")).display().to_string()),
                ("--listen-peer-urls", peer(n)),
                ("--initial-advertise-peer-urls", public(n)),
                ("--listen-client-urls", client(n)),
                ("--advertise-client-urls", client(n)),
                ("--initial-cluster", all.clone()),
                ("--initial-cluster-state", "new".to_owned()),
                ("--logger", "zap".to_owned()),
                ("--log-level", "error".to_owned()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect::<Vec<_>>()
        };
        let mut links = Links::default();
        for n in (1..=members).filter(|_| linked) {
            let at = |port| SocketAddr::from((block.address(n), port));
            links.open(usize::from(n) - 1, at(2480), at(2380)).await?;
        }
        let members = (1..=members).map(|n| Member { arguments: arguments(n), process: None });
        let mut etcd = Etcd { members: members.collect(), block, dir: dir.to_owned(), links };
        for place in 0..etcd.members.len() {
            etcd.restart(place)?;
        }
        etcd.serving(Duration::from_secs(30)).await?;
        Ok(etcd)
    }

    /// The client URLs.
    pub fn endpoints(&self) -> Vec<String> {
        (1..)
            .take(self.members.len())
            .map(|n| format!("http://{}:2379", self.block.address(n)))
            .collect()
    }

    /// A client of all members.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.endpoints(), None)?)
    }

    /// The running processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().filter_map(|member| member.process.as_ref())
    }

    /// The network between the members.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// One member's process.
    pub fn process(&mut self, place: usize) -> Option<&mut Process> {
        self.members[place].process.as_mut()
    }

    /// SIGKILL.
    pub fn kill(&mut self, place: usize) {
        self.members[place].process = None;
    }

    /// Starts a member again with the data it has.
    pub fn restart(&mut self, place: usize) -> Result<()> {
        let mut command = Command::new(installed().context("etcd is not installed")?);
        command.args(&self.members[place].arguments);
        let log = self.dir.join(format!("m{}.log", place + 1));
        let name = format!("etcd m{}", place + 1);
        let process = Process::spawn(&name, command, &log)?;
        self.links.is_process(place, process.pid());
        self.members[place].process = Some(process);
        Ok(())
    }

    /// Waits until every member answers a linearizable read.
    pub async fn serving(&self, deadline: Duration) -> Result<()> {
        for endpoint in self.endpoints() {
            let client = Client::connect([endpoint], None)?;
            eventually("etcd serves", deadline, || async {
                Ok(client.get("ready").await.map(|_| ())?)
            })
            .await?;
        }
        Ok(())
    }
}
