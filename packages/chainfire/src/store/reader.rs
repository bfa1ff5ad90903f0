//! Reads, from any thread, of what was published.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::chainfire::{Quota, QuotaUsage};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{
    AlarmMember, RangeRequest, RangeResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use api::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use tokio::sync::watch;

use super::auth::{Auth, AuthError, AuthSignal};
use super::command::header;
use super::events::{Before, Changes, Subscription};
use super::hash::{self, HashKv};
use super::history::{self, History};
use super::index::Slice;
use super::layout::Spaces;
use super::lease::LeaseInfo;
use super::quota;
use super::recent::Recent;
use super::snapshot::Pack;
use super::state::{Shared, State};
use super::txn::{self, Path};
use super::values::Miss;
use super::{KeyRange, StoreError, check, past, range};

/// How often a read starts again because a compaction or an installed snapshot overtook it.
const TRIES: usize = 16;

/// Reads of the store. Cheap to clone. Everything it answers belongs to one revision, and no read
/// keeps the store from applying for longer than it takes to look up keys in memory.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

impl Reader {
    /// The present revision.
    pub fn revision(&self) -> i64 {
        self.shared.state.read().revision
    }

    /// The compaction revision: reads below it are refused. -1 before the first compaction.
    pub fn compacted(&self) -> i64 {
        self.shared.state.read().compacted
    }

    /// The compaction whose space has been given back; -1 before the first.
    pub fn removed_revision(&self) -> i64 {
        *self.shared.removed.borrow()
    }

    /// How many keys are live.
    pub fn keys(&self) -> usize {
        self.shared.state.read().index.len()
    }

