//! What a request touches, held against what its user may touch. etcd's rules: both branches of a
//! transaction count, whichever is taken; a lease may be attached or revoked only by whoever may
//! write all its keys; the pair before a write is read.

use api::chainfire_internal::{Principal, command::Request};
use api::etcdserverpb::request_op::Request as Op;
use api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use bytes::Bytes;

use super::{Access, Auth, AuthError};
use crate::store::KeyRange;

/// The keys attached to a lease.
pub type LeaseKeys<'a> = &'a dyn Fn(i64) -> Vec<Bytes>;

/// One who asks, before one state of auth.
#[derive(Clone, Copy)]
pub struct Guard<'a> {
    /// Users and roles.
    pub auth: &'a Auth,
    /// Who asks.
    pub who: Option<&'a Principal>,
    /// Where leases are looked up.
    pub leases: LeaseKeys<'a>,
}

impl Guard<'_> {
    /// Any command of a client. Commands of the members themselves pass.
    pub fn command(&self, request: &Request) -> Result<(), AuthError> {
        if !self.auth.enabled() {
            return Ok(());
        }
        match request {
            Request::Put(put) => self.put(put),
            Request::Range(range) => self.range(range),
            Request::DeleteRange(delete) => self.delete_range(delete),
            Request::Txn(txn) => self.txn(txn),
            Request::Compact(_) | Request::LeaseGrant(_) => self.auth.check_user(self.who),
            Request::LeaseRevoke(revoke) => {
                self.auth.check_user(self.who)?;
                self.lease(revoke.id, Access::Write)
            }
            Request::Auth(_) | Request::Quota(_) => self.auth.check_root(self.who),
            Request::LeaseRemaining(_)
            | Request::LeaseExpire(_)
            | Request::LessorClaim(_)
            | Request::Alarm(_) => Ok(()),
        }
    }

    /// A read.
    pub fn range(&self, request: &RangeRequest) -> Result<(), AuthError> {
        self.keys(Access::Read, &request.key, &request.range_end)
    }

    /// A write.
    pub fn put(&self, request: &PutRequest) -> Result<(), AuthError> {
        self.keys(Access::Write, &request.key, &Bytes::new())?;
        self.lease(request.lease, Access::Write)?;
        if request.prev_kv {
            self.keys(Access::Read, &request.key, &Bytes::new())?;
        }
        Ok(())
    }

    /// A deletion.
    pub fn delete_range(&self, request: &DeleteRangeRequest) -> Result<(), AuthError> {
        self.keys(Access::Write, &request.key, &request.range_end)?;
        if request.prev_kv {
            self.keys(Access::Read, &request.key, &request.range_end)?;
        }
        Ok(())
    }

    /// A transaction with all that is nested in it. One without any key still needs a user.
    pub fn txn(&self, request: &TxnRequest) -> Result<(), AuthError> {
        self.auth.check_user(self.who)?;
        self.branches(request)
    }

    fn branches(&self, request: &TxnRequest) -> Result<(), AuthError> {
        for compare in &request.compare {
            self.keys(Access::Read, &compare.key, &compare.range_end)?;
        }
        for op in request.success.iter().chain(&request.failure) {
            match &op.request {
                Some(Op::RequestRange(range)) => self.range(range)?,
                Some(Op::RequestPut(put)) => self.put(put)?,
                Some(Op::RequestDeleteRange(delete)) => self.delete_range(delete)?,
                Some(Op::RequestTxn(nested)) => self.branches(nested)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Every key of a lease.
    pub fn lease(&self, id: i64, access: Access) -> Result<(), AuthError> {
        if id == 0 || self.auth.is_root(self.who) {
            return Ok(());
        }
        for key in (self.leases)(id) {
            self.keys(access, &key, &Bytes::new())?;
        }
        Ok(())
    }

    fn keys(&self, access: Access, key: &Bytes, range_end: &Bytes) -> Result<(), AuthError> {
        self.auth.check(self.who, access, &KeyRange::new(key, range_end))
    }
}
