//! Three and five whole members in one thread, on simulated networks, disks and time.
//!
//! Everything is real but the edges: consensus, store, services and their tasks run as they do in a
//! process. Time is tokio's, and stands still while anybody works. Journal and engine are the lossy
//! doubles. Nothing runs on another thread ([`consensus::run_in_place`]), and all chance comes from
//! the seed (`chance`), so the same seed gives the same history; each is lived in a process of
//! its own. What is checked is in `truth`, `work`, `watchers` and `leases`.
//!
//! `PLASMA_SIM_SEEDS=n` lives through n seeds, `PLASMA_SIM_SEED=s` begins with s; see ARCHITECTURE.md.

mod chance;
mod clients;
mod disorder;
mod leases;
mod net;
mod node;
mod trace;
mod truth;
mod watchers;
mod work;
mod world;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What is wrong, in words: only people read it.
#[derive(Debug, Clone, PartialEq)]
struct Wrong(String);

type Lived<T> = Result<T, Wrong>;

impl From<String> for Wrong {
    fn from(what: String) -> Wrong {
        Wrong(what)
    }
}

impl From<&str> for Wrong {
    fn from(what: &str) -> Wrong {
        Wrong(what.to_owned())
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The test that lives through one seed.
const ONE: &str = "simulation::one_seed";
/// Set where disks only say that they synced.
const LYING: &str = "PLASMA_SIM_LYING_DISKS";
/// How many seeds without the environment's word: some six minutes of two cores.
const FEW: u64 = 1000;
/// The long set.
const MANY: u64 = 20_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A folder that no other simulation tries to make at the same time: names come from the seed too,
/// and finding another one when it is taken draws numbers.
fn own_folder() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(&format!("simulation-{}-", std::process::id())).tempdir()
}

/// A cluster of one without any trouble, for other tests.
pub(crate) struct Calm {
    node: node::SimNode,
    doors: clients::Doors,
}

impl Calm {
    pub(crate) async fn start(seed: u64) -> Calm {
        consensus::run_in_place();
        let mut dice = chance::Dice::new(seed);
        let doors = clients::Doors::new(dice.fork());
        let common = node::Common {
            net: net::Net::new(dice.fork()),
            doors: doors.clone(),
            truth: Arc::new(Mutex::new(truth::Truth::new())),
            heartbeat: 100,
            election: 300,
            keep_entries: 30,
            lying_disks: false,
            spool: Arc::new(own_folder().expect("a folder")),
        };
        let mut node = node::SimNode::new(1, &common, &mut dice);
        node.start().await.expect("a first start");
        node.form().await.expect("a cluster of one");
        Calm { node, doors }
    }

    pub(crate) fn routes(&self) -> tonic::service::Routes {
        self.doors.routes(self.node.id).expect("it runs")
    }

    pub(crate) async fn stop(mut self) {
        self.node.stop().await;
    }
}

/// Lives through the seed of `PLASMA_SIM_SEED`, and prints its history if that failed or
/// `PLASMA_SIM_TRACE` is set.
#[test]
#[allow(clippy::print_stdout, reason = "a person asked for this history")]
fn one_seed() {
    let seed = number("PLASMA_SIM_SEED").unwrap_or(1);
    chance::seed_everything(seed);
    // A thread of its own, whose stream of random numbers begins here.
    let lived = std::thread::spawn(move || {
        chance::stop_the_clocks();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let outcome = runtime.block_on(world::play(seed, std::env::var_os(LYING).is_some()));
        if outcome.is_err() || std::env::var_os("PLASMA_SIM_TRACE").is_some() {
            for line in trace::lines() {
                println!("{line}");
            }
        }
        outcome
    });
    match lived.join().unwrap() {
        Ok(outcome) => println!("seed {seed}: {outcome:?}"),
        Err(why) => panic!(
            "seed {seed}: {why}\nreplay: PLASMA_SIM_SEED={seed} cargo test -p chainfire --features simulation --lib {ONE} -- --nocapture"
        ),
    }
}

/// The last words of a process that lives through a seed.
fn child(seed: u64, lying: bool) -> Lived<String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(program)
        .args(["--exact", ONE, "--nocapture", "--test-threads=1"])
        .env("PLASMA_SIM_SEED", seed.to_string())
        .env("RUST_BACKTRACE", "0")
        .envs(lying.then_some((LYING, "1")))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = format!("seed {seed}: Outcome");
    match said.lines().find_map(|line| line.find(&words).map(|at| &line[at..])) {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => {
            let lines: Vec<&str> = said.lines().collect();
            let tail = lines[lines.len().saturating_sub(150)..].join("\n");
            Err(format!("{tail}\n{}", String::from_utf8_lossy(&output.stderr)).into())
        }
    }
}

/// Lives through seeds, as many at once as there are cores.
fn children(seeds: impl Iterator<Item = u64>) -> BTreeMap<u64, Lived<String>> {
    let (seeds, lived) = (Mutex::new(seeds.collect::<Vec<_>>()), Mutex::new(BTreeMap::new()));
    let failures = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while failures.load(Ordering::Relaxed) < 3 {
                    let Some(seed) = seeds.lock().pop() else { return };
                    let outcome = child(seed, false);
                    failures.fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
                    lived.lock().insert(seed, outcome);
                }
            });
        }
    });
    lived.into_inner()
}

fn live_through(count: u64) {
    let first = number("PLASMA_SIM_SEED").unwrap_or(1);
    let count = number("PLASMA_SIM_SEEDS").unwrap_or(count);
    let lived = children((first..first + count).rev());
    let failed: Vec<String> = lived
        .iter()
        .filter_map(|(seed, outcome)| Some(format!("seed {seed}:\n{}", outcome.as_ref().err()?)))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(lived.len() as u64, count);
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_seen_twice_whatever_befalls_the_cluster() {
    live_through(FEW);
}

#[test]
#[ignore = "long: cargo test -p chainfire --features simulation --lib simulation::many_more -- --ignored"]
fn many_more_histories_hold() {
    live_through(MANY);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let first = number("PLASMA_SIM_SEED").unwrap_or(1);
    let once = children(first..first + 6);
    let twice = children(first..first + 6);
    for (seed, outcome) in &once {
        assert_eq!(outcome, &twice[seed]);
    }
}

/// The simulation must be able to fail: here it has every reason to.
#[test]
fn disks_that_only_say_that_they_synced_are_found_out() {
    let found = (1..200).find_map(|seed| child(seed, true).err());
    let Wrong(why) = found.expect("nothing was lost by disks that sync nothing");
    let told =
        ["acknowledged at", "applies another entry", "not linearizable", ": journal:", ": group:"];
    assert!(told.iter().any(|word| why.contains(word)), "{why}");
}
