//! What a request must satisfy before it is proposed, with etcd's answers. Pure.

use std::collections::BTreeSet;

use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use bytes::Bytes;

use super::{KeyRange, StoreError};

/// The longest key that can be written, in bytes: escaped it must fit the engine. (etcd has no
/// limit but that of the request.)
pub const MAX_KEY: usize = (u16::MAX as usize - 14) / 2;

/// Checks a range.
pub fn range(request: &RangeRequest) -> Result<(), StoreError> {
    if request.key.is_empty() {
        return Err(StoreError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(StoreError::InvalidSortOption);
    }
    Ok(())
}

/// Whether the first keys that are found are the first of the answer: no order is asked for, for
/// etcd limits before it sorts when a target is named without an order, or that of the keys.
pub fn is_found_in_order(request: &RangeRequest) -> bool {
    request.sort_order == SortOrder::None as i32
        || (request.sort_target == SortTarget::Key as i32
            && request.sort_order == SortOrder::Ascend as i32)
}

/// Whether pairs are to be left out by their revisions.
pub fn has_revision_bounds(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// Checks a put.
pub fn put(request: &PutRequest) -> Result<(), StoreError> {
    if request.key.is_empty() {
        return Err(StoreError::EmptyKey);
    }
    if request.key.len() > MAX_KEY {
        return Err(StoreError::TooLarge);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(StoreError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(StoreError::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), StoreError> {
    if request.key.is_empty() { Err(StoreError::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction and all nested ones; `max_ops` is etcd's `--max-txn-ops`, 128 by default.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), StoreError> {
    operations(request, max_ops)?;
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

/// Whether a transaction can write nothing, so that it may be served as a read.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(_)) | None => true,
        Some(Request::RequestTxn(nested)) => is_read_only(nested),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
    })
}

/// Whether every range of a transaction is content with the local state.
pub fn is_serializable(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        Some(Request::RequestTxn(nested)) => is_serializable(nested),
        _ => false,
    })
}

/// Whether any branch of a transaction holds a put.
pub fn has_put(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => has_put(nested),
        _ => false,
    })
}

fn operations(request: &TxnRequest, max_ops: usize) -> Result<(), StoreError> {
    let most = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_ops.checked_sub(most) else {
        return Err(StoreError::TooManyOps);
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(StoreError::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(op)) => range(op)?,
            Some(Request::RequestPut(op)) => put(op)?,
            Some(Request::RequestDeleteRange(op)) => delete_range(op)?,
            Some(Request::RequestTxn(op)) => operations(op, left)?,
            // etcd's answer to an empty operation.
            None => return Err(StoreError::KeyNotFound),
        }
    }
    Ok(())
}

type Writes = (BTreeSet<Bytes>, Vec<KeyRange>);

/// The puts and deletes of a list of operations, refused when a key could be written twice. Like
/// etcd: deletes may overlap each other, the two branches of a nested transaction may write the
/// same key, a nested transaction's puts are held against the deletes of those before it, not of
/// those after it, and a delete of all keys from one on is held against nothing.
fn writes(ops: &[RequestOp]) -> Result<Writes, StoreError> {
    let mut deletes: Vec<KeyRange> = Vec::new();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request
            && delete.range_end.as_ref() != [0]
        {
            deletes.push(KeyRange::new(&delete.key, &delete.range_end));
        }
    }
    let hit = |deletes: &[KeyRange], key: &Bytes| deletes.iter().any(|range| range.contains(key));

    let mut puts: BTreeSet<Bytes> = BTreeSet::new();
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let (then_puts, then_deletes) = writes(&nested.success)?;
        let (else_puts, else_deletes) = writes(&nested.failure)?;
        for key in then_puts.union(&else_puts) {
            if hit(&deletes, key) || !puts.insert(key.clone()) {
                return Err(StoreError::DuplicateKey);
            }
        }
        deletes.extend(then_deletes);
        deletes.extend(else_deletes);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if hit(&deletes, &put.key) || !puts.insert(put.key.clone()) {
            return Err(StoreError::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}
