//! Figures for people and as JSON: medians over the rounds, and ratios within one run.

use crate::load::Round;
use crate::servers::Side;
use serde_json::{Value, json};
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
    pub(crate) work: String,
    /// Requests in flight, or watchers.
    pub(crate) clients: usize,
    pub(crate) cells: Vec<Cell>,
}

/// The middle one; of an even number the mean of the middle two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

impl Cell {
    pub(crate) fn new(side: Side) -> Cell {
        Cell { side, rounds: Vec::new() }
    }

    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    fn per_second(&self) -> f64 {
        self.median(|round| round.per_second)
    }

    /// Half the distance between the best and the worst round, in percent of the median.
    fn spread(&self) -> f64 {
        let figures = || self.rounds.iter().map(|round| round.per_second);
        let (low, high) = figures().fold((f64::MAX, 0f64), |(l, h), x| (l.min(x), h.max(x)));
        50.0 * (high - low) / self.per_second()
    }

    /// Milliseconds at a quantile.
    fn latency(&self, quantile: f64) -> f64 {
        self.median(|round| round.latency.value_at_quantile(quantile) as f64 / 1000.0)
    }

    /// Microseconds of the server's CPU for each request or event: what a disturbed machine says
    /// most reliably.
    fn cost(&self) -> f64 {
        self.median(|round| 1e6 * round.server_cores / round.per_second)
    }
}

/// What the others are measured against.
struct Against<'a> {
    ours: &'a Cell,
    peer: &'a Cell,
}

impl Against<'_> {
    fn per_second(&self) -> f64 {
        self.ours.per_second() / self.peer.per_second()
    }

    fn p99(&self) -> f64 {
        self.ours.latency(0.99) / self.peer.latency(0.99)
    }

    fn cost(&self) -> f64 {
        self.ours.cost() / self.peer.cost()
    }
}

impl Row {
    /// Ours over each of the others.
    fn ratios(&self) -> Vec<(Side, Against<'_>)> {
        let Some(ours) = self.cells.iter().find(|cell| cell.side == Side::Chainfire) else {
            return Vec::new();
        };
        let others = self.cells.iter().filter(|cell| cell.side != Side::Chainfire);
        others.map(|peer| (peer.side, Against { ours, peer })).collect()
    }
}

pub(crate) fn head() -> String {
    format!(
        "{:>5} {:15} {:>7} | {:10} {:>9} {:>4} {:>8} {:>8} {:>6} {:>7} {:>6} | chainfire over it: {:>5} {:>5} {:>5}",
        "nodes",
        "work",
        "clients",
        "server",
        "per s",
        "±%",
        "p50 ms",
        "p99 ms",
        "cores",
        "µs/op",
        "MiB",
        "per s",
        "p99",
        "µs/op"
    )
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratios = self.ratios();
        for (place, cell) in self.cells.iter().enumerate() {
            if place > 0 {
                writeln!(out)?;
            }
            write!(
                out,
                "{:>5} {:15} {:>7} | {:10} {:>9.0} {:>4.0} {:>8.2} {:>8.2} {:>6.2} {:>7.1} {:>6.0} |",
                self.nodes,
                self.work,
                self.clients,
                cell.side.to_string(),
                cell.per_second(),
                cell.spread(),
                cell.latency(0.5),
                cell.latency(0.99),
                cell.median(|round| round.server_cores),
                cell.cost(),
                cell.median(|round| round.resident as f64) / f64::from(1 << 20),
            )?;
            if let Some((_, against)) = ratios.iter().find(|(side, _)| *side == cell.side) {
                write!(
                    out,
                    "                    {:>5.2} {:>5.2} {:>5.2}",
                    against.per_second(),
                    against.p99(),
                    against.cost()
                )?;
            }
        }
        Ok(())
    }
}

/// Against each server: the lowest ratio of throughput, the mean, and how many are below one.
pub(crate) fn foot(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    for side in [Side::Before, Side::Etcd, Side::Grpc, Side::SyncedLog] {
        let of = |row: &Row| {
            let found = row.ratios().into_iter().find(|(other, _)| *other == side);
            found.map(|(_, against)| against.per_second())
        };
        let ratios: Vec<f64> = rows.iter().filter_map(of).collect();
        let Some(least) = ratios.iter().copied().reduce(f64::min) else { continue };
        let below = ratios.iter().filter(|ratio| **ratio < 1.0).count();
        let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        lines.push(format!(
            "throughput over {side}: least {least:.2}, geometric mean {mean:.2}, below one {below} \
             of {}",
            ratios.len()
        ));
    }
    lines.join("\n")
}

fn cell(cell: &Cell) -> Value {
    json!({
        "per_second": cell.per_second(),
        "spread_percent": cell.spread(),
        "p50_ms": cell.latency(0.5),
        "p99_ms": cell.latency(0.99),
        "server_cores": cell.median(|round| round.server_cores),
        "load_cores": cell.median(|round| round.load_cores),
        "server_us_per_op": cell.cost(),
        "resident_bytes": cell.median(|round| round.resident as f64),
        "rounds": cell.rounds.iter().map(|round| round.per_second).collect::<Vec<_>>(),
    })
}

pub(crate) fn rows(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let servers = row.cells.iter().map(|one| (one.side.to_string(), cell(one)));
        let ratios = row.ratios().into_iter().map(|(side, against)| {
            let figures = json!({
                "per_second": against.per_second(),
                "p99": against.p99(),
                "server_us_per_op": against.cost(),
            });
            (side.to_string(), figures)
        });
        json!({
            "nodes": row.nodes,
            "work": row.work,
            "clients": row.clients,
            "servers": servers.collect::<serde_json::Map<_, _>>(),
            "chainfire_over": ratios.collect::<serde_json::Map<_, _>>(),
        })
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
