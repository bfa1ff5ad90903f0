//! The same random work on every engine, against a model that is too plain to be wrong.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use engine::{
    Batch, Engine, EngineError, FjallOptions, KeyRange, LossyMemory, Memory, Order, Pair, Snapshot,
    StorageBackend, open_fjall,
};

const SPACES: [&str; 3] = ["one", "two", "three"];

type Spaces = BTreeMap<&'static str, BTreeMap<Bytes, Bytes>>;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn space(&mut self) -> &'static str {
        SPACES[self.below(SPACES.len())]
    }

    /// Few different keys, so that they meet; some long, some prefixes of others.
    fn key(&mut self) -> Bytes {
        let len = 1 + self.below(3);
        let mut key: Vec<u8> = (0..len).map(|_| [0, b'a', b'b', 0xff][self.below(4)]).collect();
        if self.below(20) == 0 {
            key.resize(300, b'x');
        }
        key.into()
    }

    fn value(&mut self) -> Bytes {
        let len = if self.below(10) == 0 { 5000 } else { self.below(20) };
        (0..len).map(|_| self.next() as u8).collect::<Vec<_>>().into()
    }

    fn bound(&mut self) -> Bound<Bytes> {
        match self.below(5) {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Included(self.key()),
            _ => Bound::Excluded(if self.below(10) == 0 { Bytes::new() } else { self.key() }),
        }
    }
}

/// An engine under test, and how it loses power.
trait Subject {
    fn engine(&self) -> Engine;
    fn crash(&mut self, random: &mut Random);
}

