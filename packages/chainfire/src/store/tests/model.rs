//! What the store should do, said as simply as possible: the whole state at every revision.

use std::collections::BTreeMap;

use api::etcdserverpb::compare::TargetUnion;
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::*;
use api::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use prost::Message;

use super::super::*;
use super::Op;

type Pairs = BTreeMap<Bytes, KeyValue>;

pub(super) struct Model {
    /// By revision, from 0 on.
    states: Vec<Pairs>,
    pub(super) events: Vec<Event>,
    pub(super) compacted: i64,
    pub(super) leases: BTreeMap<i64, (i64, i64)>,
    pub(super) lessor: u64,
    /// Of the running entry.
    pub(super) index: u64,
    work: Pairs,
    changes: Vec<Event>,
}

fn head(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn inside(key: &[u8], end: &[u8], candidate: &[u8]) -> bool {
    match end {
        [] => candidate == key,
        [0] => candidate >= key,
        _ => candidate >= key && candidate < end,
    }
}

impl Model {
    pub(super) fn new() -> Model {
        Model {
            states: vec![Pairs::new(), Pairs::new()],
            events: Vec::new(),
            compacted: -1,
            leases: BTreeMap::new(),
            lessor: 0,
            index: 0,
            work: Pairs::new(),
            changes: Vec::new(),
        }
    }

    pub(super) fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn seen(&self) -> i64 {
        self.revision() + i64::from(!self.changes.is_empty())
    }

    fn begin(&mut self) {
        self.work = self.states[self.states.len() - 1].clone();
        self.changes.clear();
    }

    fn end(&mut self) {
        if !self.changes.is_empty() {
            self.events.append(&mut self.changes);
            self.states.push(self.work.clone());
        }
    }

    pub(super) fn apply(&mut self, request: &Request) -> Outcome {
        self.begin();
        let outcome = self.carry_out(request);
        if outcome.is_ok() {
            self.end();
        }
        self.changes.clear();
        outcome
    }

    fn carry_out(&mut self, request: &Request) -> Outcome {
        let now = head(self.revision());
        match request {
            Request::Put(put) => self.put(put).map(Reply::Put),
            Request::Range(range) => self.range(range).map(Reply::Range),
            Request::DeleteRange(delete) => Ok(Reply::DeleteRange(self.delete(delete))),
            Request::Txn(txn) => {
                let before = self.work.clone();
                self.check(txn, &before)?;
                let mut answer = self.txn(txn, &before)?;
                answer.header = head(self.seen());
                Ok(Reply::Txn(answer))
            }
            Request::Compact(compact) if compact.revision <= self.compacted => {
                Err(StoreError::Compacted)
            }
            Request::Compact(compact) if compact.revision > self.revision() => {
                Err(StoreError::FutureRevision)
            }
            Request::Compact(compact) => {
                self.compacted = compact.revision;
                Ok(Reply::Compact(CompactionResponse { header: now }))
            }
            Request::LeaseGrant(grant) if self.leases.contains_key(&grant.id) => {
                Err(StoreError::LeaseExists)
            }
            Request::LeaseGrant(LeaseGrantRequest { id, ttl }) => {
                self.leases.insert(*id, (*ttl, 0));
                let (id, ttl) = (*id, *ttl);
                Ok(Reply::LeaseGrant(LeaseGrantResponse {
                    header: now,
                    id,
                    ttl,
                    ..Default::default()
                }))
            }
            Request::LeaseRevoke(revoke) => {
                if !self.revoke(revoke.id) {
                    return Err(StoreError::LeaseNotFound);
                }
                Ok(Reply::LeaseRevoke(LeaseRevokeResponse { header: head(self.seen()) }))
            }
            Request::LeaseRemaining(marks) if marks.claim != self.lessor => {
                Err(StoreError::NotLessor)
            }
            Request::LeaseRemaining(marks) => {
                for mark in &marks.checkpoints {
                    if let Some((_, remaining)) = self.leases.get_mut(&mark.id) {
                        *remaining = mark.remaining_ttl;
                    }
                }
                Ok(Reply::LeaseRemaining)
            }
            Request::LeaseExpire(expire) if expire.claim != self.lessor => {
                Err(StoreError::NotLessor)
            }
            Request::LeaseExpire(expire) => {
                let mut gone = Vec::new();
                for &id in &expire.ids {
                    if self.revoke(id) {
                        gone.push(id);
                        self.end();
                        self.begin();
                    }
                }
                Ok(Reply::LeaseExpire(gone))
            }
            Request::LessorClaim(_) if self.lessor == self.index => Err(StoreError::NotLessor),
            Request::LessorClaim(_) => {
                self.lessor = self.index;
                Ok(Reply::LessorClaim(self.index))
            }
            Request::Alarm(_) => unreachable!("the model has no alarms"),
            Request::Auth(_) => unreachable!("the model has no users"),
            Request::Quota(_) => unreachable!("the model has no quotas"),
        }
    }

    fn revoke(&mut self, id: i64) -> bool {
        let found = self.leases.remove(&id).is_some();
        let keys = self.work.values().filter(|kv| kv.lease == id && found);
        for key in keys.map(|kv| kv.key.clone()).collect::<Vec<_>>() {
            self.bury(key);
        }
        found
    }

    fn bury(&mut self, key: Bytes) {
        self.work.remove(&key);
        let kv = KeyValue { key, mod_revision: self.revision() + 1, ..Default::default() };
        self.changes.push(Event { r#type: 1, kv: Some(kv), prev_kv: None });
    }

    fn check_put(&self, put: &PutRequest, state: &Pairs) -> Result<(), StoreError> {
        if (put.ignore_value || put.ignore_lease) && !state.contains_key(&put.key) {
            return Err(StoreError::KeyNotFound);
        }
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(StoreError::LeaseNotFound);
        }
        Ok(())
    }

    fn put(&mut self, put: &PutRequest) -> Result<PutResponse, StoreError> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(StoreError::LeaseNotFound);
        }
        self.check_put(put, &self.work)?;
        let revision = self.revision() + 1;
        let before = self.work.get(&put.key).cloned();
        let old =
            before.clone().unwrap_or(KeyValue { create_revision: revision, ..Default::default() });
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old.create_revision,
            mod_revision: revision,
            version: old.version + 1,
            value: if put.ignore_value { old.value } else { put.value.clone() },
            lease: if put.ignore_lease { old.lease } else { put.lease },
        };
        self.work.insert(put.key.clone(), kv.clone());
        self.changes.push(Event { r#type: 0, kv: Some(kv), prev_kv: None });
        let prev_kv = before.filter(|_| put.prev_kv);
        Ok(PutResponse { header: head(revision), prev_kv })
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) -> DeleteRangeResponse {
        let hit = |kv: &&KeyValue| inside(&delete.key, &delete.range_end, &kv.key);
        let found: Vec<KeyValue> = self.work.values().filter(hit).cloned().collect();
        for kv in &found {
            self.bury(kv.key.clone());
        }
        DeleteRangeResponse {
            header: head(self.seen()),
            deleted: found.len() as i64,
            prev_kvs: if delete.prev_kv { found } else { Vec::new() },
        }
    }

    pub(super) fn read(&mut self, range: &RangeRequest) -> Result<RangeResponse, StoreError> {
        self.begin();
        self.range(range)
    }

    fn range(&self, range: &RangeRequest) -> Result<RangeResponse, StoreError> {
        if range.revision > self.seen() {
            return Err(StoreError::FutureRevision);
        }
        if range.revision > 0 && range.revision < self.compacted {
            return Err(StoreError::Compacted);
        }
        let state = match range.revision {
            revision if revision <= 0 || revision > self.revision() => &self.work,
            revision => &self.states[revision as usize],
        };
        let mut found: Vec<KeyValue> = state
            .values()
            .filter(|kv| inside(&range.key, &range.range_end, &kv.key))
            .cloned()
            .collect();
        let mut answer = RangeResponse {
            header: head(self.seen()),
            count: found.len() as i64,
            ..Default::default()
        };
        if range.count_only {
            return Ok(answer);
        }
        let filters = [
            range.min_mod_revision,
            range.max_mod_revision,
            range.min_create_revision,
            range.max_create_revision,
        ];
        let limit = if range.limit > 0 { range.limit as usize } else { usize::MAX };
        if range.sort_order == 0 && filters == [0; 4] {
            found.truncate(limit.saturating_add(1));
        }
        found.retain(|kv| {
            let above = |value: i64, bound: i64| bound == 0 || value >= bound;
            let below = |value: i64, bound: i64| bound == 0 || value <= bound;
            above(kv.mod_revision, filters[0])
                && below(kv.mod_revision, filters[1])
                && above(kv.create_revision, filters[2])
                && below(kv.create_revision, filters[3])
        });
        found.sort_by(|a, b| {
            let order = match range.sort_target {
                1 => a.version.cmp(&b.version),
                2 => a.create_revision.cmp(&b.create_revision),
                3 => a.mod_revision.cmp(&b.mod_revision),
                4 => a.value.cmp(&b.value),
                _ => a.key.cmp(&b.key),
            };
            if range.sort_order == 2 { order.reverse() } else { order }
        });
        answer.more = found.len() > limit;
        found.truncate(limit);
        if range.keys_only {
            found.iter_mut().for_each(|kv| kv.value.clear());
        }
        answer.kvs = found;
        Ok(answer)
    }

    fn succeeds(&self, txn: &TxnRequest, before: &Pairs) -> bool {
        txn.compare.iter().all(|compare| {
            let hit = |kv: &&KeyValue| inside(&compare.key, &compare.range_end, &kv.key);
            let found: Vec<KeyValue> = before.values().filter(hit).cloned().collect();
            let nothing = [KeyValue::default()];
            if found.is_empty() && compare.target == 3 {
                return false;
            }
            let found = if found.is_empty() { &nothing[..] } else { &found };
            found.iter().all(|kv| {
                let number = |left: i64, right: Option<i64>| left.cmp(&right.unwrap_or(0));
                let order = match (compare.target, &compare.target_union) {
                    (0, Some(TargetUnion::Version(right))) => number(kv.version, Some(*right)),
                    (0, _) => number(kv.version, None),
                    (1, Some(TargetUnion::CreateRevision(right))) => {
                        number(kv.create_revision, Some(*right))
                    }
                    (1, _) => number(kv.create_revision, None),
                    (2, Some(TargetUnion::ModRevision(right))) => {
                        number(kv.mod_revision, Some(*right))
                    }
                    (2, _) => number(kv.mod_revision, None),
                    (3, Some(TargetUnion::Value(right))) => kv.value.cmp(right),
                    (3, _) => kv.value.cmp(&Bytes::new()),
                    (4, Some(TargetUnion::Lease(right))) => number(kv.lease, Some(*right)),
                    (_, _) => number(kv.lease, None),
                };
                match compare.result {
                    0 => order.is_eq(),
                    1 => order.is_gt(),
                    2 => order.is_lt(),
                    _ => order.is_ne(),
                }
            })
        })
    }

    fn taken<'t>(&self, txn: &'t TxnRequest, before: &Pairs) -> &'t [RequestOp] {
        if self.succeeds(txn, before) { &txn.success } else { &txn.failure }
    }

    fn check(&self, txn: &TxnRequest, before: &Pairs) -> Result<(), StoreError> {
        let mut ops = Vec::new();
        self.flatten(txn, before, &mut ops);
        for op in &ops {
            if let Op::RequestPut(put) = op {
                self.check_put(put, before)?;
            }
        }
        for op in &ops {
            if let Op::RequestRange(range) = op {
                if range.revision > self.revision() {
                    return Err(StoreError::FutureRevision);
                }
                if range.revision > 0 && range.revision < self.compacted {
                    return Err(StoreError::Compacted);
                }
            }
        }
        Ok(())
    }

    fn flatten(&self, txn: &TxnRequest, before: &Pairs, ops: &mut Vec<Op>) {
        for op in self.taken(txn, before) {
            match op.request.clone().unwrap() {
                Op::RequestTxn(inner) => self.flatten(&inner, before, ops),
                other => ops.push(other),
            }
        }
    }

    fn txn(&mut self, txn: &TxnRequest, before: &Pairs) -> Result<TxnResponse, StoreError> {
        let mut responses = Vec::new();
        for op in self.taken(txn, before) {
            let response = match op.request.as_ref().unwrap() {
                Op::RequestRange(range) => Response::ResponseRange(self.range(range)?),
                Op::RequestPut(put) => Response::ResponsePut(self.put(put)?),
                Op::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete(delete))
                }
                Op::RequestTxn(inner) => Response::ResponseTxn(self.txn(inner, before)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        let succeeded = self.succeeds(txn, before);
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    /// The pair before an event, as a watch shows it.
    pub(super) fn prev(&self, event: &Event) -> Option<KeyValue> {
        let kv = event.kv.as_ref().unwrap();
        let at = kv.mod_revision - 1;
        if at < self.compacted { None } else { self.states[at as usize].get(&kv.key).cloned() }
    }

    /// etcd's HashKV at a revision, straight from its definition.
    pub(super) fn hash_kv(&self, revision: i64) -> u32 {
        let mut bytes = b"key".to_vec();
        let mut sub = 0;
        let mut last = 0;
        for event in &self.events {
            let kv = event.kv.as_ref().unwrap();
            sub = if kv.mod_revision == last { sub + 1 } else { 0 };
            last = kv.mod_revision;
            let kept = kv.mod_revision > self.compacted
                || self.states[self.compacted as usize]
                    .get(&kv.key)
                    .is_some_and(|live| live == kv && event.r#type == 0);
            if kv.mod_revision > revision || !kept {
                continue;
            }
            bytes.extend(kv.mod_revision.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(i64::from(sub).to_be_bytes());
            if event.r#type == 1 {
                bytes.push(b't');
                let grave = KeyValue { key: kv.key.clone(), ..Default::default() };
                bytes.extend(grave.encode_to_vec());
            } else {
                bytes.extend(kv.encode_to_vec());
            }
        }
        crc32c::crc32c(&bytes)
    }
}
