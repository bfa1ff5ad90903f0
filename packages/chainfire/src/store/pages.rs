//! A range in pieces of bounded size, all from one view of the engine. What is not taken yet is not
//! read yet, so a slow reader costs the view and one page.

use std::ops::Bound;
use std::sync::Arc;

use api::etcdserverpb::RangeRequest;
use api::mvccpb::KeyValue;
use bytes::Bytes;
use engine::{Order, Snapshot};
use prost::Message;

use super::layout::{self, Spaces, Version};
use super::past::{STEPS, position, stored_bounds};
use super::reader::Reader;
use super::{KeyRange, StoreError};

/// The pages of one range, in key order.
pub struct Pages {
    snapshot: Arc<dyn Snapshot>,
    spaces: Spaces,
    /// Of the store when this began.
    revision: i64,
    /// What is read.
    at: i64,
    keys_only: bool,
    /// Pairs that the request still lets through.
    room: usize,
    /// Where to go on; none at the end.
    from: Option<Bound<Bytes>>,
    to: Bound<Bytes>,
    /// The key whose version was seen; its older ones are to be passed over.
    settled: Option<Bytes>,
    /// Read, but had no place in the page before.
    ahead: Option<KeyValue>,
    given: i64,
    count: i64,
    ended: bool,
}

/// One piece of a range.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    /// The next pairs.
    pub kvs: Vec<KeyValue>,
    /// In the last page only.
    pub totals: Option<Totals>,
}

/// What is known at the end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The store's revision when the range was begun.
    pub revision: i64,
    /// The limit kept pairs back.
    pub more: bool,
    /// Keys in the range, whatever the limit.
    pub count: i64,
}

impl Reader {
    /// Begins a range in key order, now or at an earlier revision. Sorting, revision bounds and
    /// `count_only` of the request are not looked at.
    pub fn pages(&self, request: &RangeRequest) -> Result<Pages, StoreError> {
        let mut range = KeyRange::new(&request.key, &request.range_end);
        if let Some(key) = range.point() {
            // up to the next key that there can be
            let next = [key.as_ref(), &[0]].concat();
            range = KeyRange::new(key, &next.into());
        }
        let (snapshot, (at, revision, spaces)) = self
            .shared
            .pin(|state| Ok((state.resolve(request.revision)?, state.revision, state.spaces)))?;
        let (from, to) = stored_bounds(&range);
        let limit = usize::try_from(request.limit).unwrap_or(0);
        Ok(Pages {
            snapshot,
            spaces,
            revision,
            at,
            keys_only: request.keys_only,
            room: if limit == 0 { usize::MAX } else { limit },
            from: (!range.is_empty()).then_some(from),
            to,
            settled: None,
            ahead: None,
            given: 0,
            count: 0,
            ended: false,
        })
    }
}

impl Pages {
    /// The next page: pairs of about `bytes`, at least one unless the range has none. None after
    /// the page with the totals.
    pub fn next(&mut self, bytes: usize) -> Result<Option<Page>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let mut page = Page::default();
        let mut left = bytes;
        if let Some(pair) = self.ahead.take() {
            self.give(pair, &mut page, &mut left);
        }
        while let Some(from) = self.from.take() {
            let snapshot = self.snapshot.clone();
            let bounds = (from, self.to.clone());
            let mut pairs = snapshot.iter(self.spaces.versions, bounds, Order::Ascending);
            if self.fill(&mut pairs, &mut page, &mut left)? {
                return Ok(Some(page));
            }
        }
        self.ended = true;
        let more = self.count > self.given;
        page.totals = Some(Totals { revision: self.revision, more, count: self.count });
        Ok(Some(page))
    }

    fn give(&mut self, pair: KeyValue, page: &mut Page, left: &mut usize) {
        *left = left.saturating_sub(pair.encoded_len());
        self.room -= 1;
        self.given += 1;
        page.kvs.push(pair);
    }

    /// Goes on until the page is full (true), the range ends, or it is worth seeking to where
    /// `from` says.
    fn fill(
        &mut self,
        pairs: &mut engine::Pairs<'_>,
        page: &mut Page,
        left: &mut usize,
    ) -> Result<bool, StoreError> {
        let mut passed = 0;
        for pair in pairs {
            let (stored, record) = pair?;
            let part = layout::escaped_part(&stored)?;
            if self.settled.as_deref() == Some(part) {
                passed += 1;
                if passed > STEPS {
                    self.from = Some(Bound::Excluded(position(part, 0, 0)));
                    return Ok(false);
                }
                continue;
            }
            let modified = layout::version_position(&stored)?.0;
            if modified > self.at {
                passed += 1;
                if passed > STEPS {
                    self.from = Some(Bound::Included(position(part, self.at, u32::MAX)));
                    return Ok(false);
                }
                continue;
            }
            passed = 0;
            self.settled = Some(stored.slice(..part.len()));
            let Version::Live { create, version, lease, value } = Version::decode(&record)? else {
                continue;
            };
            self.count += 1;
            if self.room == 0 {
                continue;
            }
            let pair = KeyValue {
                key: layout::unescape(part),
                create_revision: create,
                mod_revision: modified,
                version,
                value: if self.keys_only { Bytes::new() } else { value },
                lease,
            };
            if !page.kvs.is_empty() && pair.encoded_len() > *left {
                self.ahead = Some(pair);
                self.from = Some(Bound::Excluded(stored));
                return Ok(true);
            }
            self.give(pair, page, left);
        }
        Ok(false)
    }
}
