//! What runs while faults strike: writers, watchers, and clients whose history is recorded.

use crate::Cluster;
use crate::history::{Input, Output, Recorder, Value};
use crate::watched::{self, Change, Revision};
use anyhow::{Context, Result, bail, ensure};
use chainfire_client::{Client, Error, EventKind, Expect, Swap, Watch, Watcher};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);

/// Where a watch began, and what it saw.
type Seen = (i64, Vec<Revision>);

/// What was acknowledged: key to revision.
type Acked = Arc<Mutex<HashMap<String, i64>>>;

/// Tasks that write keys which no one else writes, each once.
#[derive(Debug)]
pub struct Writers {
    stop: CancellationToken,
    acked: Acked,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// One writer for each client, each with keys of its own under `prefix`.
    pub fn start(clients: Vec<Client>, prefix: &str) -> Writers {
        let stop = CancellationToken::new();
        let acked = Acked::default();
        let tasks = clients
            .into_iter()
            .enumerate()
            .map(|(writer, client)| {
                let (stop, acked, prefix) = (stop.clone(), acked.clone(), prefix.to_owned());
                tokio::spawn(async move {
                    let mut pace = interval(Duration::from_millis(4));
                    for number in 0.. {
                        tokio::select! {
                            () = stop.cancelled() => return,
                            _ = pace.tick() => {}
                        }
                        let key = format!("{prefix}{writer}/{number:07}");
                        if let Ok(revision) = client.put(key.clone(), key.clone()).await {
                            acked
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .insert(key, revision);
                        }
                    }
                })
            })
            .collect();
        Writers { stop, acked, tasks }
    }

    /// Writes acknowledged so far.
    pub fn acked(&self) -> HashMap<String, i64> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every write acknowledged until now is there, at its revision.
    pub async fn verify(&self, client: &Client, prefix: &str) -> Result<usize> {
        let acked = self.acked();
        let listing = client.prefix(prefix.to_owned()).await?;
        let there: HashMap<&[u8], i64> =
            listing.kvs.iter().map(|kv| (&kv.key[..], kv.mod_revision)).collect();
        for (key, revision) in &acked {
            match there.get(key.as_bytes()) {
                Some(found) if found == revision => {}
                Some(found) => bail!("{key} acknowledged at {revision}, found at {found}"),
                None => bail!(
                    "acknowledged write lost: {key} at {revision}; the store is at {} with {} keys",
                    listing.revision,
                    there.len()
                ),
            }
        }
        Ok(acked.len())
    }

    /// Stops; whatever is under way ends first.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await?;
        }
        Ok(())
    }
}

/// What a client's watch yields, as the checker reads it.
pub fn plain(changes: chainfire_client::Changes) -> Revision {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let events = changes.events.into_iter().map(|event| Change {
        key: text(&event.kv.key),
        value: (event.kind == EventKind::Put).then(|| text(&event.kv.value)),
    });
    (changes.revision, events.collect())
}

/// Watches of a prefix that read all the time, and are judged at the end.
#[derive(Debug)]
pub struct Watchers {
    prefix: String,
    end: tokio::sync::watch::Sender<i64>,
    tasks: Vec<JoinHandle<Result<Seen>>>,
}

impl Watchers {
    /// One watch for each client, from now on.
    pub async fn start(clients: &[Client], prefix: &str) -> Result<Watchers> {
        let (end, _) = tokio::sync::watch::channel(i64::MAX);
        let mut watchers = Watchers { prefix: prefix.to_owned(), end, tasks: Vec::new() };
        for client in clients {
            watchers.add(client).await?;
        }
        Ok(watchers)
    }

    /// One more, from now on.
    pub async fn add(&mut self, client: &Client) -> Result<()> {
        let watcher = client.watch(Watch::prefix(self.prefix.clone())).await?;
        self.tasks.push(tokio::spawn(read_until(watcher, self.end.subscribe())));
        Ok(())
    }

    /// Writes a last key, and compares what each saw with the history up to it.
    pub async fn verify(self, client: &Client) -> Result<usize> {
        let key = format!("{}end", self.prefix);
        let last = crate::eventually("a last write", PATIENCE, || async {
            Ok(client.put(key.clone(), "end").await?)
        })
        .await?;
        let all = client.watch(Watch::prefix(self.prefix.clone()).from(1)).await?;
        let (_, ended) = tokio::sync::watch::channel(last);
        let (_, truth) = timeout(PATIENCE, read_until(all, ended)).await.context("history")??;
        self.end.send_replace(last);
        for task in self.tasks {
            let (from, seen) = timeout(PATIENCE, task).await.context("a watcher is stuck")???;
            watched::check(&truth, &seen, from, last)
                .with_context(|| format!("watcher from {from} to {last}"))?;
        }
        Ok(truth.len())
    }
}

/// Reads until the revision that is named as the end has come.
async fn read_until(
    mut watcher: Watcher,
    mut end: tokio::sync::watch::Receiver<i64>,
) -> Result<Seen> {
    let mut seen: Vec<Revision> = Vec::new();
    let mut named = true;
    loop {
        let last = *end.borrow_and_update();
        if seen.last().is_some_and(|(revision, _)| *revision >= last) {
            return Ok((watcher.from(), seen));
        }
        tokio::select! {
            changes = watcher.next() => seen.push(plain(changes?)),
            changed = end.changed(), if named => named = changed.is_ok(),
        }
    }
}

