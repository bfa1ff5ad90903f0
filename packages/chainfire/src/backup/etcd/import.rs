//! etcd's buckets as records of a store.
//!
//! Revisions, versions, leases and history stay as they are. What etcd has decided to compact and
//! not removed yet is left out. The versions are sorted in memory by where they lie in the file:
//! about 100 bytes a version and its key; values are read when they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use api::mvccpb::KeyValue;
use bytes::Bytes;
use consensus::Fatal;
use fault::Fault;
use prost::Message;
use ring::digest::{Context, SHA256};

use super::bolt::{Bolt, BoltError, Pair};
use crate::backup::format::BackupMember;
use crate::backup::{cannot, damaged, foreign};
use crate::store::transfer::{self, Live, Record, Space};
use crate::store::{MAX_KEY, MAX_LEASE_TTL};

const DIGEST: u64 = 32;
/// bbolt writes whole pages, and no page is smaller.
const BLOCK: u64 = 512;

/// A snapshot of etcd, checked and in order.
pub(crate) struct Import {
    bolt: Bolt,
    small: BTreeMap<Bytes, Bytes>,
    /// In the order of keys, newest first.
    versions: Vec<Place>,
    /// Places in `versions` in the order of revisions, and the version that each replaced.
    events: Vec<(usize, Option<usize>)>,
    pub(crate) members: Vec<BackupMember>,
    /// Users and roles are not taken over.
    pub(crate) auth: bool,
    /// The checksum at the end of the file; none where it was not asked for.
    pub(crate) sha256: Option<String>,
}

/// A version and where it lies.
struct Place {
    key: Bytes,
    revision: i64,
    sub: u32,
    deleted: bool,
    at: u64,
    len: usize,
    value: u32,
}

/// Opens a file of `etcdctl snapshot save`. With `bare` it may also be a copy of a member's `db`
/// file, which has no checksum.
pub(crate) fn open(path: &Path, bare: bool) -> Result<Import, Fault> {
    let unreadable =
        |e: std::io::Error| cannot(path, "read", &e.to_string(), "name a file that you may read");
    let mut file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let (size, sha256) = match size % BLOCK {
        0 if bare => (size, None),
        0 => {
            return Err(foreign(
                "it is a bare copy of etcd's database without a checksum: pass --skip-hash-check \
                 to take it as it is",
            ));
        }
        DIGEST => {
            let (size, sum) = (size - DIGEST, whole(&mut file, size - DIGEST));
            (size, Some(sum.map_err(unreadable)??))
        }
        _ => return Err(damaged("its length is that of no snapshot of etcd")),
    };
    let mut import = Bolt::open(file, size).and_then(read).map_err(|e| damaged(e.to_string()))?;
    import.sha256 = sha256;
    Ok(import)
}

/// The checksum of the first bytes, if the file ends with it.
fn whole(file: &mut File, size: u64) -> std::io::Result<Result<String, Fault>> {
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let want = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..want])?;
        digest.update(&buffer[..want]);
        left -= want as u64;
    }
    let mut says = [0; DIGEST as usize];
    file.read_exact(&mut says)?;
    let found = digest.finish();
    Ok(match found.as_ref() == says {
        true => Ok(crate::backup::format::hex(&says)),
        false => Err(damaged("the checksum at its end is wrong")),
    })
}

fn wrong<T>(what: &str) -> Result<T, BoltError> {
    Err(BoltError::Damaged(what.to_owned()))
}

fn read(bolt: Bolt) -> Result<Import, BoltError> {
    let Some(keys) = bolt.bucket(b"key")? else { return wrong("it has no bucket of keys") };
    let compacted = compacted(&bolt)?;
    let mut versions = Vec::new();
    let mut highest = 1;
    bolt.each(&keys, &mut |pair| {
        let place = place(&pair)?;
        highest = highest.max(place.revision);
        versions.push(place);
        Ok(())
    })?;
    // After everything up to the compaction was deleted, no version tells of the revision.
    let revision = highest.max(compacted);
    versions.sort_unstable_by(|a, b| {
        a.key.cmp(&b.key).then_with(|| (b.revision, b.sub).cmp(&(a.revision, a.sub)))
    });
    let (versions, events) = kept(versions, compacted);
    let leases = leases(&bolt)?;
    let small = transfer::small(revision, compacted, leases);
    let members = members(&bolt)?;
    let mut auth = false;
    if let Some(bucket) = bolt.bucket(b"auth")? {
        bolt.each(&bucket, &mut |pair| {
            auth |= pair.key == b"authEnabled" && pair.value == [1];
            Ok(())
        })?;
    }
    Ok(Import { bolt, small, versions, events, members, auth, sha256: None })
}

/// A key of the bucket is `revision ‖ '_' ‖ sub-revision`, and `t` after it for a deletion.
fn position(key: &[u8]) -> Option<(i64, u32, bool)> {
    let deleted = match key.len() {
        17 => false,
        18 if key[17] == b't' => true,
        _ => return None,
    };
    let revision = i64::from_be_bytes(key[..8].try_into().ok()?);
    let sub = i64::from_be_bytes(key[9..17].try_into().ok()?);
    let fits = key[8] == b'_' && (1..i64::MAX).contains(&revision);
    Some((revision, u32::try_from(sub).ok()?, deleted)).filter(|_| fits)
}

