//! Transactions: compare, choose, check, carry out.
//!
//! All compares, also those of nested transactions, see the state before the whole transaction;
//! ranges see the writes before them. All checks come before the first write; should a write fail
//! nevertheless, the whole transaction is taken back.

use std::sync::Arc;

use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{Compare, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse};

use super::apply::Batch;
use super::command::header;
use super::entry::Entry;
use super::index::Slice;
use super::state::resolve;
use super::values::{Miss, Values};
use super::{KeyRange, StoreError};

/// The branch taken by a transaction, and by the nested ones in it in order.
pub(super) struct Path {
    pub(super) succeeded: bool,
    pub(super) nested: Vec<Path>,
}

/// Decides all compares of a transaction. `look` finds a range in the state before it.
pub(super) fn decide(
    request: &TxnRequest,
    values: &Values<'_>,
    look: &impl Fn(&KeyRange) -> Slice,
) -> Result<Path, Miss> {
    let mut succeeded = true;
    for compare in &request.compare {
        let found = look(&KeyRange::new(&compare.key, &compare.range_end));
        if !holds(compare, &found, values)? {
            succeeded = false;
            break;
        }
    }
    let mut nested = Vec::new();
    for op in branch(request, succeeded) {
        if let Some(Request::RequestTxn(inner)) = &op.request {
            nested.push(decide(inner, values, look)?);
        }
    }
    Ok(Path { succeeded, nested })
}

pub(super) fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

fn holds(compare: &Compare, found: &Slice, values: &Values<'_>) -> Result<bool, Miss> {
    let by_value = compare.target == CompareTarget::Value as i32;
    if found.count == 0 {
        // No value is neither equal nor unequal to anything; all numbers of no key are zero.
        return Ok(!by_value && verdict(compare, number(compare, None).cmp(&wanted(compare))));
    }
    for entry in found.iter() {
        let order = if by_value {
            let empty: &[u8] = &[];
            let right = match &compare.target_union {
                Some(TargetUnion::Value(value)) => value.as_ref(),
                _ => empty,
            };
            values.value(entry)?.as_ref().cmp(right)
        } else {
            number(compare, Some(entry)).cmp(&wanted(compare))
        };
        if !verdict(compare, order) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn number(compare: &Compare, entry: Option<&Arc<Entry>>) -> i64 {
    let Some(entry) = entry else { return 0 };
    match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => entry.version,
        Ok(CompareTarget::Create) => entry.create,
        Ok(CompareTarget::Mod) => entry.modified,
        Ok(CompareTarget::Lease) => entry.lease,
        Ok(CompareTarget::Value) | Err(_) => 0,
    }
}

/// The right-hand side; one of another kind than the target counts as zero.
fn wanted(compare: &Compare) -> i64 {
    match (CompareTarget::try_from(compare.target), &compare.target_union) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(number)))
        | (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(number)))
        | (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(number)))
        | (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(number))) => *number,
        _ => 0,
    }
}

fn verdict(compare: &Compare, order: std::cmp::Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

impl Batch<'_> {
    pub(super) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, StoreError> {
        let values = self.shared.values(self.state.spaces);
        let path = decide(request, &values, &|range: &KeyRange| self.slice(range, usize::MAX))?;
        // etcd checks all puts before the first range.
        self.check_puts(request, &path)?;
        self.check_ranges(request, &path)?;
        let mut response = self.branch(request, &path)?;
        response.header = header(self.seen());
        Ok(response)
    }

    fn check_puts(&self, request: &TxnRequest, path: &Path) -> Result<(), StoreError> {
        let mut nested = path.nested.iter();
        for op in branch(request, path.succeeded) {
            match &op.request {
                Some(Request::RequestPut(put)) => {
                    if (put.ignore_value || put.ignore_lease) && self.get(&put.key).is_none() {
                        return Err(StoreError::KeyNotFound);
                    }
                    self.check_lease(put.lease)?;
                }
                Some(Request::RequestTxn(inner)) => {
                    if let Some(path) = nested.next() {
                        self.check_puts(inner, path)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_ranges(&self, request: &TxnRequest, path: &Path) -> Result<(), StoreError> {
        let mut nested = path.nested.iter();
        for op in branch(request, path.succeeded) {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    resolve(range.revision, self.seen(), self.done.compacted)?;
                }
                Some(Request::RequestTxn(inner)) => {
                    if let Some(path) = nested.next() {
                        self.check_ranges(inner, path)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn branch(&mut self, request: &TxnRequest, path: &Path) -> Result<TxnResponse, StoreError> {
        let ops = branch(request, path.succeeded);
        let mut nested = path.nested.iter();
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => {
                    Some(Response::ResponseRange(self.range(range)?))
                }
                Some(Request::RequestPut(put)) => Some(Response::ResponsePut(self.put(put)?)),
                Some(Request::RequestDeleteRange(delete)) => {
                    Some(Response::ResponseDeleteRange(self.delete_range(delete)?))
                }
                Some(Request::RequestTxn(inner)) => match nested.next() {
                    Some(path) => Some(Response::ResponseTxn(self.branch(inner, path)?)),
                    None => None,
                },
                None => None,
            };
            responses.push(ResponseOp { response });
        }
        // A nested answer has an empty header, as etcd's has.
        let header = Some(ResponseHeader::default());
        Ok(TxnResponse { header, succeeded: path.succeeded, responses })
    }
}