    /// A range, now or at an earlier revision.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        check::range(request)?;
        retry(|| {
            let (slice, revision, spaces) = self.slice(request)?;
            range::answer(request, &slice, revision, &self.shared.values(spaces))
        })
    }

    fn slice(&self, request: &RangeRequest) -> Result<(Slice, i64, Spaces), StoreError> {
        let keys = KeyRange::new(&request.key, &request.range_end);
        let want = range::want(request);
        {
            let state = self.shared.state.read();
            let at = state.resolve(request.revision)?;
            if at == state.revision {
                return Ok((state.index.slice(&keys, want), at, state.spaces));
            }
        }
        self.past(&keys, request.revision, want)
    }

    fn past(
        &self,
        keys: &KeyRange,
        at: i64,
        want: usize,
    ) -> Result<(Slice, i64, Spaces), StoreError> {
        let (snapshot, (revision, spaces, recent)) = self.shared.pin(|state| {
            state.resolve(at)?;
            let recent = Recent::find(state, &self.shared.ring, keys, at, want);
            Ok((state.revision, state.spaces, recent))
        })?;
        let slice = match recent {
            Some(recent) => recent.slice(snapshot.as_ref(), spaces, at, want)?,
            None => past::slice(snapshot.as_ref(), spaces, keys, at, want)?,
        };
        Ok((slice, revision, spaces))
    }

    /// A transaction that can write nothing ([`check::is_read_only`]), all at one revision.
    pub fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, StoreError> {
        retry(|| {
            let (plan, path, revision, spaces) = {
                let state = self.shared.state.read();
                let values = self.shared.values(state.spaces);
                let look = |range: &KeyRange| state.index.slice(range, usize::MAX);
                let path = txn::decide(request, &values, &look)?;
                let mut plan = Vec::new();
                self.plan(request, &path, &state, &mut plan)?;
                (plan, path, state.revision, state.spaces)
            };
            let mut plan = plan.into_iter();
            let mut response = self.run(request, &path, revision, spaces, &mut plan)?;
            response.header = header(revision);
            Ok(response)
        })
    }

    /// The present keys of every range in order; none for a range at an earlier revision.
    fn plan(
        &self,
        request: &TxnRequest,
        path: &Path,
        state: &State,
        plan: &mut Vec<Option<Slice>>,
    ) -> Result<(), StoreError> {
        let mut nested = path.nested.iter();
        for op in txn::branch(request, path.succeeded) {
            match &op.request {
                Some(Request::RequestRange(request)) => {
                    check::range(request)?;
                    let keys = KeyRange::new(&request.key, &request.range_end);
                    let now = state.resolve(request.revision)? == state.revision;
                    plan.push(now.then(|| state.index.slice(&keys, range::want(request))));
                }
                Some(Request::RequestTxn(inner)) => {
                    if let Some(path) = nested.next() {
                        self.plan(inner, path, state, plan)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn run(
        &self,
        request: &TxnRequest,
        path: &Path,
        revision: i64,
        spaces: Spaces,
        plan: &mut impl Iterator<Item = Option<Slice>>,
    ) -> Result<TxnResponse, Miss> {
        let mut nested = path.nested.iter();
        let mut responses = Vec::new();
        for op in txn::branch(request, path.succeeded) {
            let response = match &op.request {
                Some(Request::RequestRange(request)) => {
                    let slice = match plan.next().flatten() {
                        Some(slice) => slice,
                        None => {
                            let keys = KeyRange::new(&request.key, &request.range_end);
                            self.past(&keys, request.revision, range::want(request))?.0
                        }
                    };
                    let values = self.shared.values(spaces);
                    let answer = range::answer(request, &slice, revision, &values)?;
                    Some(Response::ResponseRange(answer))
                }
                Some(Request::RequestTxn(inner)) => match nested.next() {
                    Some(path) => {
                        let answer = self.run(inner, path, revision, spaces, plan)?;
                        Some(Response::ResponseTxn(answer))
                    }
                    None => None,
                },
                _ => None,
            };
            responses.push(ResponseOp { response });
        }
        let header = Some(ResponseHeader::default());
        Ok(TxnResponse { header, succeeded: path.succeeded, responses })
    }

    /// Events of the revisions `from..=to` (as far as they exist) whose key lies in one of
    /// `ranges`, about `limit` bytes of them, always whole revisions. `from` may be the compaction
    /// revision itself, below it is refused.
    pub fn events(
        &self,
        from: i64,
        to: i64,
        ranges: &[KeyRange],
        limit: usize,
    ) -> Result<History, StoreError> {
        history::events(&self.shared, from, to, ranges, limit)
    }

    /// The pair that an event replaced, for `prev_kv`; none once it is compacted.
    pub fn prev(&self, event: &Event) -> Result<Option<KeyValue>, StoreError> {
        history::prev(&self.shared, event)
    }

    /// The same for the event at a place in published changes, mostly without reading.
    pub fn prev_of(&self, changes: &Changes, at: usize) -> Result<Option<KeyValue>, StoreError> {
        match (changes.before.get(at), changes.events.get(at)) {
            (Some(Before::Known(pair)), _) => Ok(Some(pair.clone())),
            (Some(Before::Fetch), Some(event)) => self.prev(event),
            _ => Ok(None),
        }
    }

    /// Follows what is applied from here on.
    pub fn subscribe(&self) -> Subscription {
        self.shared.ring.subscribe(self.shared.clone())
    }

    /// All leases, by id.
    pub fn leases(&self) -> Vec<LeaseInfo> {
        self.shared.state.read().leases.all().collect()
    }

    /// How many leases there are.
    pub fn lease_count(&self) -> usize {
        self.shared.state.read().leases.len()
    }

    /// One lease.
    pub fn lease(&self, id: i64) -> Option<LeaseInfo> {
        self.shared.state.read().leases.get(id)
    }

    /// The keys attached to a lease in order; none if there is no such lease.
    pub fn lease_keys(&self, id: i64) -> Option<Vec<Bytes>> {
        let state = self.shared.state.read();
        state.leases.get(id)?;
        Some(state.leases.keys(id).cloned().collect())
    }

    /// The last claim of the lessor's part; 0 before the first.
    pub fn lessor_claim(&self) -> u64 {
        self.shared.state.read().lessor
    }

    /// Alarms that are raised, by kind and member.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        let state = self.shared.state.read();
        let member = |&(alarm, member_id): &(i32, u64)| AlarmMember { member_id, alarm };
        state.alarms.iter().map(member).collect()
    }

    /// etcd's HashKV up to a revision, 0 for the present one. Reads everything: seconds for
    /// millions of keys, off the async threads.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, StoreError> {
        hash::hash_kv(&self.shared, revision)
    }

    /// A checksum over keys, history, leases and alarms; equal on members at the same revision.
    pub fn hash(&self) -> Result<u32, StoreError> {
        hash::hash(&self.shared)
    }

    /// Bytes that the engine takes on disk.
    pub fn db_size(&self) -> u64 {
        self.shared.engine.disk_size()
    }

    /// Bytes of keys, values and history before compression, about. What a quota should look at:
    /// it falls when a compaction has given space back.
    pub fn db_size_in_use(&self) -> u64 {
        self.shared.in_use.load(Ordering::Relaxed).max(0) as u64
    }

    /// Returns when the space of a compaction has been given back (`physical` compaction).
    pub async fn removed(&self, revision: i64) {
        let mut removed = self.shared.removed.subscribe();
        if removed.wait_for(|done| *done >= revision).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Limits on namespaces, and what they hold, by prefix.
    pub fn quotas(&self) -> Vec<QuotaUsage> {
        let state = self.shared.state.read();
        let usage = |(prefix, quota): (&Bytes, &Quota)| {
            let used = state.quotas.usage(prefix);
            let count = |number: i64| number.max(0) as u64;
            let (keys, bytes) = (count(used.keys), count(used.bytes));
            QuotaUsage { quota: Some(quota.clone()), keys, bytes }
        };
        state.quotas.limits.iter().map(usage).collect()
    }

    /// Whether any namespace has a limit on requests. Costs one load.
    pub fn has_rates(&self) -> bool {
        self.shared.rates.load(Ordering::Relaxed)
    }

    /// The limits on requests that hold for a key: prefix, and requests a second.
    pub fn rates_of(&self, key: &[u8]) -> Vec<(Bytes, u64)> {
        let limits = self.shared.state.read().quotas.limits.clone();
        let found = quota::matching(&limits, key).into_iter();
        let rates = found.filter(|(_, quota)| quota.requests_per_second > 0);
        rates.map(|(prefix, quota)| (prefix.clone(), quota.requests_per_second)).collect()
    }

    /// Users and roles.
    pub fn auth(&self) -> Arc<Auth> {
        self.shared.state.read().auth.clone()
    }

    /// Whether users and roles count. Costs one load.
    pub fn auth_enabled(&self) -> bool {
        self.shared.auth.enabled()
    }

    /// Changes with every change of users and roles; whoever has seen something that was applied
    /// after a change sees another number than before it. Costs one load.
    pub fn auth_epoch(&self) -> u64 {
        self.shared.auth.epoch()
    }

    /// Wakes when users or roles have changed.
    pub fn watch_auth(&self) -> watch::Receiver<u64> {
        self.shared.auth.subscribe()
    }

    /// Reads for somebody: `check` holds for all the time of the read, or it is an error. Costs
    /// two loads while authentication is disabled.
    pub fn guarded<T>(
        &self,
        check: impl Fn(&Auth) -> Result<(), AuthError>,
        mut read: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut seen = self.auth_epoch();
        for _ in 0..TRIES {
            if AuthSignal::is_enabled(seen) {
                check(&self.auth())?;
            }
            let answer = read();
            let now = self.auth_epoch();
            if now == seen {
                return answer;
            }
            seen = now;
        }
        Err(AuthError::OldRevision.into())
    }

    /// A consistent copy of everything as chunks of bounded size with checksums, for a backup.
    pub fn snapshot(&self) -> Result<Pack, StoreError> {
        let (snapshot, spaces) = self.shared.pin(|state| Ok(state.spaces))?;
        Ok(Pack::new(snapshot, spaces))
    }
}

fn retry<T>(mut read: impl FnMut() -> Result<T, Miss>) -> Result<T, StoreError> {
    for _ in 1..TRIES {
        match read() {
            Err(Miss::Gone) => std::thread::yield_now(),
            other => return other.map_err(StoreError::from),
        }
    }
    read().map_err(StoreError::from)
}
