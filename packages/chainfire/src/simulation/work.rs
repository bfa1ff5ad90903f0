//! What clients do, what they were answered, and how that is judged against the truth.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, request_op::Request as Op, response_op::Response as Answer,
};
use api::mvccpb::KeyValue;
use bytes::Bytes;
use consensus::NodeId;
use parking_lot::Mutex;
use testkit::history::{Input, Operation, Output, Value};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::chance::Dice;
use super::clients::{Call, Doors, NOT_SENT, patient};
use super::trace::note;
use super::truth::Truth;

/// What was seen, to be judged when all is known.
#[derive(Default)]
pub(super) struct Seen {
    /// The highest revision in any answer that had to be fresh.
    floor: i64,
    pub(super) operations: BTreeMap<String, Vec<Operation>>,
    /// Revision, key, value: what was acknowledged.
    writes: Vec<(i64, Bytes, Option<Bytes>)>,
    /// From, end, revision, and the pairs that were read there.
    reads: Vec<(Bytes, Bytes, i64, Vec<KeyValue>)>,
    pub(super) answered: usize,
    pub(super) failed: usize,
}

/// One client.
pub(super) struct Worker {
    pub(super) id: usize,
    pub(super) dice: Dice,
    pub(super) doors: Doors,
    pub(super) truth: Arc<Mutex<Truth>>,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) zero: Instant,
    /// The revision of the last answer, by node: within a life it never goes back.
    known: BTreeMap<(NodeId, usize), i64>,
    written: u64,
    /// What was last seen of a key.
    last: BTreeMap<Bytes, Option<Bytes>>,
}

const KEYS: u64 = 6;

fn key(n: u64) -> Bytes {
    Bytes::from(format!("k/{n}"))
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shared(value: &Bytes) -> Value {
    text(value).into()
}

fn point(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), ..Default::default() }
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

impl Worker {
    pub(super) fn new(
        id: usize,
        dice: Dice,
        doors: &Doors,
        truth: &Arc<Mutex<Truth>>,
        seen: &Arc<Mutex<Seen>>,
    ) -> Worker {
        Worker {
            id,
            dice,
            doors: doors.clone(),
            truth: truth.clone(),
            seen: seen.clone(),
            zero: Instant::now(),
            known: BTreeMap::new(),
            written: 0,
            last: BTreeMap::new(),
        }
    }

