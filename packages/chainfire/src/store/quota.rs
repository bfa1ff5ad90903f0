//! Limits on namespaces: how many keys, and how many bytes, may live under a prefix.
//!
//! Part of the replicated state. What a namespace holds is counted with every change of a key, so
//! every member refuses the same put. Only the limits are kept in the engine: the counts follow from
//! the keys, and are made anew when the store opens or takes over a snapshot.
//!
//! Absent on purpose: rates. They are each member's own and go by a clock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use api::chainfire::Quota;
use api::chainfire_internal::QuotaChange;
use api::chainfire_internal::quota_change::Change;
use bytes::Bytes;
use engine::{Engine, Order};
use prost::Message;

use super::entry::Entry;
use super::layout::{Spaces, damaged};
use super::{MAX_KEY, StoreError};

/// Namespaces with limits, at most.
pub const QUOTAS_MAX: usize = 1000;
/// Letters of a prefix in a refusal, at most.
const SHOWN: usize = 128;
const PREFIX: &[u8] = b"quota/";
const FORMAT: u8 = 1;

/// What lives in a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Keys.
    pub(super) keys: i64,
    /// Bytes of keys and values.
    pub(super) bytes: i64,
}

impl Usage {
    pub(super) fn of(entry: &Entry) -> Usage {
        Usage { keys: 1, bytes: entry.key.len() as i64 + i64::from(entry.size()) }
    }

    pub(super) fn add(&mut self, other: Usage) {
        self.keys += other.keys;
        self.bytes += other.bytes;
    }

    fn minus(self, other: Usage) -> Usage {
        Usage { keys: self.keys - other.keys, bytes: self.bytes - other.bytes }
    }
}

/// Limits by prefix.
pub(super) type Limits = BTreeMap<Bytes, Quota>;

/// The prefixes in a map that a key begins with, the longest first.
pub(super) fn matching<'m, T>(map: &'m BTreeMap<Bytes, T>, key: &[u8]) -> Vec<(&'m Bytes, &'m T)> {
    let mut found = Vec::new();
    let mut upto = key;
    loop {
        let Some(last) =
            map.range::<[u8], _>((Bound::Unbounded, Bound::Included(upto))).next_back()
        else {
            return found;
        };
        let prefix = last.0;
        if key.starts_with(prefix) {
            found.push(last);
            let Some(shorter) = prefix.len().checked_sub(1) else { return found };
            upto = &key[..shorter];
        } else {
            // whatever the key begins with, and is not above this prefix, this one begins with too
            upto = &key[..key.iter().zip(prefix.iter()).take_while(|(a, b)| a == b).count()];
        }
    }
}

/// Limits, and what is counted under them.
#[derive(Debug, Clone, Default)]
pub(super) struct Quotas {
    pub(super) limits: Arc<Limits>,
    used: BTreeMap<Bytes, Usage>,
}

impl Quotas {
    /// What a namespace holds.
    pub(super) fn usage(&self, prefix: &[u8]) -> Usage {
        self.used.get(prefix).copied().unwrap_or_default()
    }

    pub(super) fn has_rates(&self) -> bool {
        self.limits.values().any(|quota| quota.requests_per_second > 0)
    }

    /// Takes over what a batch did; whether limits changed.
    pub(super) fn apply(&mut self, changes: QuotaOverlay) -> bool {
        let changed = changes.limits.is_some();
        if let Some(limits) = changes.limits {
            self.used.retain(|prefix, _| limits.contains_key(prefix));
            self.limits = limits;
        }
        for (prefix, delta) in changes.used {
            if self.limits.contains_key(&prefix) {
                self.used.entry(prefix).or_default().add(delta);
            }
        }
        changed
    }
}

/// What the running batch did.
#[derive(Debug, Default)]
pub(super) struct QuotaOverlay {
    /// Only if they changed.
    pub(super) limits: Option<Arc<Limits>>,
    /// Beside what was there before the batch.
    used: BTreeMap<Bytes, Usage>,
}

impl QuotaOverlay {
    pub(super) fn limits<'q>(&'q self, base: &'q Quotas) -> &'q Arc<Limits> {
        self.limits.as_ref().unwrap_or(&base.limits)
    }

    fn usage(&self, base: &Quotas, prefix: &Bytes) -> Usage {
        let mut usage = base.usage(prefix);
        usage.add(self.used.get(prefix).copied().unwrap_or_default());
        usage
    }

    /// A key changes. Taking a change back is the same the other way round.
    pub(super) fn change(
        &mut self,
        base: &Quotas,
        key: &[u8],
        from: Option<&Entry>,
        to: Option<&Entry>,
    ) {
        if self.limits(base).is_empty() {
            return;
        }
        let limits = self.limits(base).clone();
        let of = |entry: Option<&Entry>| entry.map(Usage::of).unwrap_or_default();
        let delta = of(to).minus(of(from));
        for (prefix, _) in matching(&limits, key) {
            self.used.entry(prefix.clone()).or_default().add(delta);
        }
    }

