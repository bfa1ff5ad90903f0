//! A Chainfire cluster of real processes.
//!
//! Each member has a loopback address of its own and the standard ports; its peers reach it only
//! through [`Links`]. Killing, pausing and restarting keep its data and its address.

use crate::certificates::Certificates;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::links::Links;
use crate::net::{Block, http_get};
use crate::{Process, binary, eventually, logs};
use anyhow::{Context, Result, bail, ensure};
use identity::TlsFiles;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const CLIENT: u16 = 2379;
const PEER: u16 = 2380;
/// Where peers dial: a proxy of [`Links`].
const PEER_PROXY: u16 = 2480;
const PLAIN: u16 = 2378;
const OPS: u16 = 9379;

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Members that are started and joined.
    pub members: usize,
    /// Certificates on all listeners, and faults on links; without it all is plain, as etcd is
    /// run in benchmarks.
    pub tls: bool,
    /// More settings for every member, as `key=value` of `--set`.
    pub set: Vec<String>,
    /// How long a member may take to be ready.
    pub patience: Duration,
    /// The program; the one beside the test by default.
    pub program: Option<PathBuf>,
    /// Where data goes; a folder of its own by default.
    pub data: Option<PathBuf>,
    /// Gives each member a disk of so many MiB, where that is allowed: see [`Cluster::disk`].
    pub disks: Option<u64>,
    /// Gives each member a wall clock that can jump, where libfaketime is installed: see
    /// [`Cluster::clock`].
    pub clocks: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            members: 3,
            tls: true,
            set: Vec::new(),
            patience: Duration::from_secs(60),
            program: None,
            data: None,
            disks: None,
            clocks: false,
        }
    }
}

/// A running cluster. Dropping it ends its processes, and fails the test where a log holds an
/// error that nobody expected.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    links: Links,
    block: Block,
    certificates: Certificates,
    operator: TlsFiles,
    program: PathBuf,
    options: Options,
    expected: Vec<String>,
    id: String,
    dir: PathBuf,
    _temporary: TempDir,
}

#[derive(Debug)]
struct Member {
    name: String,
    address: Ipv4Addr,
    dir: PathBuf,
    data: PathBuf,
    process: Option<Process>,
    set: Vec<String>,
    disk: Option<Disk>,
    clock: Option<Clock>,
    /// What stands before its command at the next start.
    within: Vec<String>,
}

impl Member {
    fn at(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }
}

impl Cluster {
    /// So many members with certificates, formed, joined, and all voting.
    pub async fn start(members: usize) -> Result<Cluster> {
        Cluster::start_with(Options { members, ..Options::default() }).await
    }

