//! Groups of nodes that do not run: reading what a stopped one has, and seeding a new one.
//!
//! What must stay true: nothing here gives out a vote or an acknowledgement, and nothing changes
//! what a stopped node holds. A seeded group has one voter, under an id that was never used, so
//! that members of the group it was taken from cannot be mistaken for its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use journal::Journal;

use crate::error::{ConsensusError, Fatal};
use crate::log::{Log, READ_BYTES};
use crate::machine::{Applied, Machine, Mark, mark_keys};
use crate::raft::{LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, count_of};
use crate::spool::{MAX_CHUNK, Spool};
use crate::thread::{Driver, Identity, mark, members_of};
use crate::types::{GroupId, Member, NodeId, NodeInfo};
use crate::wire::Position;

/// The term in which a seeded group begins; nobody led it.
const SEED: LeaderId = LeaderId { term: 1, node_id: 0 };

/// Prepares a new group with one voter whose machine starts from `chunks`
/// ([`crate::SnapshotSource`]). The folder is that of [`crate::HostOptions::spool`] of a node
/// without a journal; durable when this returns. The node installs them when it starts first.
pub fn seed(
    spool: &Path,
    group: GroupId,
    me: NodeId,
    info: NodeInfo,
    chunks: &mut dyn Iterator<Item = Result<Bytes, Fatal>>,
) -> Result<(), ConsensusError> {
    let failed = |source| ConsensusError::Spool { path: spool.display().to_string(), source };
    let bad = |why: String| ConsensusError::Storage(format!("group {group}: {why}"));
    let spool = Spool::open(spool)?;
    let last = LogId::new(SEED, 0);
    let members = Membership::new(vec![BTreeSet::from([me])], BTreeMap::from([(me, info)]))
        .map_err(|e| bad(e.to_string()))?;
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), members),
    };
    let mut writer = spool.begin(group, &meta).map_err(failed)?;
    for chunk in chunks {
        let mut chunk = chunk.map_err(|e| bad(e.to_string()))?;
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(MAX_CHUNK));
            writer.chunk(&piece).map_err(failed)?;
        }
    }
    let part = writer.finish().map_err(failed)?;
    spool.commit(group, part).map_err(failed)?;
    Ok(())
}

/// What one group left behind on a node that does not run.
pub struct Stopped {
    group: GroupId,
    me: NodeId,
    log: Log,
    spool: PathBuf,
}

/// A machine that was brought to the end of a stopped node's log.
pub struct Rebuilt<M> {
    /// The machine, with everything that the log holds, also what was perhaps never committed.
    pub machine: M,
    /// The members as the log knows them.
    pub members: Vec<Member>,
    /// The term of the last entry; 0 if there is none.
    pub term: u64,
    /// How many entries there were: of two nodes of one group, the one with the higher `(term,
    /// index)` has everything that a majority acknowledged and that the other has.
    pub index: u64,
}

impl Stopped {
    /// Reads the log of a group. `spool` is that of [`crate::HostOptions::spool`].
    pub fn open(journal: Journal, group: GroupId, spool: &Path) -> Result<Self, ConsensusError> {
        let me = Log::owner(&journal, group)?.ok_or_else(|| {
            ConsensusError::Storage(format!("group {group}: the journal has nothing of it"))
        })?;
        let log = Log::open(journal, group, me, true)?;
        Ok(Self { group, me, log, spool: spool.to_owned() })
    }

    /// The node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Brings an empty machine to where the node was: first `chunks`, which is a snapshot of the
    /// node's machine at the marks `applied`, then all entries of the log behind them.
    pub fn rebuild<M: Machine>(
        &self,
        mut machine: M,
        applied: Applied,
        chunks: &mut dyn Iterator<Item = Result<Bytes, Fatal>>,
    ) -> Result<Rebuilt<M>, Fatal> {
        let mut position = Position::decode(&applied).map_err(Fatal::new)?;
        let interrupted = Spool::interrupted_in(&self.spool, self.group);
        let newer = interrupted.map(|file| file.read()).transpose()?;
        let newer = newer.filter(|(meta, _)| meta.last_log_id >= position.last);
        if let Some((meta, mut chunks)) = newer {
            let last = meta.last_log_id.ok_or_else(|| Fatal::new("a snapshot of nothing"))?;
            machine.install(&mut chunks, mark(self.group, &last, Some(&meta.last_membership)))?;
            chunks.try_for_each(|chunk| chunk.map(drop))?;
            position = Position { last: Some(last), members: meta.last_membership };
        } else if let Some(last) = position.last {
            let [at, who] = mark_keys(self.group);
            let pairs = [(at, applied.position), (who, applied.members)];
            let pairs = pairs.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            machine.install(chunks, Mark { index: crate::raft::count(&last), pairs })?;
        }
        let identity = Identity { group: self.group, me: self.me, boot: rand::random() };
        let mut driver = Driver { machine, identity, position };
        let last = self.log.last();
        let (mut from, to) = (count_of(driver.position.last.as_ref()), count_of(last.as_ref()));
        while from < to {
            let entries = self.log.read(from, to, READ_BYTES).map_err(Fatal::new)?;
            let end = entries.last().map(|entry| entry.id.index + 1);
            driver.apply(entries)?;
            from = end.ok_or_else(|| Fatal::new(format_args!("no entry {from} in the log")))?;
        }
        let end = driver.position.last;
        Ok(Rebuilt {
            machine: driver.machine,
            members: members_of(driver.position.members.membership()),
            term: end.map_or(0, |id| id.leader_id.term),
            index: count_of(end.as_ref()),
        })
    }
}