    /// Works until then.
    pub(super) async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            let pause = self.dice.between(5, 120);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let Some(node) = self.doors.any() else { continue };
            let mut kv = KvClient::new(self.doors.to(node));
            let before = self.doors.number(node);
            let done = match self.dice.below(20) {
                0..5 => self.put(&mut kv).await,
                5..9 => self.get(&mut kv).await,
                9..12 => self.swap(&mut kv).await,
                12 | 13 => self.delete(&mut kv).await,
                14 | 15 => self.several(&mut kv).await,
                16 => self.list(&mut kv).await,
                17 => self.past(&mut kv).await,
                18 => self.local(&mut kv).await,
                _ => self.compact(&mut kv).await,
            };
            match done {
                Ok(revision) => {
                    self.seen.lock().answered += 1;
                    self.not_back(node, before, revision);
                }
                Err(status) => {
                    note!("c{} {node}: {:?} {}", self.id, status.code(), status.message());
                    self.seen.lock().failed += 1;
                }
            }
        }
    }

    /// A node's answers of one life never go back; only those that came one after the other count.
    fn not_back(&mut self, node: NodeId, life: Option<usize>, revision: i64) {
        let Some(life) = life.filter(|life| self.doors.number(node) == Some(*life)) else { return };
        let known = self.known.insert((node, life), revision).unwrap_or(0);
        if revision < known {
            let what = format!("c{}: {node} goes back from {known} to {revision}", self.id);
            self.truth.lock().violated(what);
        }
    }

    fn value(&mut self) -> Bytes {
        self.written += 1;
        let size = if self.dice.one_in(10) { self.dice.below(2000) as usize } else { 0 };
        Bytes::from(format!("{}-{}{}", self.id, self.written, ".".repeat(size)))
    }

    fn some_key(&mut self) -> Bytes {
        key(self.dice.below(KEYS))
    }

    fn now(&self) -> u64 {
        (Instant::now() - self.zero).as_nanos() as u64
    }

    /// Notes an operation on a register; what was surely not sent leaves no trace.
    fn record<T>(
        &self,
        key: &Bytes,
        input: Input,
        start: u64,
        out: Result<Output, &Result<T, Status>>,
    ) {
        let output = match out {
            Ok(output) => output,
            Err(Err(status)) if status.message() == NOT_SENT => return,
            Err(_) if input == Input::Get => return,
            Err(_) => Output::Unknown,
        };
        note!("c{} {} {:?} -> {:?}", self.id, text(key), short(&input), short(&output));
        let (client, end) = (self.id, self.now());
        let operation = Operation { client, key: text(key), input, output, start, end };
        self.seen.lock().operations.entry(text(key)).or_default().push(operation);
    }

    /// A fresh answer shows everything that was answered before it was asked for.
    fn fresh(
        &self,
        floor: i64,
        header: Option<api::etcdserverpb::ResponseHeader>,
        wrote: bool,
    ) -> i64 {
        let revision = header.map_or(0, |header| header.revision);
        if revision < floor + i64::from(wrote) {
            let what = format!("c{}: an answer of revision {revision} after {floor}", self.id);
            self.truth.lock().violated(what);
        }
        let mut seen = self.seen.lock();
        seen.floor = seen.floor.max(revision);
        revision
    }

    fn floor(&self) -> i64 {
        self.seen.lock().floor
    }

    async fn put(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let (key, value) = (self.some_key(), self.value());
        let (floor, start) = (self.floor(), self.now());
        let request = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        let answer = patient(kv.put(request)).await;
        let input = Input::Put(shared(&value));
        self.record(&key, input, start, answer.as_ref().map(|_| Output::Done).map_err(|_| &answer));
        let revision = self.fresh(floor, answer?.header, true);
        self.seen.lock().writes.push((revision, key, Some(value)));
        Ok(revision)
    }

    async fn get(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let key = self.some_key();
        let (floor, start) = (self.floor(), self.now());
        let answer = patient(kv.range(point(&key))).await;
        let saw = |kvs: &[KeyValue]| Output::Saw(kvs.first().map(|kv| shared(&kv.value)));
        let out = answer.as_ref().map(|a| saw(&a.kvs)).map_err(|_| &answer);
        self.record(&key, Input::Get, start, out);
        let answer = answer?;
        let revision = self.fresh(floor, answer.header, false);
        self.last.insert(key.clone(), answer.kvs.first().map(|kv| kv.value.clone()));
        self.seen.lock().reads.push((key, Bytes::new(), revision, answer.kvs));
        Ok(revision)
    }

    async fn swap(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let (key, new) = (self.some_key(), self.value());
        let expect = self.last.get(&key).cloned().flatten();
        let (target, target_union) = match &expect {
            Some(value) => (CompareTarget::Value, TargetUnion::Value(value.clone())),
            None => (CompareTarget::Version, TargetUnion::Version(0)),
        };
        let compare = Compare {
            result: CompareResult::Equal as i32,
            target: target as i32,
            key: key.clone(),
            target_union: Some(target_union),
            ..Default::default()
        };
        let put = PutRequest { key: key.clone(), value: new.clone(), ..Default::default() };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![op(Op::RequestPut(put))],
            failure: vec![op(Op::RequestRange(point(&key)))],
        };
        let (floor, start) = (self.floor(), self.now());
        let answer = patient(kv.txn(txn)).await;
        let out = match &answer {
            Ok(answer) if answer.succeeded => Ok(Output::Swapped),
            Ok(answer) => match answer.responses.first().and_then(|r| r.response.as_ref()) {
                Some(Answer::ResponseRange(range)) => {
                    Ok(Output::Conflict(range.kvs.first().map(|kv| shared(&kv.value))))
                }
                other => panic!("{other:?}"),
            },
            Err(_) => Err(&answer),
        };
        let input = Input::Cas { expect: expect.as_ref().map(shared), new: shared(&new) };
        self.record(&key, input, start, out);
        let answer = answer?;
        let revision = self.fresh(floor, answer.header, answer.succeeded);
        if answer.succeeded {
            self.last.insert(key.clone(), Some(new.clone()));
            self.seen.lock().writes.push((revision, key, Some(new)));
        } else {
            self.last.remove(&key);
        }
        Ok(revision)
    }

    async fn delete(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let key = self.some_key();
        let (floor, start) = (self.floor(), self.now());
        let request = DeleteRangeRequest { key: key.clone(), ..Default::default() };
        let answer = patient(kv.delete_range(request)).await;
        let out = answer.as_ref().map(|_| Output::Done).map_err(|_| &answer);
        self.record(&key, Input::Delete, start, out);
        let answer = answer?;
        let revision = self.fresh(floor, answer.header, answer.deleted > 0);
        if answer.deleted > 0 {
            self.seen.lock().writes.push((revision, key, None));
        }
        Ok(revision)
    }

    /// Writes two other keys together, and reads them in the same transaction.
    async fn several(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let (one, two) = (Bytes::from_static(b"t/1"), Bytes::from_static(b"t/2"));
        let value = self.value();
        let put = |key: &Bytes| {
            op(Op::RequestPut(PutRequest {
                key: key.clone(),
                value: value.clone(),
                ..Default::default()
            }))
        };
        let range = RangeRequest {
            range_end: Bytes::from_static(b"t0"),
            ..point(&Bytes::from_static(b"t/"))
        };
        let success = vec![put(&one), put(&two), op(Op::RequestRange(range))];
        let floor = self.floor();
        let answer = patient(kv.txn(TxnRequest { success, ..Default::default() })).await?;
        let revision = self.fresh(floor, answer.header, true);
        let mut seen = self.seen.lock();
        for key in [one, two] {
            seen.writes.push((revision, key, Some(value.clone())));
        }
        if let Some(Answer::ResponseRange(range)) = answer.responses[2].response.clone() {
            let (from, end) = (Bytes::from_static(b"t/"), Bytes::from_static(b"t0"));
            seen.reads.push((from, end, revision, range.kvs));
        }
        Ok(revision)
    }

    async fn list(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let floor = self.floor();
        let (from, end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        let request =
            RangeRequest { key: from.clone(), range_end: end.clone(), ..Default::default() };
        let answer = patient(kv.range(request)).await?;
        let revision = self.fresh(floor, answer.header, false);
        self.seen.lock().reads.push((from, end, revision, answer.kvs));
        Ok(revision)
    }

    /// Reads at an earlier revision, which may be compacted.
    async fn past(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let floor = self.floor();
        let at = (floor - self.dice.below(30) as i64).max(1);
        let (from, end) = (Bytes::from_static(b"k/"), Bytes::from_static(b"k0"));
        let request = RangeRequest {
            key: from.clone(),
            range_end: end.clone(),
            revision: at,
            ..Default::default()
        };
        let answer = match patient(kv.range(request)).await {
            Ok(answer) => answer,
            Err(status) if status.code() == Code::OutOfRange => {
                let compacted = self.truth.lock().compacted;
                if at >= compacted {
                    let what = format!("{} at {at}, compacted {compacted}", status.message());
                    self.truth.lock().violated(what);
                }
                return Err(status);
            }
            Err(status) => return Err(status),
        };
        let revision = self.fresh(floor, answer.header, false);
        self.seen.lock().reads.push((from, end, at, answer.kvs));
        Ok(revision)
    }

    /// What the node has: perhaps old, but true once.
    async fn local(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let (from, end) = (Bytes::from_static(b"k/"), Bytes::from_static(b"k0"));
        let request = RangeRequest {
            key: from.clone(),
            range_end: end.clone(),
            serializable: true,
            ..Default::default()
        };
        let answer = patient(kv.range(request)).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        self.seen.lock().reads.push((from, end, revision, answer.kvs));
        Ok(revision)
    }

    async fn compact(&mut self, kv: &mut KvClient<Call>) -> Result<i64, Status> {
        let floor = self.floor();
        let revision = (floor - 20 - self.dice.below(20) as i64).max(1);
        let request = CompactionRequest { revision, physical: false };
        let answer = patient(kv.compact(request)).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }
}