/// One thing that was done since the last persist.
#[derive(Clone)]
enum Step {
    Write(Vec<(&'static str, Bytes, Option<Bytes>)>),
    Replace(&'static str, BTreeMap<Bytes, Bytes>),
}

impl Step {
    fn apply(&self, spaces: &mut Spaces) {
        match self {
            Step::Write(changes) => {
                for (space, key, value) in changes {
                    let map = spaces.get_mut(space).unwrap();
                    match value {
                        Some(value) => map.insert(key.clone(), value.clone()),
                        None => map.remove(key),
                    };
                }
            }
            Step::Replace(space, map) => {
                spaces.insert(space, map.clone());
            }
        }
    }
}

/// What an engine should hold.
struct Model {
    now: Spaces,
    persisted: Spaces,
    since: Vec<Step>,
}

impl Model {
    fn new() -> Model {
        let now: Spaces = SPACES.iter().map(|space| (*space, BTreeMap::new())).collect();
        Model { persisted: now.clone(), now, since: Vec::new() }
    }

    fn step(&mut self, step: Step) {
        step.apply(&mut self.now);
        self.since.push(step);
    }

    fn persist(&mut self) {
        self.persisted = self.now.clone();
        self.since.clear();
    }

    /// For people: how each space fits.
    fn explain(&self, found: &Spaces) -> String {
        let mut lines = String::new();
        for space in SPACES {
            lines += &format!("{space}: persisted {}", self.persisted[space] == found[space]);
            let mut spaces = self.persisted.clone();
            for (at, step) in self.since.iter().enumerate() {
                step.apply(&mut spaces);
                let kind = match step {
                    Step::Write(changes) => format!("write {}", changes.len()),
                    Step::Replace(space, map) => format!("replace {space} by {}", map.len()),
                };
                lines += &format!("\n  {at} {kind}: {}", spaces[space] == found[space]);
            }
            lines += "\n";
        }
        lines
    }

    /// After a crash: some prefix of the writes since the last persist, and of the replaced
    /// spaces at least as many.
    fn survived(&self, found: &Spaces) -> bool {
        let count = self.since.len();
        (0..=count).any(|writes| {
            (writes..=count).any(|others| {
                let mut spaces = self.persisted.clone();
                for (at, step) in self.since.iter().enumerate() {
                    let survives = match step {
                        Step::Write(_) => at < writes,
                        Step::Replace(..) => at < others,
                    };
                    if survives {
                        step.apply(&mut spaces);
                    }
                }
                spaces == *found
            })
        })
    }
}

fn expected(map: &BTreeMap<Bytes, Bytes>, range: &KeyRange, order: Order) -> Vec<Pair> {
    let inside = |key: &Bytes| {
        (match &range.0 {
            Bound::Included(low) => key >= low,
            Bound::Excluded(low) => key > low,
            Bound::Unbounded => true,
        }) && (match &range.1 {
            Bound::Included(high) => key <= high,
            Bound::Excluded(high) => key < high,
            Bound::Unbounded => true,
        })
    };
    let pairs = map.iter().filter(|(key, _)| inside(key));
    let mut pairs: Vec<Pair> = pairs.map(|(key, value)| (key.clone(), value.clone())).collect();
    if order == Order::Descending {
        pairs.reverse();
    }
    pairs
}

fn everything(engine: &dyn StorageBackend) -> Result<Spaces, EngineError> {
    let mut spaces = Spaces::new();
    for space in SPACES {
        let pairs = engine.iter(space, engine::all(), Order::Ascending);
        spaces.insert(space, pairs.collect::<Result<_, _>>()?);
    }
    Ok(spaces)
}

fn run(subject: &mut dyn Subject, seed: u64, steps: usize, crashes: bool) {
    let mut random = Random(seed);
    let mut model = Model::new();
    let mut engine = subject.engine();
    let mut held: Vec<(Arc<dyn Snapshot>, Spaces)> = Vec::new();
    for at in 0..steps {
        let what = format!("seed {seed} step {at}");
        match random.below(100) {
            0..40 => {
                let mut batch = Batch::new();
                let mut changes = Vec::new();
                for _ in 0..random.below(8) {
                    let (space, key) = (random.space(), random.key());
                    if random.below(3) == 0 {
                        batch.delete(space, key.clone());
                        changes.push((space, key, None));
                    } else {
                        let value = random.value();
                        batch.put(space, key.clone(), value.clone());
                        changes.push((space, key, Some(value)));
                    }
                }
                engine.write(batch).unwrap();
                model.step(Step::Write(changes));
            }
            40..55 => {
                let (space, key) = (random.space(), random.key());
                let wanted = model.now[space].get(&key).cloned();
                assert_eq!(engine.get(space, &key).unwrap(), wanted, "{what}");
            }
            55..75 => {
                let (space, range) = (random.space(), (random.bound(), random.bound()));
                let order = if random.below(2) == 0 { Order::Ascending } else { Order::Descending };
                let count = if random.below(3) == 0 { random.below(5) } else { usize::MAX };
                let found = engine.iter(space, range.clone(), order).take(count);
                let found: Vec<Pair> = found.collect::<Result<_, _>>().unwrap();
                let mut wanted = expected(&model.now[space], &range, order);
                wanted.truncate(count);
                assert_eq!(found, wanted, "{what} {range:?} {order:?}");
                engine.approximate_size(space, range).unwrap();
            }
            75..82 => {
                if held.len() > 3 {
                    held.remove(random.below(4));
                }
                held.push((engine.snapshot().unwrap(), model.now.clone()));
            }
            82..90 => {
                if let Some((snapshot, spaces)) = held.get(random.below(held.len())) {
                    let space = random.space();
                    let (range, key) = ((random.bound(), random.bound()), random.key());
                    let wanted = expected(&spaces[space], &range, Order::Descending);
                    let found = snapshot.iter(space, range, Order::Descending);
                    assert_eq!(found.collect::<Result<Vec<_>, _>>().unwrap(), wanted, "{what}");
                    let wanted = spaces[space].get(&key).cloned();
                    assert_eq!(snapshot.get(space, &key).unwrap(), wanted, "{what}");
                }
            }
            90..93 => {
                let space = random.space();
                engine.drop_space(space).unwrap();
                model.step(Step::Replace(space, BTreeMap::new()));
            }
            93..96 => {
                let space = random.space();
                if !model.now[space].is_empty() {
                    let refused = engine.ingest(space, &mut std::iter::empty());
                    assert!(matches!(refused, Err(EngineError::Misuse(_))), "{what}");
                    engine.drop_space(space).unwrap();
                    model.step(Step::Replace(space, BTreeMap::new()));
                }
                let map: BTreeMap<_, _> =
                    (0..random.below(40)).map(|_| (random.key(), random.value())).collect();
                engine.ingest(space, &mut map.clone().into_iter().map(Ok)).unwrap();
                // Nothing is nothing: it does not empty what a crash brings back.
                if !map.is_empty() {
                    model.step(Step::Replace(space, map));
                }
            }
            96..98 => {
                engine.persist().unwrap();
                model.persist();
            }
            _ if crashes => {
                held.clear();
                drop(engine);
                subject.crash(&mut random);
                engine = subject.engine();
                let found = everything(&*engine).unwrap();
                assert!(model.survived(&found), "{what}: {}", model.explain(&found));
                model = Model { now: found.clone(), persisted: found, since: Vec::new() };
            }
            _ => {}
        }
        if model.since.len() > 25 {
            engine.persist().unwrap();
            model.persist();
        }
    }
    assert_eq!(everything(&*engine).unwrap(), model.now, "seed {seed}");
}

struct Plain(Engine);

impl Subject for Plain {
    fn engine(&self) -> Engine {
        Arc::clone(&self.0)
    }
    fn crash(&mut self, _: &mut Random) {}
}

#[test]
fn memory_conforms() {
    for seed in 0..60 {
        run(&mut Plain(Arc::new(Memory::new(&SPACES))), seed, 400, false);
    }
}

struct Lossy(Arc<LossyMemory>);

impl Subject for Lossy {
    fn engine(&self) -> Engine {
        Arc::<LossyMemory>::clone(&self.0)
    }
    fn crash(&mut self, _: &mut Random) {
        self.0.crash();
    }
}

#[test]
fn lossy_memory_conforms() {
    for seed in 0..60 {
        run(&mut Lossy(Arc::new(LossyMemory::new(&SPACES, seed))), seed, 400, true);
    }
}

/// fjall in a folder. A crash drops it without persisting; half of the time the unsynced end of its
/// write-ahead file is torn as well.
struct OnDisk {
    dir: tempfile::TempDir,
    options: FjallOptions,
    engine: Option<Engine>,
    tear: bool,
}

impl OnDisk {
    fn new(options: FjallOptions, tear: bool) -> OnDisk {
        let dir = tempfile::tempdir().unwrap();
        let engine = Some(open_fjall(dir.path(), &SPACES, options.clone()).unwrap());
        OnDisk { dir, options, engine, tear }
    }
}

impl Subject for OnDisk {
    fn engine(&self) -> Engine {
        Arc::clone(self.engine.as_ref().unwrap())
    }

    fn crash(&mut self, random: &mut Random) {
        self.engine = None;
        if self.tear && random.below(2) == 0 {
            tear(self.dir.path(), random);
        }
        self.engine = Some(open_fjall(self.dir.path(), &SPACES, self.options.clone()).unwrap());
    }
}

/// Takes away sectors of what stands behind the last mark in the newest write-ahead file.
fn tear(dir: &Path, random: &mut Random) {
    let Some(path) = newest_journal(dir) else { return };
    let bytes = std::fs::read(&path).unwrap();
    let mark = std::fs::read(dir.join("mark")).unwrap();
    let places = [&mark[16..40], &mark[512 + 16..512 + 40]];
    let latest = places.iter().max_by_key(|place| place[..8].iter().rev().collect::<Vec<_>>());
    let needle = *latest.unwrap();
    let synced = if needle.iter().all(|byte| *byte == 0) {
        0
    } else {
        bytes.windows(24).rposition(|here| here == needle).map_or(0, |at| at + 24 + 13)
    };
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    if end <= synced {
        return;
    }
    // The file is made of zeros, and its length is durable before it is used.
    let mut torn = bytes;
    let some = random.below(2) == 0;
    let cut = synced + random.below(end - synced);
    for sector in synced / 512..=end / 512 {
        let (start, stop) = ((sector * 512).max(synced), (sector * 512 + 512).min(end));
        if if some { random.below(4) == 0 } else { stop > cut } && start < stop {
            torn[start..stop].fill(0);
        }
    }
    std::fs::write(&path, torn).unwrap();
}

fn newest_journal(dir: &Path) -> Option<std::path::PathBuf> {
    let files = std::fs::read_dir(dir.join("tables")).unwrap().map(|file| file.unwrap().path());
    let journals = files.filter(|path| path.extension().is_some_and(|end| end == "jnl"));
    journals.max_by_key(|path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap())
}

#[test]
fn fjall_conforms() {
    for seed in 0..12 {
        run(&mut OnDisk::new(FjallOptions::default(), true), seed, 250, true);
    }
}

#[test]
fn fjall_conforms_while_it_flushes_and_compacts() {
    // Memtables so small that tables are made and merged all the time.
    let options = FjallOptions { memtable_bytes: 4 << 10, ..FjallOptions::default() };
    for seed in 100..108 {
        run(&mut OnDisk::new(options.clone(), false), seed, 400, true);
    }
}
