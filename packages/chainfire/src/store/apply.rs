//! Applies the commands of one log entry to an overlay over the published state.
//!
//! Deterministic: what comes out depends on the published state and the commands alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::chainfire_internal::{Command, Principal, QuotaChange, command::Request};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse,
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
};
use bytes::Bytes;
use consensus::Fatal;
use prost::Message;

use super::auth::{Auth, guard::Guard};
use super::command::{Outcome, Reply, header};
use super::entry::{Entry, Stamp};
use super::index::Slice;
use super::layout::Version;
use super::lease::{LeaseChange, LeaseOverlay};
use super::overlay::Overlay;
use super::quota::{QuotaOverlay, Usage};
use super::state::{Shared, State, resolve};
use super::{KeyRange, StoreError, check, past, range};

/// One change of one key. The place in the batch is the order of events.
pub(super) struct Change {
    pub(super) revision: i64,
    pub(super) sub: u32,
    pub(super) key: Bytes,
    /// None: deleted.
    pub(super) now: Option<Arc<Entry>>,
    pub(super) before: Option<Arc<Entry>>,
    /// The version as the engine keeps it.
    pub(super) record: Bytes,
}

/// The running batch. Nothing of it is visible before it is published.
pub(super) struct Batch<'a> {
    pub(super) shared: &'a Shared,
    pub(super) state: &'a State,
    /// Of the entry in the log.
    pub(super) index: u64,
    pub(super) done: Done,
    overlay: Overlay,
    /// Where the changes of the running transaction begin.
    begin: usize,
}

