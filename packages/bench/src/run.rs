//! One run: every piece of work on every server in turn.

use crate::load::{self, Load};
use crate::report::{self, Cell, Row};
use crate::servers::{Programs, Server, Side, programs};
use crate::work::Op;
use crate::{Settings, during, expiry, keys, start, watch};
use anyhow::{Context, Result, ensure};
use serde_json::json;

/// Watchers from which on puts are paced: fewer would need too many puts.
const PACED_FROM: usize = 50;

#[expect(clippy::print_stdout, reason = "results of a program")]
pub(crate) async fn run(settings: Settings) -> Result<()> {
    ensure!(settings.rounds > 0 && settings.seconds > 0.0, "nothing to measure");
    ensure!(settings.value >= keys::KEY, "a value has at least {} bytes", keys::KEY);
    let programs = programs(&settings)?;
    let mut rows = Vec::new();
    if settings.ops.iter().any(|op| *op != Op::None)
        || !settings.watchers.is_empty()
        || settings.expiry
    {
        println!("{}", report::head());
        for &nodes in &settings.nodes {
            cluster(nodes, &programs, &settings, &mut rows).await?;
        }
        println!("{}", report::foot(&rows));
    }
    let mut started: Vec<start::Started> = Vec::new();
    for side in settings.start.iter().flat_map(|_| settings.stores()) {
        let keys = settings.start.unwrap_or_default();
        started.push(start::run(side, keys, &programs, &settings).await?);
    }
    if let Some((ours, peers)) = started.split_first() {
        println!("{}", ours.line(peers.last()));
        peers.iter().for_each(|peer| println!("{}", peer.line(None)));
    }
    let mut disturbed = Vec::new();
    for &work in &settings.during {
        for side in settings.stores() {
            for &clients in &settings.clients {
                let done = during::run(side, work, clients, &programs, &settings).await?;
                println!("{}", done.line());
                disturbed.push(done.json());
            }
        }
    }
    if let Some(path) = &settings.json {
        let all = json!({
            "rows": report::rows(&rows),
            "start": started.iter().map(start::Started::json).collect::<Vec<_>>(),
            "during": disturbed,
        });
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

/// All work on clusters of one size.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "results and progress of a program")]
async fn cluster(
    nodes: u8,
    programs: &Programs,
    settings: &Settings,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut running = Vec::new();
    for side in settings.sides() {
        if side.is_floor() && (nodes > 1 || !settings.ops.iter().any(|op| op.suits(side))) {
            continue;
        }
        eprintln!("starting {side} with {nodes} node(s)");
        let server = Server::start(side, nodes, programs, settings).await;
        running.push(server.with_context(|| format!("start {side}"))?);
    }
    if settings.ops.iter().any(|op| op.needs_keys()) {
        for server in running.iter().filter(|server| !server.side().is_floor()) {
            eprintln!("filling {} with {} keys", server.side(), settings.keys);
            load::fill(&server.endpoints(), settings.keys, settings.value).await?;
        }
    }
    let mut done = |row: Row| {
        println!("{row}");
        rows.push(row);
    };
    for &op in settings.ops.iter().filter(|op| **op != Op::None) {
        for &clients in &settings.clients {
            let measured: Vec<&Server> =
                running.iter().filter(|server| op.suits(server.side())).collect();
            let mut cells: Vec<Cell> = measured.iter().map(|s| Cell::new(s.side())).collect();
            for _ in 0..settings.rounds {
                for (server, cell) in measured.iter().zip(&mut cells) {
                    let load = Load { op, clients, nodes, settings };
                    cell.rounds.push(load.run(server).await.with_context(|| {
                        format!("{} of {} with {clients} clients", op, server.side())
                    })?);
                }
            }
            done(Row { nodes, work: op.to_string(), clients, cells });
        }
    }
    running.retain(|server| !server.side().is_floor());
    for &watchers in &settings.watchers {
        for paced in [false, true] {
            if paced && (!settings.paced || watchers < PACED_FROM) {
                continue;
            }
            let mut cells: Vec<Cell> = running.iter().map(|s| Cell::new(s.side())).collect();
            for _ in 0..settings.rounds {
                for (server, cell) in running.iter().zip(&mut cells) {
                    let round = watch::run(server, watchers, paced, settings).await;
                    cell.rounds.push(round.with_context(|| name(server.side(), "watch"))?);
                }
            }
            let work = if paced { "watch-paced" } else { "watch" }.to_owned();
            done(Row { nodes, work, clients: watchers, cells });
        }
    }
    if settings.expiry {
        let mut cells: Vec<Cell> = running.iter().map(|s| Cell::new(s.side())).collect();
        for _ in 0..settings.rounds {
            for (server, cell) in running.iter().zip(&mut cells) {
                let round = expiry::run(server, settings).await;
                cell.rounds.push(round.with_context(|| name(server.side(), "lease-expiry"))?);
            }
        }
        done(Row { nodes, work: "lease-expiry".into(), clients: 16, cells });
    }
    Ok(())
}

fn name(side: Side, work: &str) -> String {
    format!("{work} of {side}")
}
