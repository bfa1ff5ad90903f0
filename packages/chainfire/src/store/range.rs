//! From the keys of a range to etcd's answer: filter, sort, limit, fetch values.

use std::cmp::Ordering;
use std::sync::Arc;

use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::{RangeRequest, RangeResponse};
use bytes::Bytes;

use super::check;
use super::command::header;
use super::entry::Entry;
use super::index::Slice;
use super::values::{Miss, Values};

/// How many keys, in key order, suffice to answer. The count of the range is needed beside.
pub(super) fn want(request: &RangeRequest) -> usize {
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if request.count_only {
        0
    } else if limit == 0
        || check::has_revision_bounds(request)
        || !check::is_found_in_order(request)
    {
        usize::MAX
    } else {
        // One more tells whether there is more.
        limit.saturating_add(1)
    }
}

/// Builds the answer from a slice that holds at least [`want`] entries of the range.
pub(super) fn answer(
    request: &RangeRequest,
    slice: &Slice,
    revision: i64,
    values: &Values<'_>,
) -> Result<RangeResponse, Miss> {
    let mut response =
        RangeResponse { header: header(revision), count: slice.count as i64, ..Default::default() };
    if request.count_only {
        return Ok(response);
    }
    if let Some(entry) = slice.single() {
        // By far the most frequent read.
        if within(request, entry) {
            let value = if request.keys_only { Bytes::new() } else { values.value(entry)? };
            response.kvs.push(entry.pair(value));
        }
        return Ok(response);
    }
    let mut found: Vec<&Arc<Entry>> =
        slice.iter().take(want(request)).filter(|entry| within(request, entry)).collect();
    sort(request, &mut found, values)?;
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if limit > 0 && found.len() > limit {
        found.truncate(limit);
        response.more = true;
    }
    response.kvs.reserve_exact(found.len());
    if request.keys_only {
        response.kvs.extend(found.iter().map(|entry| entry.pair(Bytes::new())));
    } else {
        values.pairs(found.into_iter(), &mut response.kvs)?;
    }
    Ok(response)
}

fn within(request: &RangeRequest, entry: &Entry) -> bool {
    let inside =
        |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    inside(entry.modified, request.min_mod_revision, request.max_mod_revision)
        && inside(entry.create, request.min_create_revision, request.max_create_revision)
}

fn sort(
    request: &RangeRequest,
    found: &mut Vec<&Arc<Entry>>,
    values: &Values<'_>,
) -> Result<(), Miss> {
    let descend = request.sort_order == SortOrder::Descend as i32;
    let turn = |order: Ordering| if descend { order.reverse() } else { order };
    match SortTarget::try_from(request.sort_target) {
        Ok(SortTarget::Key) | Err(_) if descend => found.reverse(),
        Ok(SortTarget::Key) | Err(_) => {}
        Ok(SortTarget::Version) => found.sort_by(|a, b| turn(a.version.cmp(&b.version))),
        Ok(SortTarget::Create) => found.sort_by(|a, b| turn(a.create.cmp(&b.create))),
        Ok(SortTarget::Mod) => found.sort_by(|a, b| turn(a.modified.cmp(&b.modified))),
        Ok(SortTarget::Value) => {
            let mut keyed = Vec::with_capacity(found.len());
            for entry in found.iter() {
                keyed.push((values.value(entry)?, *entry));
            }
            keyed.sort_by(|a, b| turn(a.0.cmp(&b.0)));
            *found = keyed.into_iter().map(|(_, entry)| entry).collect();
        }
    }
    Ok(())
}
