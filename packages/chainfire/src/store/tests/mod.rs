//! Tests of the store against etcd's semantics, against a simple model, and against crashes.

mod auth;
mod crash;
mod install;
mod model;
mod pages;
mod quota;
mod random;
mod reads;
mod script;
mod speed;
#[cfg(feature = "simulation")]
mod surface;
mod traps;
mod txns;
mod watching;

use std::sync::Arc;

use api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    request_op::Request as Op,
};
use bytes::Bytes;
use engine::Engine;

use super::*;

/// A store on an engine of its own.
struct Bench {
    engine: Engine,
    options: StoreOptions,
    store: Store,
    reader: Reader,
    /// Of the last entry.
    index: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench::on(Arc::new(engine::Memory::new(&Store::SPACES)), StoreOptions::default())
    }

    fn on(engine: Engine, options: StoreOptions) -> Bench {
        let (store, reader) = Store::open(engine.clone(), 1, options.clone()).unwrap();
        Bench { engine, options, store, reader, index: 0 }
    }

    /// Closes the store and opens what the engine has.
    fn reopen(self) -> Bench {
        let Bench { engine, options, store, reader, index } = self;
        drop((store, reader));
        Bench { index, ..Bench::on(engine, options) }
    }

    fn batch(&mut self, requests: &[Request]) -> Vec<Outcome> {
        let bytes: Vec<Bytes> = requests.iter().cloned().map(encode).collect();
        self.entry(&bytes)
    }

    /// One entry, at the next index.
    fn entry(&mut self, requests: &[Bytes]) -> Vec<Outcome> {
        self.index += 1;
        self.store.run(self.index, requests, |_| {}).unwrap()
    }

    fn run(&mut self, request: Request) -> Outcome {
        self.batch(&[request]).remove(0)
    }

    fn put(&mut self, key: &str, value: &str) -> i64 {
        revision(self.run(put(key, value)).unwrap())
    }

    fn delete(&mut self, key: &str, end: &str) -> (i64, i64) {
        match self.run(delete(key, end)).unwrap() {
            Reply::DeleteRange(answer) => (answer.deleted, answer.header.unwrap().revision),
            other => panic!("{other:?}"),
        }
    }

    fn txn(&mut self, txn: TxnRequest) -> Result<TxnResponse, StoreError> {
        check::txn(&txn, 128)?;
        match self.run(Request::Txn(txn))? {
            Reply::Txn(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        self.run(Request::Compact(CompactionRequest { revision, physical: false })).map(|_| ())
    }

    /// Waits until the background has given the space back.
    fn settle(&self) {
        let revision = self.reader.compacted();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let limit = std::time::Duration::from_secs(30);
            tokio::time::timeout(limit, self.reader.removed(revision)).await.unwrap();
        });
    }

    fn get(&self, key: &str) -> Option<(String, i64, i64, i64)> {
        let answer = self.reader.range(&range(key, "")).unwrap();
        answer
            .kvs
            .first()
            .map(|kv| (text(&kv.value), kv.create_revision, kv.mod_revision, kv.version))
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Outcome {
        self.run(Request::LeaseGrant(LeaseGrantRequest { id, ttl }))
    }

    fn revoke(&mut self, id: i64) -> Outcome {
        self.run(Request::LeaseRevoke(LeaseRevokeRequest { id }))
    }

    fn stored(&self, space: &'static str) -> usize {
        self.engine.iter(space, engine::all(), engine::Order::Ascending).count()
    }
}

/// The seeds of a random test: a few always, many in a soak run.
fn seeds(first: u64, few: u64, many: u64) -> std::ops::Range<u64> {
    first..first + if testkit::soak() { many } else { few }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

fn put(key: &str, value: &str) -> Request {
    Request::Put(put_request(key, value))
}

fn put_with(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(PutRequest { lease, ..put_request(key, value) })
}

fn delete_request(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv: false }
}

fn delete(key: &str, end: &str) -> Request {
    Request::DeleteRange(delete_request(key, end))
}

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

fn op(op: Op) -> RequestOp {
    RequestOp { request: Some(op) }
}

fn op_put(key: &str, value: &str) -> RequestOp {
    op(Op::RequestPut(put_request(key, value)))
}

fn op_delete(key: &str, end: &str) -> RequestOp {
    op(Op::RequestDeleteRange(delete_request(key, end)))
}

fn op_range(key: &str, end: &str) -> RequestOp {
    op(Op::RequestRange(range(key, end)))
}

fn op_txn(txn: TxnRequest) -> RequestOp {
    op(Op::RequestTxn(txn))
}

/// A transaction without compares.
fn always(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

fn revision(reply: Reply) -> i64 {
    match reply {
        Reply::Put(PutResponse { header, .. }) => header.unwrap().revision,
        other => panic!("{other:?}"),
    }
}

fn keys(answer: &RangeResponse) -> Vec<String> {
    answer.kvs.iter().map(|kv| text(&kv.key)).collect()
}
