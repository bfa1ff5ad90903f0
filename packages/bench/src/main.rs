//! `bench`: each service and its peers on the same work, in one run, on one machine.
//!
//! Figures of different runs do not compare (the machine is never the same twice), so a run
//! measures all servers in turn, again and again, and what counts is the ratio. Two floors run
//! along: a gRPC server that answers at once, and one that appends to a synced log.

#![forbid(unsafe_code)]

mod client;
mod connect;
mod during;
mod expiry;
mod floor;
mod keys;
mod load;
mod report;
mod run;
mod servers;
mod start;
mod watch;
mod work;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use servers::Side;
use std::path::PathBuf;
use std::time::Duration;
use work::Op;

#[derive(Parser)]
#[command(name = "bench", about = "Measure PlasmaCloud's services beside their peers")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Chainfire beside etcd and two floors, all with fsync, without TLS
    #[command(after_help = "Examples:\n  \
        cargo run --release -p bench -- chainfire\n  \
        cargo run --release -p bench -- chainfire --nodes 3 --clients 64 --ops put --seconds 5\n  \
        cargo run --release -p bench -- chainfire --ops none --watchers 1,100,1000 --paced\n  \
        cargo run --release -p bench -- chainfire --ops none --start 1000000\n  \
        cargo run --release -p bench -- chainfire --ops none --during compaction,snapshot\n  \
        PLASMA_BIN_ETCD=/opt/etcd-3.5/etcd cargo run --release -p bench -- chainfire --json a.json")]
    Chainfire(Box<Settings>),
    /// A server that does next to nothing; the benchmark starts it by itself
    #[command(hide = true)]
    Floor(floor::FloorArgs),
}

/// What to measure, and how long.
#[derive(Args, Debug, Clone)]
struct Settings {
    /// Sizes of cluster
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    nodes: Vec<u8>,
    /// Requests in flight
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    clients: Vec<usize>,
    /// Seconds of each round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds of each server on each piece of work, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Kinds of work; `none` for only what other options name
    #[arg(long, value_delimiter = ',', default_value = "put,get-lin,get-ser")]
    ops: Vec<Op>,
    /// Watchers that see every put, unpaced with 16 putters
    #[arg(long, value_delimiter = ',')]
    watchers: Vec<usize>,
    /// Watch also with puts paced to 50,000 events a second (from 50 watchers on)
    #[arg(long)]
    paced: bool,
    /// How late 500 leases of 5 s with a key each end
    #[arg(long)]
    expiry: bool,
    /// Start time and memory with so many keys, of one node
    #[arg(long)]
    start: Option<u64>,
    /// What background work does to puts, of one node
    #[arg(long, value_delimiter = ',')]
    during: Vec<during::Work>,
    /// Connections, shared by the clients; 0: one for each 32 clients, and one to each node
    #[arg(long, default_value_t = 0)]
    connections: usize,
    /// Threads of the load itself
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Keys that are written and read
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value: usize,
    /// Servers to measure; floors only where they know the work, on one node
    #[arg(long, value_delimiter = ',', default_value = "chainfire,etcd,grpc,synced-log")]
    servers: Vec<Side>,
    /// Folder for the servers' data, on the disk to be measured
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Chainfire's binary; built in release mode if not given
    #[arg(long)]
    chainfire: Option<PathBuf>,
    /// Another build of Chainfire to be measured along, to see what a change brings
    #[arg(long)]
    before: Option<PathBuf>,
    /// Also write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Settings {
    /// The servers, that of --before among them.
    fn sides(&self) -> Vec<Side> {
        let mut sides = self.servers.clone();
        if self.before.is_some() && !sides.contains(&Side::Before) {
            sides.insert(1.min(sides.len()), Side::Before);
        }
        sides
    }

    /// Those that keep data.
    fn stores(&self) -> Vec<Side> {
        self.sides().into_iter().filter(|side| !side.is_floor()).collect()
    }
}

fn main() -> Result<()> {
    match Cli::parse().what {
        What::Floor(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(floor::serve(args))
        }
        What::Chainfire(settings) => {
            let mut runtime = match settings.threads {
                1 => tokio::runtime::Builder::new_current_thread(),
                _ => tokio::runtime::Builder::new_multi_thread(),
            };
            let threads = settings.threads.max(1);
            let runtime = runtime.worker_threads(threads).enable_all().build()?;
            runtime.block_on(run::run(*settings))
        }
    }
}

/// How long a round runs before it is counted.
fn warm_up(settings: &Settings) -> Duration {
    Duration::from_secs_f64((settings.seconds / 4.0).min(1.0))
}
