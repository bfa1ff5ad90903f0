//! Transactions: compares, and what to do when all hold or when one does not.

use crate::endpoints::Repeat;
use crate::kv::kv;
use crate::lease::Safety;
use crate::{Client, Error, KeyValue, prefix_end};
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::{
    self as pb, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, request_op, response_op,
};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use tonic::Status;

/// One condition of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Compare(pb::Compare);

impl Compare {
    fn new(key: impl Into<Bytes>, target: CompareTarget, value: TargetUnion) -> Compare {
        Compare(pb::Compare {
            result: CompareResult::Equal as i32,
            target: target as i32,
            key: key.into(),
            target_union: Some(value),
            ..pb::Compare::default()
        })
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Compare {
        Compare::create_revision(key, 0)
    }

    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Compare {
        let mut compare = Compare::create_revision(key, 0);
        compare.0.result = CompareResult::Greater as i32;
        compare
    }

    /// The key has this value.
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Compare {
        Compare::new(key, CompareTarget::Value, TargetUnion::Value(value.into()))
    }

    /// The key was made at this revision (0: it does not exist).
    pub fn create_revision(key: impl Into<Bytes>, revision: i64) -> Compare {
        Compare::new(key, CompareTarget::Create, TargetUnion::CreateRevision(revision))
    }

    /// The key was last changed at this revision (0: it does not exist).
    pub fn mod_revision(key: impl Into<Bytes>, revision: i64) -> Compare {
        Compare::new(key, CompareTarget::Mod, TargetUnion::ModRevision(revision))
    }

    /// The key has been written this many times since it was made.
    pub fn version(key: impl Into<Bytes>, version: i64) -> Compare {
        Compare::new(key, CompareTarget::Version, TargetUnion::Version(version))
    }
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Op(request_op::Request);

impl Op {
    /// Writes a key.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
        Op::put_with_lease(key, value, 0)
    }

    /// Writes a key that goes when the lease goes.
    pub fn put_with_lease(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: i64) -> Op {
        Op(request_op::Request::RequestPut(PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            ..PutRequest::default()
        }))
    }

    /// Reads a key.
    pub fn get(key: impl Into<Bytes>) -> Op {
        Op(request_op::Request::RequestRange(RangeRequest {
            key: key.into(),
            ..RangeRequest::default()
        }))
    }

    /// Reads all keys that start with a prefix.
    pub fn prefix(prefix: impl Into<Bytes>) -> Op {
        let key = prefix.into();
        Op(request_op::Request::RequestRange(RangeRequest {
            range_end: prefix_end(&key),
            key,
            ..RangeRequest::default()
        }))
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<Bytes>) -> Op {
        Op(request_op::Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            ..DeleteRangeRequest::default()
        }))
    }

    /// Deletes all keys that start with a prefix.
    pub fn delete_prefix(prefix: impl Into<Bytes>) -> Op {
        let key = prefix.into();
        Op(request_op::Request::RequestDeleteRange(DeleteRangeRequest {
            range_end: prefix_end(&key),
            key,
            ..DeleteRangeRequest::default()
        }))
    }
}

/// The answer to one operation.
#[derive(Debug, Clone, PartialEq)]
pub enum OpResult {
    /// A put was done.
    Put,
    /// So many keys were deleted.
    Deleted(i64),
    /// The keys that were read.
    Range(Vec<KeyValue>),
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// All compares held: the `then` operations were done, else the `otherwise` ones.
    pub succeeded: bool,
    /// Revision of the store after it.
    pub revision: i64,
    /// One answer for each operation, in order.
    pub results: Vec<OpResult>,
}

/// A transaction being put together.
#[must_use = "nothing happens before commit"]
#[derive(Debug, Clone)]
pub struct Txn {
    client: Client,
    request: TxnRequest,
    safety: Option<Safety>,
}

impl Client {
    /// Begins a transaction.
    pub fn txn(&self) -> Txn {
        Txn { client: self.clone(), request: TxnRequest::default(), safety: None }
    }
}

impl Txn {
    /// Adds a condition; all must hold.
    pub fn when(mut self, compare: Compare) -> Txn {
        self.request.compare.push(compare.0);
        self
    }

    /// Adds an operation for when all conditions hold.
    pub fn then(mut self, op: Op) -> Txn {
        self.request.success.push(pb::RequestOp { request: Some(op.0) });
        self
    }

    /// Adds an operation for when a condition does not hold.
    pub fn otherwise(mut self, op: Op) -> Txn {
        self.request.failure.push(pb::RequestOp { request: Some(op.0) });
        self
    }

    /// Sends it only while a lease is within its safe time.
    pub(crate) fn while_safe(self, safety: Safety) -> Txn {
        Txn { safety: Some(safety), ..self }
    }

    fn repeat(&self) -> Repeat {
        let reads =
            |op: &pb::RequestOp| matches!(op.request, Some(request_op::Request::RequestRange(_)));
        let only_reads =
            self.request.success.iter().all(reads) && self.request.failure.iter().all(reads);
        if only_reads { Repeat::Freely } else { Repeat::IfNothingDone }
    }

    /// Does it, atomically.
    pub async fn commit(self) -> Result<Done, Error> {
        let repeat = self.repeat();
        let late = AtomicBool::new(false);
        let sent = self.client.endpoints.call(repeat, |channel| {
            let (request, safety, late) = (self.request.clone(), self.safety.as_ref(), &late);
            async move {
                // each time: the tries before, which did nothing, and logging in take time as well
                if safety.is_some_and(|safety| !safety.lease.is_safe()) {
                    late.store(true, Ordering::Relaxed);
                    return Err(Status::failed_precondition("the lease's safe time is over"));
                }
                kv(channel).txn(request).await
            }
        });
        let answer = match (sent.await, &self.safety) {
            (Err(_), Some(safety)) if late.load(Ordering::Relaxed) => {
                return Err(Error::Unsafe { name: safety.name.clone() });
            }
            (sent, _) => sent?,
        };
        let results = answer
            .responses
            .into_iter()
            .map(|response| match response.response {
                Some(response_op::Response::ResponsePut(_)) => Ok(OpResult::Put),
                Some(response_op::Response::ResponseDeleteRange(answer)) => {
                    Ok(OpResult::Deleted(answer.deleted))
                }
                Some(response_op::Response::ResponseRange(answer)) => {
                    Ok(OpResult::Range(answer.kvs))
                }
                _ => Err(Error::Protocol("a txn answer of an unknown kind".to_owned())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Done {
            succeeded: answer.succeeded,
            revision: answer.header.map_or(0, |header| header.revision),
            results,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use std::time::Duration;

    /// Nobody answers at the endpoint, so that each try surely does nothing and another follows.
    #[tokio::test]
    async fn a_guarded_write_is_not_sent_again_when_its_safe_time_is_over() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = Options { deadline: Duration::from_secs(20), ..Options::default() };
        let client = Client::connect_with([format!("http://{closed}")], None, options).unwrap();
        let safety = Safety::lasting(Duration::from_millis(300), "job");
        let begun = std::time::Instant::now();
        let txn = client.txn().then(Op::put("a", "1")).while_safe(safety);
        let refused = txn.commit().await.unwrap_err();
        assert!(matches!(&refused, Error::Unsafe { name } if name == "job"), "{refused}");
        let took = begun.elapsed();
        assert!((Duration::from_millis(300)..Duration::from_secs(10)).contains(&took), "{took:?}");
    }
}
