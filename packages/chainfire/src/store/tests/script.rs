//! Random commands from a seed.

use api::chainfire_internal::{LeaseExpire, LeaseRemaining, LessorClaim};
use api::etcdserverpb::compare::TargetUnion;
use api::etcdserverpb::*;
use bytes::Bytes;

use super::super::*;
use super::{Op, op};

/// Small numbers from a seed; the same on every machine.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub(super) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn key(&mut self) -> Bytes {
        let keys: [&[u8]; 14] = [
            b"a",
            b"a\0",
            b"a\0\x01",
            b"aa",
            b"ab",
            b"b",
            b"b/1",
            b"b/2",
            b"b/3",
            b"c",
            b"d",
            b"\0",
            b"\xff",
            b"e\xff\xff",
        ];
        Bytes::from_static(keys[self.below(keys.len() as u64) as usize])
    }

    fn end(&mut self) -> Bytes {
        match self.below(6) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(b"\0"),
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        let length = if self.one_in(8) { 300 } else { self.below(4) as usize };
        Bytes::from(vec![b'v' + self.below(3) as u8; length])
    }

    fn lease(&mut self) -> i64 {
        [0, 0, 0, 7, -8, 9][self.below(6) as usize]
    }

    fn put(&mut self) -> PutRequest {
        let mut put = PutRequest {
            key: self.key(),
            value: self.value(),
            lease: self.lease(),
            prev_kv: self.one_in(2),
            ..Default::default()
        };
        if self.one_in(6) {
            put.ignore_value = true;
            put.value = Bytes::new();
        }
        if self.one_in(6) {
            put.ignore_lease = true;
            put.lease = 0;
        }
        put
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let range_end = if self.one_in(2) { self.end() } else { Bytes::new() };
        DeleteRangeRequest { key: self.key(), range_end, prev_kv: self.one_in(2) }
    }

    pub(super) fn range(&mut self, revision: i64) -> RangeRequest {
        let mut bound = || if self.one_in(6) { 1 + self.below(revision as u64) as i64 } else { 0 };
        let bounds = [bound(), bound(), bound(), bound()];
        RangeRequest {
            key: self.key(),
            range_end: self.end(),
            limit: if self.one_in(2) { self.below(5) as i64 } else { 0 },
            revision: if self.one_in(2) { self.below(revision as u64 + 2) as i64 } else { 0 },
            sort_order: self.below(3) as i32,
            sort_target: self.below(5) as i32,
            serializable: false,
            keys_only: self.one_in(5),
            count_only: self.one_in(6),
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        }
    }

    fn compare(&mut self, revision: i64) -> Compare {
        let number = self.below(revision as u64 + 1) as i64;
        let small = self.below(3) as i64;
        Compare {
            result: self.below(4) as i32,
            target: self.below(5) as i32,
            key: self.key(),
            range_end: if self.one_in(3) { self.end() } else { Bytes::new() },
            target_union: match self.below(6) {
                0 => Some(TargetUnion::Version(small)),
                1 => Some(TargetUnion::CreateRevision(number)),
                2 => Some(TargetUnion::ModRevision(number)),
                3 => Some(TargetUnion::Value(self.value())),
                4 => Some(TargetUnion::Lease(self.lease())),
                _ => None,
            },
        }
    }

    fn ops(&mut self, revision: i64, depth: u64, writes: bool) -> Vec<RequestOp> {
        let count = self.below(4);
        (0..count)
            .map(|_| match self.below(if writes { 8 } else { 3 }) {
                0 | 1 => op(Op::RequestRange(self.range(revision))),
                2 if depth > 0 => op(Op::RequestTxn(self.txn_of(revision, depth - 1, writes))),
                2 => op(Op::RequestRange(self.range(revision))),
                3 | 4 => op(Op::RequestDeleteRange(self.delete())),
                _ => op(Op::RequestPut(self.put())),
            })
            .collect()
    }

    fn txn_of(&mut self, revision: i64, depth: u64, writes: bool) -> TxnRequest {
        let compares = self.below(3);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare(revision)).collect(),
            success: self.ops(revision, depth, writes),
            failure: self.ops(revision, depth, writes),
        }
    }

    /// A transaction that the edge would let pass.
    pub(super) fn txn(&mut self, revision: i64, writes: bool) -> TxnRequest {
        loop {
            let txn = self.txn_of(revision, 2, writes);
            if check::txn(&txn, 128).is_ok() {
                return txn;
            }
        }
    }

    pub(super) fn command(&mut self, revision: i64, lessor: u64) -> Request {
        // Mostly the last claim.
        let claim = lessor + u64::from(self.one_in(3));
        match self.below(40) {
            0..12 => Request::Put(self.put()),
            12..16 => Request::DeleteRange(self.delete()),
            16..28 => Request::Txn(self.txn(revision, true)),
            28 | 29 => Request::Range(self.range(revision)),
            30 => {
                let back = self.below(12) as i64;
                let revision = (revision - back).max(0);
                Request::Compact(CompactionRequest { revision, physical: false })
            }
            31..35 => {
                let id = [7, -8, 9][self.below(3) as usize];
                Request::LeaseGrant(LeaseGrantRequest { id, ttl: 5 + self.below(5) as i64 })
            }
            35 => Request::LeaseRevoke(LeaseRevokeRequest { id: [7, -8][self.below(2) as usize] }),
            36 => {
                let ids = vec![9, 7, 12];
                Request::LeaseExpire(LeaseExpire { ids, claim })
            }
            37 => Request::LessorClaim(LessorClaim {}),
            _ => {
                let remaining_ttl = self.below(9) as i64;
                let checkpoints = vec![LeaseCheckpoint { id: self.lease(), remaining_ttl }];
                Request::LeaseRemaining(LeaseRemaining { checkpoints, claim })
            }
        }
    }
}
