//! `bench`: each service and its peers on the same work, in one run, on one machine.
//!
//! Figures of different runs do not compare (the machine is never the same twice), so a run
//! measures both servers in turn, again and again, and what counts is the ratio.

#![forbid(unsafe_code)]

mod load;
mod report;
mod servers;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use load::{Load, Op};
use report::{Cell, Row};
use servers::{Server, Side};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "bench", about = "Measure PlasmaCloud's services beside their peers")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Chainfire beside Debian's etcd (package etcd-server), both with fsync, without TLS
    #[command(after_help = "Examples:\n  \
        cargo run --release -p bench -- chainfire\n  \
        cargo run --release -p bench -- chainfire --nodes 3 --clients 64 --ops put --seconds 5\n  \
        cargo run --release -p bench -- chainfire --json ratios.json")]
    Chainfire(Settings),
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
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Kinds of work: put, get-lin, get-ser
    #[arg(long, value_delimiter = ',', default_value = "put,get-lin,get-ser")]
    ops: Vec<Op>,
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
    /// Servers to measure
    #[arg(long, value_delimiter = ',', default_value = "chainfire,etcd")]
    servers: Vec<Side>,
    /// Folder for the servers' data, on the disk to be measured
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Chainfire's binary; built in release mode if not given
    #[arg(long)]
    chainfire: Option<PathBuf>,
    /// Also write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let What::Chainfire(settings) = Cli::parse().what;
    let mut runtime = match settings.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(settings.threads.max(1)).enable_all().build()?;
    runtime.block_on(run(settings))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "results and progress of a program")]
async fn run(settings: Settings) -> Result<()> {
    ensure!(settings.rounds > 0 && settings.seconds > 0.0, "nothing to measure");
    ensure!(settings.value >= load::MIN_VALUE, "a value has at least {} bytes", load::MIN_VALUE);
    let program = servers::chainfire_binary(&settings)?;
    let mut rows = Vec::new();
    println!("{}", report::head());
    for &nodes in &settings.nodes {
        let mut running = Vec::new();
        for &side in &settings.servers {
            eprintln!("starting {side} with {nodes} node(s)");
            let server = Server::start(side, nodes, program.as_deref(), &settings).await;
            running.push(server.with_context(|| format!("start {side}"))?);
        }
        if settings.ops.iter().any(|op| *op != Op::Put) {
            for server in &running {
                eprintln!("filling {} with {} keys", server.side(), settings.keys);
                load::fill(&server.endpoints(), &settings).await?;
            }
        }
        for &op in &settings.ops {
            for &clients in &settings.clients {
                let mut cells: Vec<Cell> = running.iter().map(|s| Cell::new(s.side())).collect();
                for _ in 0..settings.rounds {
                    for (server, cell) in running.iter().zip(&mut cells) {
                        let load = Load { op, clients, nodes, settings: &settings };
                        cell.rounds.push(load.run(server).await.with_context(|| {
                            format!("{} of {} with {clients} clients", op, server.side())
                        })?);
                    }
                }
                let row = Row { nodes, op, clients, cells };
                println!("{row}");
                rows.push(row);
            }
        }
    }
    println!("{}", report::foot(&rows));
    if let Some(path) = &settings.json {
        std::fs::write(path, report::json(&rows)?)?;
    }
    Ok(())
}

/// How long a round runs before it is counted.
fn warm_up(settings: &Settings) -> Duration {
    Duration::from_secs_f64((settings.seconds / 4.0).min(1.0))
}