    /// Whether a key may grow. What does not grow may always be written, and deleted.
    pub(super) fn check(
        &self,
        base: &Quotas,
        key: &[u8],
        value: usize,
        before: Option<&Entry>,
    ) -> Result<(), StoreError> {
        let limits = self.limits(base);
        if limits.is_empty() {
            return Ok(());
        }
        let now = Usage { keys: 1, bytes: (key.len() + value) as i64 };
        let more = now.minus(before.map(Usage::of).unwrap_or_default());
        for (prefix, quota) in matching(limits, key) {
            let used = self.usage(base, prefix);
            let over = |limit: u64, used: i64, more: i64| {
                limit > 0
                    && more > 0
                    && used.saturating_add(more) > limit.min(i64::MAX as u64) as i64
            };
            let (what, limit, used) = if over(quota.keys, used.keys, more.keys) {
                ("keys", quota.keys, used.keys)
            } else if over(quota.bytes, used.bytes, more.bytes) {
                ("bytes", quota.bytes, used.bytes)
            } else {
                continue;
            };
            let prefix = shown(prefix);
            return Err(StoreError::OverQuota { prefix, what, limit, used });
        }
        Ok(())
    }

    /// Sets or deletes limits. `count` counts what lives under a prefix now.
    pub(super) fn set(
        &mut self,
        base: &Quotas,
        change: &QuotaChange,
        count: impl FnOnce(&Bytes) -> Usage,
    ) -> Result<(), StoreError> {
        let mut limits = Limits::clone(self.limits(base));
        match &change.change {
            Some(Change::Set(quota)) => {
                let prefix = Bytes::copy_from_slice(&quota.prefix);
                if prefix.len() > MAX_KEY {
                    return Err(StoreError::TooLarge);
                }
                if !limits.contains_key(&prefix) {
                    if limits.len() >= QUOTAS_MAX {
                        return Err(StoreError::TooManyQuotas);
                    }
                    // whatever an earlier one of this prefix has counted
                    let stale = base.usage(&prefix);
                    self.used.insert(prefix.clone(), count(&prefix).minus(stale));
                }
                limits.insert(prefix.clone(), Quota { prefix, ..quota.clone() });
            }
            Some(Change::Delete(prefix)) => {
                limits.remove(prefix).ok_or(StoreError::NoQuota)?;
                self.used.remove(prefix);
            }
            None => return Err(StoreError::Malformed),
        }
        self.limits = Some(Arc::new(limits));
        Ok(())
    }
}

/// A prefix as people read it; of a long one the beginning.
pub fn shown(prefix: &[u8]) -> String {
    let text = prefix.iter().flat_map(|byte| std::ascii::escape_default(*byte));
    text.take(SHOWN).map(char::from).collect()
}

fn key(prefix: &[u8]) -> Bytes {
    [PREFIX, prefix].concat().into()
}

/// What differs in the engine between two sets of limits.
pub(super) fn changed(before: &Limits, after: &Limits) -> Vec<(Bytes, Option<Bytes>)> {
    let gone = before.keys().filter(|prefix| !after.contains_key(*prefix));
    let mut all: Vec<_> = gone.map(|prefix| (key(prefix), None)).collect();
    for (prefix, quota) in after.iter().filter(|(prefix, quota)| before.get(*prefix) != Some(quota))
    {
        let record = [&[FORMAT][..], &quota.encode_to_vec()].concat();
        all.push((key(prefix), Some(record.into())));
    }
    all
}

/// Whether a pair in `s` holds limits.
pub(super) fn is_quota(key: &[u8]) -> bool {
    key.starts_with(PREFIX)
}

/// The limits in a pair in `s`.
pub(super) fn read(stored: &[u8], record: &[u8]) -> Result<Quota, StoreError> {
    let Some((&FORMAT, encoded)) = record.split_first() else { return Err(damaged("quota")) };
    let quota = Quota::decode(encoded).map_err(|_| damaged("quota"))?;
    // it would outlive its deletion
    if stored.strip_prefix(PREFIX) != Some(quota.prefix.as_ref()) {
        return Err(damaged("quota"));
    }
    Ok(quota)
}

/// Reads limits back, and counts what lives under them.
pub(super) fn load<'e>(
    engine: &Engine,
    spaces: Spaces,
    entries: impl Iterator<Item = &'e Arc<Entry>>,
) -> Result<Quotas, StoreError> {
    let mut limits = Limits::new();
    for pair in engine.iter(spaces.small, engine::prefix(PREFIX), Order::Ascending) {
        let (stored, record) = pair?;
        let quota = read(&stored, &record)?;
        limits.insert(quota.prefix.clone(), quota);
    }
    let mut used: BTreeMap<Bytes, Usage> = BTreeMap::new();
    if !limits.is_empty() {
        for entry in entries {
            for (prefix, _) in matching(&limits, &entry.key) {
                used.entry(prefix.clone()).or_default().add(Usage::of(entry));
            }
        }
    }
    Ok(Quotas { limits: Arc::new(limits), used })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_prefixes_of_a_key_are_found() {
        // every key and every set of prefixes over two letters, up to three long
        let mut words = vec![String::new()];
        for at in 0..7 {
            let word = words[at].clone();
            words.extend(["a", "b"].map(|letter| format!("{word}{letter}")));
        }
        assert_eq!(words.len(), 15);
        for set in 0u32..1 << words.len() {
            let chosen = words.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1);
            let map: BTreeMap<Bytes, ()> =
                chosen.map(|(_, word)| (Bytes::from(word.clone()), ())).collect();
            let key = &words[(set % 15) as usize];
            let found: Vec<&Bytes> =
                matching(&map, key.as_bytes()).into_iter().map(|(prefix, ())| prefix).collect();
            let expected: Vec<&Bytes> =
                map.keys().rev().filter(|prefix| key.as_bytes().starts_with(prefix)).collect();
            assert_eq!(found, expected, "{key} in {map:?}");
        }
    }
}