    /// As told.
    pub async fn start_with(options: Options) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(options)?;
        for _ in 0..cluster.options.members {
            cluster.add().await?;
        }
        cluster.all_vote().await?;
        Ok(cluster)
    }

    /// Makes folders and certificates and starts nothing.
    pub fn prepare(options: Options) -> Result<Cluster> {
        let temporary = tempfile::Builder::new().prefix("plasma-test-").tempdir()?;
        let dir = temporary.path().to_owned();
        let certificates = Certificates::create("test", &dir.join("ca"))?;
        let operator = certificates.operator("admin", &dir.join("operator"))?;
        let program = match &options.program {
            Some(path) => path.clone(),
            None => binary("chainfire")?,
        };
        Ok(Cluster {
            members: Vec::new(),
            links: Links::default(),
            block: Block::claim()?,
            certificates,
            operator,
            program,
            options,
            expected: Vec::new(),
            id: uuid::Uuid::now_v7().to_string(),
            dir,
            _temporary: temporary,
        })
    }

    /// Adds a member: the first forms, the others join. Returns its place when it is ready.
    pub async fn add(&mut self) -> Result<usize> {
        let place = self.configure().await?;
        self.spawn(place)?;
        self.ready(place).await?;
        Ok(place)
    }

    /// As [`Cluster::add`], without starting it.
    pub async fn configure(&mut self) -> Result<usize> {
        let place = self.members.len();
        let address = self.block.address(u8::try_from(place + 1)?);
        let name = format!("node{:02}", place + 1);
        let dir = self.dir.join(&name);
        let base = self.options.data.as_ref().map_or_else(|| dir.clone(), |data| data.join(&name));
        std::fs::create_dir_all(&dir)?;
        let disk = match self.options.disks {
            Some(mib) => Disk::make(&base.join("disk"), mib)?,
            None => None,
        };
        let clock = match self.options.clocks {
            true => Clock::make(&dir.join("clock"))?,
            false => None,
        };
        let data = disk.as_ref().map_or(&*base, Disk::dir).join("data");
        let (set, within) = (Vec::new(), Vec::new());
        let member = Member { name, address, dir, data, process: None, set, disk, clock, within };
        if self.options.tls {
            self.certificates.service(
                "chainfire",
                &member.name,
                address,
                &member.dir.join("tls"),
            )?;
            self.links.open(place, member.at(PEER_PROXY), member.at(PEER)).await?;
        }
        self.members.push(member);
        self.write_settings(place)?;
        Ok(place)
    }

    fn write_settings(&self, place: usize) -> Result<()> {
        let member = &self.members[place];
        let tls = self.options.tls;
        let peer_port = if tls { PEER_PROXY } else { PEER };
        let scheme = if tls { "https" } else { "http" };
        let join = |other: &Member| format!("\"{scheme}://{}\"", other.at(peer_port));
        let others: Vec<String> = match place {
            0 => self.members[1..].iter().map(join).collect(),
            _ => self.members[..place].iter().map(join).collect(),
        };
        let mut text = String::new();
        writeln!(text, "name = \"{}\"", member.name)?;
        writeln!(text, "data_dir = \"{}\"", member.data.display())?;
        writeln!(text, "cluster_id = \"{}\"", self.id)?;
        writeln!(text, "initial = \"{}\"", if place == 0 { "form" } else { "join" })?;
        writeln!(text, "join = [{}]", others.join(", "))?;
        if !tls {
            writeln!(text, "plaintext_peer = true")?;
        }
        if tls {
            writeln!(text, "\n[client]\nlisten = \"{}\"", member.at(CLIENT))?;
            writeln!(text, "advertise = \"{}\"", self.endpoint(place))?;
        }
        writeln!(text, "\n[peer]\nlisten = \"{}\"", member.at(PEER))?;
        writeln!(text, "advertise = \"{scheme}://{}\"", member.at(peer_port))?;
        writeln!(text, "\n[ops]\nlisten = \"{}\"", member.at(OPS))?;
        if tls {
            let files = TlsFiles::in_dir(member.dir.join("tls"));
            let [cert, key, ca] = [&files.cert, &files.key, &files.ca].map(|path| path.display());
            writeln!(text, "\n[tls]\ncert = \"{cert}\"\nkey = \"{key}\"\nca = \"{ca}\"")?;
        } else {
            writeln!(text, "\n[plaintext]\nlisten = \"{}\"", member.at(PLAIN))?;
        }
        writeln!(text, "\n[log]\nformat = \"json\"")?;
        std::fs::write(self.settings(place), text)?;
        Ok(())
    }

    /// A member's settings file.
    pub fn settings(&self, place: usize) -> PathBuf {
        self.members[place].dir.join("chainfire.toml")
    }

    /// A member's data folder.
    pub fn data(&self, place: usize) -> &Path {
        &self.members[place].data
    }

    /// Where tests may put more files of a member.
    pub fn folder(&self, place: usize) -> &Path {
        &self.members[place].dir
    }

    /// The CA.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// A setting that one member gets from its next start on.
    pub fn set(&mut self, place: usize, setting: &str) {
        self.members[place].set.push(setting.to_owned());
    }

    /// The disk of a member; none where disks were not asked for, or are not allowed.
    pub fn disk(&mut self, place: usize) -> Option<&mut Disk> {
        self.members[place].disk.as_mut()
    }

    /// The wall clock of a member; none where clocks were not asked for, or cannot be had.
    pub fn clock(&self, place: usize) -> Option<&Clock> {
        self.members[place].clock.as_ref()
    }

    /// From its next start on a member runs within this: a command that takes another one, such as
    /// [`crate::clock::booted`].
    pub fn within(&mut self, place: usize, words: Vec<String>) {
        self.members[place].within = words;
    }

    /// The command that runs a member.
    pub fn command(&self, place: usize) -> Command {
        let member = &self.members[place];
        let mut words = member.disk.as_ref().map_or_else(Vec::new, Disk::enter);
        words.extend(member.within.iter().cloned());
        let mut words = words.into_iter().map(std::ffi::OsString::from);
        let mut command = Command::new(words.next().unwrap_or_else(|| (&self.program).into()));
        if !command.get_program().eq(self.program.as_os_str()) {
            command.args(words).arg(&self.program);
        }
        if let Some(clock) = &member.clock {
            clock.give(&mut command);
        }
        command.arg("--config").arg(self.settings(place));
        for setting in self.options.set.iter().chain(&self.members[place].set) {
            command.args(["--set", setting]);
        }
        command.env("RUST_BACKTRACE", "1");
        command
    }

    /// Starts a member that does not run, with the data it has; does not wait.
    pub fn spawn(&mut self, place: usize) -> Result<()> {
        let command = self.command(place);
        let member = &mut self.members[place];
        if let Some(running) = &mut member.process {
            ensure!(running.ended().is_some(), "{} runs already", member.name);
        }
        let process = Process::spawn(&member.name, command, &member.dir.join("log"))?;
        self.links.is_process(place, process.pid());
        member.process = Some(process);
        Ok(())
    }

    /// Waits until a member says it is ready.
    pub async fn ready(&mut self, place: usize) -> Result<()> {
        let address = self.members[place].at(OPS);
        let begun = std::time::Instant::now();
        loop {
            let said = http_get(address, "/readyz", Duration::from_secs(2)).await;
            let said = match said {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => format!("{status} {body}"),
                Err(error) => format!("{error:#}"),
            };
            let member = &mut self.members[place];
            let process = member.process.as_mut().context("does not run")?;
            let log = process.log().to_owned();
            let ended = process.ended();
            if ended.is_some() || begun.elapsed() > self.options.patience {
                let tail = logs::tail(&log, 30);
                bail!("{} is not ready ({ended:?}): {said}\n{tail}", self.members[place].name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every member votes.
    pub async fn all_vote(&self) -> Result<()> {
        let client = self.client()?;
        let count = self.members.len();
        eventually("all members vote", self.options.patience, || async {
            let members = client.members().await?;
            let voters = members.iter().filter(|member| !member.learner).count();
            ensure!(members.len() == count && voters == count, "{voters} of {members:?}");
            Ok(())
        })
        .await
    }

    /// SIGKILL.
    pub fn kill(&mut self, place: usize) {
        self.members[place].process = None;
    }

    /// SIGTERM; waits for its end.
    pub async fn terminate(&mut self, place: usize) -> Result<()> {
        let process = self.process(place)?;
        let status = process.terminate(Duration::from_secs(30)).await?;
        ensure!(status.success(), "member {place} ended with {status}");
        self.members[place].process = None;
        Ok(())
    }

    /// The process of a member that runs.
    pub fn process(&mut self, place: usize) -> Result<&mut Process> {
        self.members[place].process.as_mut().context("the member does not run")
    }

    /// All running processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().filter_map(|member| member.process.as_ref())
    }

    /// Deletes the data of a member that does not run.
    pub fn wipe(&mut self, place: usize) -> Result<()> {
        let member = &self.members[place];
        ensure!(member.process.is_none(), "the member runs");
        let seen = member.disk.as_ref().map(|disk| disk.seen(&member.data));
        Ok(std::fs::remove_dir_all(seen.as_ref().unwrap_or(&member.data))?)
    }

    /// From now on the member joins when its data folder is empty, even the one that formed.
    pub fn join_again(&mut self, place: usize) -> Result<()> {
        let path = self.settings(place);
        let text = std::fs::read_to_string(&path)?;
        let peers: Vec<String> = (0..self.members.len())
            .filter(|other| *other != place)
            .map(|other| format!("\"{}\"", self.peer_url(other)))
            .collect();
        let text: String = text
            .lines()
            .map(|line| match line.split_once(" = ").map(|(key, _)| key) {
                Some("initial") => "initial = \"join\"\n".to_owned(),
                Some("join") => format!("join = [{}]\n", peers.join(", ")),
                _ => format!("{line}\n"),
            })
            .collect();
        Ok(std::fs::write(path, text)?)
    }

    /// How many members there are, running or not.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True before the first [`Cluster::add`].
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The network between them.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// A member's name.
    pub fn name(&self, place: usize) -> &str {
        &self.members[place].name
    }

    /// Where clients reach a member.
    pub fn endpoint(&self, place: usize) -> String {
        let member = &self.members[place];
        match self.options.tls {
            true => format!("https://{}", member.at(CLIENT)),
            false => format!("http://{}", member.at(PLAIN)),
        }
    }

    /// What a member advertises to its peers.
    pub fn peer_url(&self, place: usize) -> String {
        let member = &self.members[place];
        match self.options.tls {
            true => format!("https://{}", member.at(PEER_PROXY)),
            false => format!("http://{}", member.at(PEER)),
        }
    }

    /// The addresses a member listens on: client, peer, ops.
    pub fn listeners(&self, place: usize) -> [SocketAddr; 3] {
        [CLIENT, PEER, OPS].map(|port| self.members[place].at(port))
    }

    /// A member's log.
    pub fn log(&self, place: usize) -> PathBuf {
        self.members[place].dir.join("log")
    }

    /// The files of the operator's certificate.
    pub fn operator(&self) -> &TlsFiles {
        &self.operator
    }

    /// The operator's certificate; none without TLS.
    pub fn tls(&self) -> Result<Option<rpc::Tls>> {
        Ok(match self.options.tls {
            true => Some(rpc::Tls::load(&self.operator)?),
            false => None,
        })
    }

    /// The place of the leader, as a majority of all members says.
    pub async fn leader(&self) -> Result<usize> {
        let client = self.client()?;
        eventually("a majority agrees on a leader", self.options.patience, || async {
            let answers = client.status().await;
            let known: Vec<_> = answers.iter().map(|(_, status)| status.as_ref().ok()).collect();
            for (place, candidate) in known.iter().enumerate() {
                let Some(candidate) = candidate.filter(|status| status.leader == status.member)
                else {
                    continue;
                };
                let agree = |status: &&_| {
                    let status: &chainfire_client::EndpointStatus = status;
                    status.leader == candidate.member && status.raft_term == candidate.raft_term
                };
                if known.iter().flatten().filter(|s| agree(s)).count() * 2 > self.members.len() {
                    return Ok(place);
                }
            }
            bail!("{answers:?}")
        })
        .await
    }

    /// From now on log errors that hold this text are no failure.
    pub fn expect_error(&mut self, text: impl Into<String>) {
        self.expected.push(text.into());
    }

    /// Errors in the logs that nobody expected.
    pub fn unexpected_errors(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (place, member) in self.members.iter().enumerate() {
            for line in logs::unexpected(&self.log(place), &self.expected) {
                all.push(format!("{}: {line}", member.name));
            }
        }
        all
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "the logs of a failed test are its explanation")]
    fn drop(&mut self) {
        for member in &mut self.members {
            // Whoever waits for a disk that stands still cannot be killed.
            member.disk.as_mut().map(Disk::thaw);
            member.process = None;
        }
        if std::thread::panicking() {
            for (place, member) in self.members.iter().enumerate() {
                eprintln!("--- {}\n{}", member.name, logs::tail(&self.log(place), 40));
            }
            return;
        }
        let errors = self.unexpected_errors();
        assert!(
            errors.is_empty(),
            "errors in the logs that nobody expected:\n{}",
            errors.join("\n")
        );
    }
}
