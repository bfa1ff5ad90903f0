//! Figures for people and for programs.

use crate::load::{Op, Round};
use crate::servers::Side;
use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::json;
use std::fmt;

/// All rounds of one server on one piece of work.
#[derive(Debug)]
pub(crate) struct Cell {
    side: Side,
    pub(crate) rounds: Vec<Round>,
}

/// One piece of work on all servers.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) nodes: u8,
    pub(crate) op: Op,
    pub(crate) clients: usize,
    pub(crate) cells: Vec<Cell>,
}

impl Cell {
    pub(crate) fn new(side: Side) -> Cell {
        Cell { side, rounds: Vec::new() }
    }

    fn mean(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        self.rounds.iter().map(figure).sum::<f64>() / self.rounds.len().max(1) as f64
    }

    fn per_second(&self) -> f64 {
        self.mean(|round| round.per_second)
    }

    /// Half the distance between the best and the worst round, in percent of the mean.
    fn spread(&self) -> f64 {
        let figures = || self.rounds.iter().map(|round| round.per_second);
        let (low, high) = figures().fold((f64::MAX, 0f64), |(l, h), x| (l.min(x), h.max(x)));
        50.0 * (high - low) / self.per_second()
    }

    /// Milliseconds at a quantile, over all rounds.
    fn latency(&self, quantile: f64) -> f64 {
        let mut all = self.rounds.iter().map(|round| &round.latency);
        let Some(first) = all.next() else { return f64::NAN };
        let mut sum: Histogram<u32> = first.clone();
        for more in all {
            let _ = sum.add(more); // the bounds are the same everywhere
        }
        sum.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Microseconds of the server's CPU for each request.
    fn cost(&self) -> f64 {
        1e6 * self.mean(|round| round.server_cores) / self.per_second()
    }
}

impl Row {
    /// First server over second; none where only one was measured.
    fn ratio(&self) -> Option<f64> {
        match &self.cells[..] {
            [ours, peer] => Some(ours.per_second() / peer.per_second()),
            _ => None,
        }
    }
}

pub(crate) fn head() -> String {
    format!(
        "{:>5} {:8} {:>7} | {:9} {:>9} {:>4} {:>8} {:>8} {:>6} {:>7} {:>6} | {:>6}",
        "nodes",
        "op",
        "clients",
        "server",
        "per s",
        "±%",
        "p50 ms",
        "p99 ms",
        "cores",
        "µs/op",
        "MiB",
        "ratio"
    )
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, cell) in self.cells.iter().enumerate() {
            if place > 0 {
                writeln!(out)?;
            }
            let ratio = match self.ratio() {
                Some(ratio) if place == 0 => format!("{ratio:.2}"),
                _ => String::new(),
            };
            write!(
                out,
                "{:>5} {:8} {:>7} | {:9} {:>9.0} {:>4.0} {:>8.2} {:>8.2} {:>6.2} {:>7.1} {:>6.0} | {ratio:>6}",
                self.nodes,
                self.op.to_string(),
                self.clients,
                cell.side.to_string(),
                cell.per_second(),
                cell.spread(),
                cell.latency(0.5),
                cell.latency(0.99),
                cell.mean(|round| round.server_cores),
                cell.cost(),
                cell.mean(|round| round.resident as f64) / f64::from(1 << 20),
            )?;
        }
        Ok(())
    }
}

/// The lowest ratio, and how many are below one.
pub(crate) fn foot(rows: &[Row]) -> String {
    let ratios: Vec<f64> = rows.iter().filter_map(Row::ratio).collect();
    let Some(least) = ratios.iter().copied().reduce(f64::min) else { return String::new() };
    let below = ratios.iter().filter(|ratio| **ratio < 1.0).count();
    let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
    format!(
        "ratios of throughput: least {least:.2}, geometric mean {mean:.2}, below one {below} of {}",
        ratios.len()
    )
}

pub(crate) fn json(rows: &[Row]) -> Result<String> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let servers: serde_json::Map<_, _> = row
                .cells
                .iter()
                .map(|cell| {
                    let figures = json!({
                        "per_second": cell.per_second(),
                        "spread_percent": cell.spread(),
                        "p50_ms": cell.latency(0.5),
                        "p99_ms": cell.latency(0.99),
                        "server_cores": cell.mean(|round| round.server_cores),
                        "load_cores": cell.mean(|round| round.load_cores),
                        "server_us_per_op": cell.cost(),
                        "resident_bytes": cell.mean(|round| round.resident as f64),
                        "rounds": cell.rounds.iter().map(|round| round.per_second).collect::<Vec<_>>(),
                    });
                    (cell.side.to_string(), figures)
                })
                .collect();
            json!({
                "nodes": row.nodes,
                "op": row.op.to_string(),
                "clients": row.clients,
                "servers": servers,
                "ratio": row.ratio(),
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&json!({ "rows": rows }))? + "\n")
}