fn short(what: &impl std::fmt::Debug) -> String {
    let mut text = format!("{what:?}");
    text.truncate(text.floor_char_boundary(90));
    text
}

impl Seen {
    /// Compares everything that was answered with what really happened.
    pub(super) fn judge(&self, truth: &mut Truth) {
        for (revision, key, value) in &self.writes {
            let there = truth.at(key, *revision);
            let right = match (there, value) {
                (Some(kv), Some(value)) => kv.mod_revision == *revision && kv.value == *value,
                (None, None) => true,
                _ => false,
            };
            if !right {
                let there = there.map(|kv| (kv.mod_revision, text(&kv.value)));
                let what = format!(
                    "acknowledged at {revision}, but lost: {} = {:?}; there is {there:?}",
                    text(key),
                    value.as_ref().map(text)
                );
                truth.violated(what);
            }
        }
        for (from, end, revision, kvs) in &self.reads {
            let there = truth.range(from, end, *revision);
            if there != *kvs {
                let what = format!(
                    "read of {} at {revision} was {}, but there is {}",
                    text(from),
                    short(kvs),
                    short(&there)
                );
                truth.violated(what);
            }
        }
        if let Err(violation) = testkit::linearizable::check_keys(&self.operations) {
            truth.violated(violation.to_string());
        }
    }
}