/// What a batch leaves behind.
pub(super) struct Done {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) lessor: u64,
    /// Only if they changed.
    pub(super) alarms: Option<BTreeSet<(i32, u64)>>,
    /// Only if it changed.
    pub(super) auth: Option<Arc<Auth>>,
    pub(super) quotas: QuotaOverlay,
    pub(super) changes: Vec<Change>,
    pub(super) leases: LeaseOverlay,
    pub(super) lease_changes: Vec<LeaseChange>,
    /// The newest state of every key touched, in key order.
    pub(super) newest: Vec<(Bytes, Option<Arc<Entry>>)>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(shared: &'a Shared, state: &'a State, index: u64) -> Batch<'a> {
        let done = Done {
            revision: state.revision,
            compacted: state.compacted,
            lessor: state.lessor,
            alarms: None,
            auth: None,
            quotas: QuotaOverlay::default(),
            changes: Vec::new(),
            leases: LeaseOverlay::default(),
            lease_changes: Vec::new(),
            newest: Vec::new(),
        };
        Batch { shared, state, index, done, overlay: Overlay::default(), begin: 0 }
    }

    pub(super) fn finish(mut self) -> Done {
        self.done.newest = self.overlay.into_newest();
        self.done
    }

    /// Carries out one command. Fatal only if this program is too old to know it.
    pub(super) fn command(&mut self, bytes: &Bytes) -> Result<Outcome, Fatal> {
        let Ok(command) = Command::decode(bytes.clone()) else {
            return Ok(Err(StoreError::Malformed));
        };
        match command.request {
            Some(request) => Ok(self.request(command.principal.as_ref(), request)),
            None if bytes.is_empty() => Ok(Err(StoreError::Malformed)),
            None => Err(Fatal::new("the log holds a command that this version does not know")),
        }
    }

    fn request(&mut self, who: Option<&Principal>, request: Request) -> Outcome {
        self.authorize(who, &request)?;
        self.admit(&request)?;
        self.begin = self.done.changes.len();
        let outcome = match request {
            Request::Put(put) => self.put(&put).map(Reply::Put),
            Request::Range(range) => self.range(&range).map(Reply::Range),
            Request::DeleteRange(delete) => self.delete_range(&delete).map(Reply::DeleteRange),
            Request::Txn(txn) => self.txn(&txn).map(Reply::Txn),
            Request::Compact(compact) => self.compact(&compact).map(Reply::Compact),
            Request::LeaseGrant(grant) => self.lease_grant(&grant).map(Reply::LeaseGrant),
            Request::LeaseRevoke(revoke) => self.lease_revoke(&revoke).map(Reply::LeaseRevoke),
            Request::LeaseRemaining(marks) => {
                self.lease_remaining(&marks).map(|()| Reply::LeaseRemaining)
            }
            Request::LeaseExpire(expire) => self.lease_expire(&expire).map(Reply::LeaseExpire),
            Request::LessorClaim(_) => self.lessor_claim().map(Reply::LessorClaim),
            Request::Alarm(alarm) => Ok(Reply::Alarm(self.alarm(&alarm))),
            Request::Auth(change) => self.auth().change(&change).map(|next| {
                self.done.auth = Some(Arc::new(next));
                Reply::Auth
            }),
            Request::Quota(change) => self.quota(&change).map(|()| Reply::Quota),
        };
        match &outcome {
            Ok(_) => self.end(),
            Err(_) => self.undo(),
        }
        outcome
    }

    /// Users and roles as the running batch has left them.
    fn auth(&self) -> &Arc<Auth> {
        self.done.auth.as_ref().unwrap_or(&self.state.auth)
    }

    /// Here is where it counts: whatever the member that took the request knew of users and roles,
    /// all members judge by what the log says before this command.
    fn authorize(&self, who: Option<&Principal>, request: &Request) -> Result<(), StoreError> {
        let auth = self.auth();
        if !auth.enabled() {
            return Ok(());
        }
        let leases =
            |id| self.done.leases.keys(&self.state.leases, id).into_iter().collect::<Vec<_>>();
        Ok(Guard { auth, who, leases: &leases }.command(request)?)
    }

    /// What alarms forbid.
    fn admit(&self, request: &Request) -> Result<(), StoreError> {
        let alarms = self.done.alarms.as_ref().unwrap_or(&self.state.alarms);
        if alarms.is_empty() {
            return Ok(());
        }
        let raised = |kind: AlarmType| alarms.iter().any(|(raised, _)| *raised == kind as i32);
        let (data, grows) = match request {
            Request::Put(_) | Request::LeaseGrant(_) => (true, true),
            Request::Txn(txn) => (true, check::has_put(txn)),
            Request::Range(_)
            | Request::DeleteRange(_)
            | Request::Compact(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseExpire(_) => (true, false),
            Request::LeaseRemaining(_)
            | Request::LessorClaim(_)
            | Request::Alarm(_)
            | Request::Auth(_)
            | Request::Quota(_) => (false, false),
        };
        if data && raised(AlarmType::Corrupt) {
            Err(StoreError::Corrupt)
        } else if grows && raised(AlarmType::Nospace) {
            Err(StoreError::NoSpace)
        } else {
            Ok(())
        }
    }

    /// Ends a transaction: if it changed anything, that is one revision.
    pub(super) fn end(&mut self) {
        if self.done.changes.len() > self.begin {
            self.done.revision += 1;
        }
        self.begin = self.done.changes.len();
    }

    fn undo(&mut self) {
        for change in self.done.changes.drain(self.begin..).rev() {
            self.overlay.pop(&change.key);
            let (from, to) = (change.now.as_deref(), change.before.as_deref());
            self.done.quotas.change(&self.state.quotas, &change.key, from, to);
            let lease = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| entry.lease);
            let (from, to) = (lease(&change.now), lease(&change.before));
            self.done.leases.move_key(&change.key, from, to);
        }
    }

    /// The revision as the running transaction sees it.
    pub(super) fn seen(&self) -> i64 {
        self.done.revision + i64::from(self.done.changes.len() > self.begin)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.overlay.get(&self.state.index, key, i64::MAX)
    }

    pub(super) fn slice(&self, range: &KeyRange, want: usize) -> Slice {
        self.overlay.slice(&self.state.index, range, i64::MAX, want)
    }

    fn slice_at(&self, range: &KeyRange, at: i64, want: usize) -> Result<Slice, StoreError> {
        if at >= self.state.revision {
            return Ok(self.overlay.slice(&self.state.index, range, at, want));
        }
        let snapshot = self.shared.engine.snapshot()?;
        past::slice(snapshot.as_ref(), self.state.spaces, range, at, want)
    }

    /// A range as the running transaction sees it.
    pub(super) fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        check::range(request)?;
        let seen = self.seen();
        let at = resolve(request.revision, seen, self.done.compacted)?;
        let keys = KeyRange::new(&request.key, &request.range_end);
        let slice = self.slice_at(&keys, at, range::want(request))?;
        let values = self.shared.values(self.state.spaces);
        Ok(range::answer(request, &slice, seen, &values)?)
    }

    pub(super) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, StoreError> {
        check::put(request)?;
        self.check_lease(request.lease)?;
        let before = self.get(&request.key);
        if (request.ignore_value || request.ignore_lease) && before.is_none() {
            return Err(StoreError::KeyNotFound);
        }
        let size = match &before {
            Some(before) if request.ignore_value => before.size() as usize,
            _ => request.value.len(),
        };
        let (quotas, old) = (&self.done.quotas, before.as_deref());
        quotas.check(&self.state.quotas, &request.key, size, old)?;
        let values = self.shared.values(self.state.spaces);
        let mut response = PutResponse::default();
        if let (true, Some(before)) = (request.prev_kv, &before) {
            response.prev_kv = Some(values.pair(before)?);
        }
        let revision = self.done.revision + 1;
        let mut lease = request.lease;
        let record = match &before {
            Some(before) => {
                if request.ignore_lease {
                    lease = before.lease;
                }
                let kept;
                let value = if request.ignore_value {
                    kept = values.value(before)?;
                    &kept
                } else {
                    &request.value
                };
                Version::encode_live(before.create, before.version + 1, lease, value)
            }
            None => Version::encode_live(revision, 1, lease, &request.value),
        };
        // The request's buffer is a whole log entry: what stays in memory is a copy.
        let (key, create, version) = match &before {
            Some(before) => (before.key.clone(), before.create, before.version + 1),
            None => (Bytes::copy_from_slice(&request.key), revision, 1),
        };
        let sub = self.sub();
        let stamp = Stamp { create, modified: revision, sub, version, lease };
        let entry = Arc::new(Entry::new(key.clone(), stamp, Version::value_of(&record)));
        self.change(Change { revision, sub, key, now: Some(entry), before, record });
        response.header = header(self.seen());
        Ok(response)
    }

    pub(super) fn check_lease(&self, id: i64) -> Result<(), StoreError> {
        if id == 0 || self.done.leases.get(&self.state.leases, id).is_some() {
            Ok(())
        } else {
            Err(StoreError::LeaseNotFound)
        }
    }

    pub(super) fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, StoreError> {
        check::delete_range(request)?;
        let keys = KeyRange::new(&request.key, &request.range_end);
        let slice = self.slice(&keys, usize::MAX);
        let mut response =
            DeleteRangeResponse { deleted: slice.count as i64, ..Default::default() };
        if request.prev_kv {
            let values = self.shared.values(self.state.spaces);
            values.pairs(slice.iter(), &mut response.prev_kvs)?;
        }
        for entry in slice.iter() {
            self.delete(entry.clone());
        }
        response.header = header(self.seen());
        Ok(response)
    }

    /// Deletes a live key.
    pub(super) fn delete(&mut self, before: Arc<Entry>) {
        let change = Change {
            revision: self.done.revision + 1,
            sub: self.sub(),
            key: before.key.clone(),
            now: None,
            before: Some(before),
            record: Version::encode_tombstone(),
        };
        self.change(change);
    }

    fn sub(&self) -> u32 {
        (self.done.changes.len() - self.begin) as u32
    }

    fn change(&mut self, change: Change) {
        let lease = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| entry.lease);
        let (from, to) = (lease(&change.before), lease(&change.now));
        self.done.leases.move_key(&change.key, from, to);
        let (before, now) = (change.before.as_deref(), change.now.as_deref());
        self.done.quotas.change(&self.state.quotas, &change.key, before, now);
        self.overlay.push(change.key.clone(), change.revision, change.now.clone());
        self.done.changes.push(change);
    }

    fn quota(&mut self, change: &QuotaChange) -> Result<(), StoreError> {
        let mut quotas = std::mem::take(&mut self.done.quotas);
        let count = |prefix: &Bytes| {
            let mut usage = Usage::default();
            for entry in self.slice(&KeyRange::prefix(prefix), usize::MAX).iter() {
                usage.add(Usage::of(entry));
            }
            usage
        };
        let set = quotas.set(&self.state.quotas, change, count);
        self.done.quotas = quotas;
        set
    }

    fn compact(&mut self, request: &CompactionRequest) -> Result<CompactionResponse, StoreError> {
        if request.revision <= self.done.compacted {
            return Err(StoreError::Compacted);
        }
        if request.revision > self.done.revision {
            return Err(StoreError::FutureRevision);
        }
        self.done.compacted = request.revision;
        Ok(CompactionResponse { header: header(self.done.revision) })
    }

    fn alarm(&mut self, request: &AlarmRequest) -> AlarmResponse {
        let alarms = self.done.alarms.as_ref().unwrap_or(&self.state.alarms);
        let this = (request.alarm, request.member_id);
        let member = |(alarm, member_id): (i32, u64)| AlarmMember { member_id, alarm };
        let mut response = AlarmResponse { header: header(self.done.revision), alarms: Vec::new() };
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                let all = request.alarm == AlarmType::None as i32;
                let wanted = alarms.iter().filter(|(kind, _)| all || *kind == request.alarm);
                response.alarms.extend(wanted.map(|&alarm| member(alarm)));
            }
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                let mut alarms = alarms.clone();
                alarms.insert(this);
                self.done.alarms = Some(alarms);
                response.alarms.push(member(this));
            }
            Ok(AlarmAction::Deactivate) if alarms.contains(&this) => {
                let mut alarms = alarms.clone();
                alarms.remove(&this);
                self.done.alarms = Some(alarms);
                response.alarms.push(member(this));
            }
            _ => {}
        }
        response
    }
}