/// Clients that put, get and swap a few registers, all recorded.
#[derive(Debug)]
pub struct Registers {
    recorder: Recorder,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Registers {
    /// Keys are `<prefix>0` to `<prefix><keys-1>`, and must not exist.
    pub fn start(clients: Vec<Client>, prefix: &str, keys: usize, seed: u64) -> Registers {
        let (recorder, stop) = (Recorder::new(), CancellationToken::new());
        let tasks = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                let one = Register {
                    number,
                    client,
                    prefix: prefix.to_owned(),
                    keys,
                    random: SmallRng::seed_from_u64(seed + number as u64),
                    recorder: recorder.clone(),
                    seen: BTreeMap::new(),
                };
                tokio::spawn(one.run(stop.clone()))
            })
            .collect();
        Registers { recorder, stop, tasks }
    }

    /// Stops, and checks the history; how many operations it has, and how many without answer.
    pub async fn verify(mut self) -> Result<(usize, usize)> {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await?;
        }
        let recorder = self.recorder.clone();
        // The search may take a while and never yields.
        let judged = tokio::task::spawn_blocking(move || crate::linearizable::check(&recorder));
        if let Err(violation) = judged.await? {
            let history = crate::linearizable::show_key(&self.recorder, &violation.key);
            return Err(anyhow::Error::new(violation).context(history));
        }
        Ok(self.recorder.counts())
    }
}

struct Register {
    number: usize,
    client: Client,
    prefix: String,
    keys: usize,
    random: SmallRng,
    recorder: Recorder,
    /// What this client last saw of a key: a swap from it has a chance.
    seen: BTreeMap<String, Option<Value>>,
}

impl Register {
    async fn run(mut self, stop: CancellationToken) {
        let mut pace = interval(Duration::from_millis(3));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for count in 0.. {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = pace.tick() => {}
            }
            let key = format!("{}{}", self.prefix, self.random.random_range(0..self.keys));
            let new: Value = format!("{}.{count}", self.number).into();
            match self.random.random_range(0..10) {
                0..5 => self.get(key).await,
                5..7 => self.put(key, new).await,
                _ => self.cas(key, new).await,
            }
        }
    }

    async fn get(&mut self, key: String) {
        let pending = self.recorder.begin(self.number, key.clone(), Input::Get);
        match self.client.get(key.clone()).await {
            Ok(kv) => {
                let value = kv.map(text);
                pending.end(Output::Saw(value.clone()));
                self.seen.insert(key, value);
            }
            Err(_) => pending.never_happened(),
        }
    }

    async fn put(&mut self, key: String, new: Value) {
        let pending = self.recorder.begin(self.number, key.clone(), Input::Put(new.clone()));
        match self.client.put(key, new.as_bytes().to_vec()).await {
            Ok(_) => pending.end(Output::Done),
            Err(error) => failed(pending, &error),
        }
    }

    async fn cas(&mut self, key: String, new: Value) {
        let expect = self.seen.get(&key).cloned().flatten();
        let input = Input::Cas { expect: expect.clone(), new: new.clone() };
        let condition = match &expect {
            Some(value) => Expect::Value(value.as_bytes().to_vec().into()),
            None => Expect::Absent,
        };
        let pending = self.recorder.begin(self.number, key.clone(), input);
        match self.client.cas(key.clone(), condition, new.as_bytes().to_vec()).await {
            Ok(Swap::Swapped { .. }) => {
                pending.end(Output::Swapped);
                self.seen.insert(key, Some(new));
            }
            Ok(Swap::Conflict { current }) => {
                let current = current.map(text);
                pending.end(Output::Conflict(current.clone()));
                self.seen.insert(key, current);
            }
            Err(error) => failed(pending, &error),
        }
    }
}

/// Only where the client is sure is an operation left out.
fn failed(pending: crate::history::Pending, error: &Error) {
    if error.fate_unknown() {
        drop(pending);
    } else {
        pending.never_happened();
    }
}

fn text(kv: chainfire_client::KeyValue) -> Value {
    String::from_utf8_lossy(&kv.value).into()
}

/// Writes a key until that is acknowledged: a change of leader may leave a write's fate unknown, and
/// to write the same again must do no harm.
pub async fn write(client: &Client, key: &str, value: &str) -> Result<()> {
    crate::eventually("an acknowledged write", PATIENCE, || async {
        client.put(key.to_owned(), value.to_owned()).await?;
        Ok(())
    })
    .await
}

/// Waits until a put through this client succeeds; how long that took.
pub async fn serves_again(client: &Client) -> Result<Duration> {
    let begun = std::time::Instant::now();
    write(client, "serves", "again").await.context("the cluster serves")?;
    Ok(begun.elapsed())
}

/// Kills a member and starts it again; how long the others took to serve.
pub async fn kill_and_restart(cluster: &mut Cluster, place: usize) -> Result<Duration> {
    cluster.kill(place);
    let gap = serves_again(&cluster.quick_client()?).await?;
    cluster.spawn(place)?;
    cluster.ready(place).await?;
    Ok(gap)
}

/// Fails unless all members hold the same keys under a prefix, and the same history: the same log
/// gives the same store.
pub async fn same_everywhere(cluster: &Cluster, prefix: &str) -> Result<()> {
    let mut listings = Vec::new();
    for client in cluster.client_of_each()? {
        listings.push(client.prefix(prefix.to_owned()).await?.kvs);
    }
    ensure!(listings.windows(2).all(|pair| pair[0] == pair[1]), "members differ under {prefix}");
    same_history(&cluster.client()?).await
}

/// Waits until all members have the same history, by the hash of it.
pub async fn same_history(client: &Client) -> Result<()> {
    let revision = client.revision().await?;
    crate::eventually("all members have the same hash", PATIENCE, || async {
        let hashes = client.hashes(revision).await;
        let known: Vec<u32> = hashes.iter().flat_map(|(_, hash)| hash).copied().collect();
        ensure!(known.len() == hashes.len(), "{hashes:?}");
        ensure!(known.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
        Ok(())
    })
    .await
}
