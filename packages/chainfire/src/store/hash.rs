//! Checksums that are equal on all members, however far each has given compacted space back.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::mvccpb::KeyValue;
use bytes::{BufMut, Bytes};
use engine::{Order, Snapshot};
use prost::Message;

use super::StoreError;
use super::auth;
use super::layout::{self, Spaces, Version};
use super::state::{Shared, State};

/// A checksum over the history up to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C as etcd computes it.
    pub hash: u32,
    /// The revision up to which it goes.
    pub hash_revision: i64,
    /// The compaction revision at that time.
    pub compact_revision: i64,
    /// The present revision.
    pub revision: i64,
}

/// The name of etcd's bucket, with which its checksum begins.
const BUCKET: &[u8] = b"key";

/// etcd's definition: over the bucket's name, then for each kept version in the order of revisions
/// its 17-byte key and its encoded KeyValue. The versions are read in key order here and their
/// checksums put together afterwards, so the memory taken is small.
pub(super) fn hash_kv(shared: &Arc<Shared>, revision: i64) -> Result<HashKv, StoreError> {
    let (snapshot, upto) = shared.pin(|state| Upto::new(state, revision))?;
    upto.hash(snapshot.as_ref())
}

/// What is to be known at the moment of the snapshot.
struct Upto {
    current: i64,
    compacted: i64,
    upto: i64,
    spaces: Spaces,
}

impl Upto {
    fn new(state: &State, revision: i64) -> Result<Upto, StoreError> {
        let (current, compacted, spaces) = (state.revision, state.compacted, state.spaces);
        Ok(Upto { current, compacted, upto: state.resolve(revision)?, spaces })
    }

    fn hash(&self, snapshot: &dyn Snapshot) -> Result<HashKv, StoreError> {
        let &Upto { current, compacted, upto, spaces } = self;
        let mut pieces: Vec<(i64, u32, u32, usize)> = Vec::new();
        let mut settled = Bytes::new();
        let mut scratch = Vec::new();
        for pair in snapshot.iter(spaces.versions, engine::all(), Order::Ascending) {
            let (stored, record) = pair?;
            let (revision, sub) = layout::version_position(&stored)?;
            if revision > upto {
                continue;
            }
            let part = layout::escaped_part(&stored)?;
            let version = Version::decode(&record)?;
            if revision <= compacted {
                // Of what is compacted only the newest version of a key counts, if it is alive.
                let newest = settled != part;
                settled = stored.slice(..part.len());
                if !newest || version == Version::Tombstone {
                    continue;
                }
            }
            scratch.clear();
            scratch.put_i64(revision);
            scratch.put_u8(b'_');
            scratch.put_i64(i64::from(sub));
            let key = layout::unescape(part);
            let pair = match version {
                Version::Live { create, version, lease, value } => KeyValue {
                    key,
                    create_revision: create,
                    mod_revision: revision,
                    version,
                    value,
                    lease,
                },
                Version::Tombstone => {
                    scratch.put_u8(b't');
                    KeyValue { key, ..Default::default() }
                }
            };
            scratch.extend_from_slice(&pair.encode_to_vec());
            pieces.push((revision, sub, crc32c::crc32c(&scratch), scratch.len()));
        }
        pieces.sort_unstable();
        let mut shifts = Shifts::default();
        let hash = pieces
            .into_iter()
            .fold(crc32c::crc32c(BUCKET), |hash, (_, _, crc, len)| shifts.combine(hash, crc, len));
        Ok(HashKv { hash, hash_revision: upto, compact_revision: compacted, revision: current })
    }
}

/// What appending so many bytes does to each bit of a checksum. Records have few lengths, and
/// finding this out is what is slow about putting checksums together.
#[derive(Default)]
struct Shifts(BTreeMap<usize, [u32; 32]>);

impl Shifts {
    fn combine(&mut self, before: u32, crc: u32, len: usize) -> u32 {
        let shift = self
            .0
            .entry(len)
            .or_insert_with(|| std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, len)));
        let set = (0..32).filter(|bit| before >> bit & 1 == 1);
        set.fold(crc, |crc, bit| crc ^ shift[bit])
    }
}

/// Over everything that is replicated, at one moment: leases change without a new revision.
pub(super) fn hash(shared: &Arc<Shared>) -> Result<u32, StoreError> {
    let (snapshot, (upto, small)) =
        shared.pin(|state| Ok((Upto::new(state, 0)?, small_state(state))))?;
    Ok(crc32c::crc32c_append(upto.hash(snapshot.as_ref())?.hash, &small))
}

fn small_state(state: &State) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_i64(state.revision);
    out.put_i64(state.compacted);
    out.put_u64(state.lessor);
    for lease in state.leases.all() {
        out.put_i64(lease.id);
        out.put_i64(lease.ttl);
        out.put_i64(lease.remaining);
        for key in state.leases.keys(lease.id) {
            out.put_slice(key);
        }
    }
    for &(kind, member) in &state.alarms {
        out.put_i32(kind);
        out.put_u64(member);
    }
    for (key, record) in auth::whole(&state.auth) {
        out.put_slice(&key);
        out.put_slice(record.as_deref().unwrap_or_default());
    }
    for (prefix, quota) in state.quotas.limits.iter() {
        let usage = state.quotas.usage(prefix);
        out.put_slice(&quota.encode_to_vec());
        out.put_i64(usage.keys);
        out.put_i64(usage.bytes);
    }
    out
}