fn place(pair: &Pair<'_>) -> Result<Place, BoltError> {
    let Some((revision, sub, deleted)) = position(pair.key) else {
        return wrong("a key of its bucket is no revision");
    };
    let Ok(kv) = KeyValue::decode(pair.value) else { return wrong("a version cannot be read") };
    let right = match deleted {
        true => true,
        false => {
            kv.mod_revision == revision
                && (1..=revision).contains(&kv.create_revision)
                && kv.version >= 1
        }
    };
    if !right || kv.key.is_empty() || kv.key.len() > MAX_KEY {
        return wrong("a version contradicts its place");
    }
    Ok(Place {
        // Out of the page's buffer.
        key: Bytes::copy_from_slice(&kv.key),
        revision,
        sub,
        deleted,
        at: pair.at,
        len: pair.value.len(),
        value: kv.value.len() as u32,
    })
}

/// What is left after the compaction, as a store holds it: of the versions below it the newest one
/// of each key that is alive, and everything from it on. And the events, in order.
fn kept(versions: Vec<Place>, compacted: i64) -> (Vec<Place>, Vec<(usize, Option<usize>)>) {
    let mut kept: Vec<Place> = Vec::with_capacity(versions.len());
    let mut settled: Option<Bytes> = None;
    for place in versions {
        if place.revision <= compacted {
            let newest = settled.as_ref() != Some(&place.key);
            settled = Some(place.key.clone());
            let at_it = place.revision == compacted;
            if !at_it && (!newest || place.deleted) {
                continue;
            }
        }
        kept.push(place);
    }
    let mut events: Vec<(usize, Option<usize>)> = Vec::with_capacity(kept.len());
    for (n, place) in kept.iter().enumerate() {
        if place.revision >= compacted {
            let before = kept.get(n + 1).filter(|older| older.key == place.key && !older.deleted);
            events.push((n, before.map(|_| n + 1)));
        }
    }
    events.sort_unstable_by_key(|(n, _)| (kept[*n].revision, kept[*n].sub));
    (kept, events)
}

/// The compaction revision; -1 before the first.
fn compacted(bolt: &Bolt) -> Result<i64, BoltError> {
    let mut compacted = -1;
    let Some(meta) = bolt.bucket(b"meta")? else { return Ok(compacted) };
    bolt.each(&meta, &mut |pair| {
        if pair.key == b"finishedCompactRev" || pair.key == b"scheduledCompactRev" {
            let Some((revision, ..)) = position(pair.value) else {
                return wrong("its compaction is no revision");
            };
            compacted = compacted.max(revision);
        }
        Ok(())
    })?;
    Ok(compacted)
}

/// etcd's record of a lease.
#[derive(Clone, PartialEq, Message)]
struct Lease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining: i64,
}

fn leases(bolt: &Bolt) -> Result<BTreeSet<(i64, i64, i64)>, BoltError> {
    let mut leases = BTreeSet::new();
    let Some(bucket) = bolt.bucket(b"lease")? else { return Ok(leases) };
    bolt.each(&bucket, &mut |pair| {
        let Ok(lease) = Lease::decode(pair.value) else { return wrong("a lease cannot be read") };
        let fits = lease.id != 0
            && pair.key == lease.id.to_be_bytes()
            && (1..=MAX_LEASE_TTL).contains(&lease.ttl)
            && (0..=lease.ttl).contains(&lease.remaining);
        if !fits {
            return wrong("a lease contradicts its place");
        }
        leases.insert((lease.id, lease.ttl, lease.remaining));
        Ok(())
    })?;
    Ok(leases)
}

/// etcd's record of a member, in part.
#[derive(serde::Deserialize)]
struct Member {
    id: u64,
    #[serde(default, rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "clientURLs")]
    client_urls: Vec<String>,
    #[serde(default, rename = "isLearner")]
    learner: bool,
}

fn members(bolt: &Bolt) -> Result<Vec<BackupMember>, BoltError> {
    let mut members = Vec::new();
    let Some(bucket) = bolt.bucket(b"members")? else { return Ok(members) };
    bolt.each(&bucket, &mut |pair| {
        let Ok(member) = serde_json::from_slice::<Member>(pair.value) else {
            return wrong("a member cannot be read");
        };
        members.push(BackupMember {
            id: format!("{:x}", member.id),
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            learner: member.learner,
        });
        Ok(())
    })?;
    Ok(members)
}

impl Import {
    /// The records, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = Result<Record, Fatal>> + '_ {
        let small = self.small.iter().map(|(key, value)| {
            Ok(Record { space: Space::Small, key: key.clone(), value: value.clone() })
        });
        let versions = self.versions.iter().map(|place| self.version(place));
        let events = self.events.iter().map(|(n, before)| {
            let place = &self.versions[*n];
            let before = before.map(|older| &self.versions[older]);
            let before = before.map(|older| (older.revision, older.sub, older.value));
            Ok(transfer::event(&place.key, (place.revision, place.sub), place.deleted, before))
        });
        small.chain(versions).chain(events)
    }

    fn version(&self, place: &Place) -> Result<Record, Fatal> {
        if place.deleted {
            return Ok(transfer::version(&place.key, place.revision, place.sub, None));
        }
        let bytes = self.bolt.read(place.at, place.len).map_err(Fatal::new)?;
        let kv = KeyValue::decode(Bytes::from(bytes)).map_err(Fatal::new)?;
        let live = Live {
            create: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            value: kv.value,
        };
        Ok(transfer::version(&place.key, place.revision, place.sub, Some(&live)))
    }
}
