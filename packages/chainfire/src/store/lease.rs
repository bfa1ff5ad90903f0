//! Leases as the log knows them: time granted, time left at the last checkpoint, attached keys.
//!
//! Absent on purpose: deadlines and clocks. The leader keeps those; what it decides comes back
//! through the log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// The largest time to live, in seconds.
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// What readers are told about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: i64,
    /// Granted seconds.
    pub ttl: i64,
    /// Seconds left at the last checkpoint; 0 when there was none since it was granted or renewed.
    pub remaining: i64,
}

/// How a lease changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// It was granted.
    Granted(LeaseInfo),
    /// It was revoked or has expired.
    Gone(i64),
    /// Its remaining time was noted.
    Checkpointed(LeaseInfo),
}

#[derive(Debug, Default)]
struct Lease {
    ttl: i64,
    remaining: i64,
    keys: BTreeSet<Bytes>,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct LeaseTable(BTreeMap<i64, Lease>);

impl LeaseTable {
    pub(super) fn get(&self, id: i64) -> Option<LeaseInfo> {
        self.0.get(&id).map(|lease| LeaseInfo { id, ttl: lease.ttl, remaining: lease.remaining })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = LeaseInfo> {
        self.0.iter().map(|(&id, lease)| LeaseInfo {
            id,
            ttl: lease.ttl,
            remaining: lease.remaining,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn keys(&self, id: i64) -> impl Iterator<Item = &Bytes> {
        self.0.get(&id).into_iter().flat_map(|lease| &lease.keys)
    }

    pub(super) fn set(&mut self, info: LeaseInfo) {
        let lease = self.0.entry(info.id).or_default();
        lease.ttl = info.ttl;
        lease.remaining = info.remaining;
    }

    pub(super) fn attach(&mut self, id: i64, key: Bytes) {
        if let Some(lease) = self.0.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    /// Takes over what a batch did.
    pub(super) fn apply(&mut self, changes: LeaseOverlay) {
        for (id, info) in changes.leases {
            match info {
                Some(info) => self.set(info),
                None => drop(self.0.remove(&id)),
            }
        }
        for ((id, key), attached) in changes.keys {
            if attached {
                self.attach(id, key);
            } else if let Some(lease) = self.0.get_mut(&id) {
                lease.keys.remove(&key);
            }
        }
    }
}

/// What the running batch did to the leases.
#[derive(Debug, Default)]
pub(super) struct LeaseOverlay {
    /// None: gone.
    pub(super) leases: BTreeMap<i64, Option<LeaseInfo>>,
    /// Whether the key is attached now.
    keys: BTreeMap<(i64, Bytes), bool>,
}

impl LeaseOverlay {
    pub(super) fn get(&self, table: &LeaseTable, id: i64) -> Option<LeaseInfo> {
        match self.leases.get(&id) {
            Some(info) => *info,
            None => table.get(id),
        }
    }

    pub(super) fn set(&mut self, info: LeaseInfo) {
        self.leases.insert(info.id, Some(info));
    }

    pub(super) fn remove(&mut self, id: i64) {
        self.leases.insert(id, None);
    }

    /// A key moves from one lease to another; 0 is none.
    pub(super) fn move_key(&mut self, key: &Bytes, from: i64, to: i64) {
        if from != 0 && from != to {
            self.keys.insert((from, key.clone()), false);
        }
        if to != 0 && from != to {
            self.keys.insert((to, key.clone()), true);
        }
    }

    /// The keys of a lease in key order.
    pub(super) fn keys(&self, table: &LeaseTable, id: i64) -> BTreeSet<Bytes> {
        let mut keys: BTreeSet<Bytes> = table.keys(id).cloned().collect();
        let from = (id, Bytes::new());
        for ((_, key), attached) in self.keys.range(from..).take_while(|((of, _), _)| *of == id) {
            if *attached {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        keys
    }
}
