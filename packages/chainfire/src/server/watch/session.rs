//! One watch stream: its watches, what they were sent, and what comes next.
//!
//! A watch is *live* when every change from `Session::live` on reaches it through the hub's queue,
//! else it is *behind* and reads history page by page. What must stay true:
//! - A watch is live only if `next > max(need, live)`: all matching events below `next` are sent
//!   or in the batch, and those from `next` on will come through the queue.
//! - Live changes pass over a watch that is behind; it stays behind until history has covered them.
//! - Nothing that was applied after the caller lost a permission is sent: before each answer the
//!   session looks whether users or roles have changed since it last judged its watches.
//! - A progress notice at revision R is sent only when nothing waits and everything up to R was
//!   taken from the hub.
//!
//! Nothing runs while the client does not read: the session is polled for one answer at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api::etcdserverpb::watch_create_request::FilterType;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use api::mvccpb::Event;
use api::mvccpb::event::EventType;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::answer::Answer;
use super::batch::{Batch, Shape};
use super::hub::{Hub, Queue, StreamId};
use super::interest::{Interest, Wanted};
use super::source::Source;
use crate::server::auth::Caller;
use crate::server::header::Headers;
use crate::server::refusal;
use crate::store::auth::guard::Guard;
use crate::store::{Access, Auth, AuthError, Changes, History, KeyRange, StoreError};

/// The id of what concerns the whole stream, and of watches that were not created.
const NO_WATCH: i64 = -1;
/// The first key there can be.
const FIRST: Bytes = Bytes::from_static(&[0]);
/// More watches than this on one stream are refused.
const WATCHES_MAX: usize = 100_000;

/// What all sessions share.
#[derive(Clone)]
pub(crate) struct Sessions<S> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) source: S,
    pub(crate) headers: Headers,
    pub(crate) stop: CancellationToken,
    /// The largest answer, but for a single revision that is larger.
    pub(crate) answer_bytes: usize,
    /// Bytes of history read at once.
    pub(crate) page_bytes: usize,
    pub(crate) progress: Duration,
}

pub(crate) struct Session<S: Source, R> {
    shared: Sessions<S>,
    requests: R,
    /// Ends the stream when it turns false.
    quorum: Option<watch::Receiver<bool>>,
    caller: Caller,
    /// Of users and roles, when the watches were last judged by them.
    judged: u64,
    users: watch::Receiver<u64>,
    stream: StreamId,
    queue: Arc<Queue>,
    watches: BTreeMap<i64, Watch>,
    interest: Interest<i64>,
    /// How many watches are behind.
    behind: usize,
    /// Changes up to here were taken from the queue, or were before this stream.
    live: i64,
    /// The queue was dropped; history must be read before joining again.
    lost: bool,
    next_id: i64,
    out: VecDeque<WatchResponse>,
    batch: Batch,
    progress_asked: bool,
    ticks: tokio::time::Interval,
    ended: bool,
}

struct Watch {
    wanted: Wanted,
    /// Nothing below is to be sent any more.
    next: i64,
    /// Up to here it was not at the hub yet: history must be read.
    need: i64,
    behind: bool,
    puts: bool,
    deletes: bool,
    shape: Shape,
    progress: bool,
    /// Whether it was sent something since the last tick.
    busy: bool,
    /// A progress notice is due.
    due: bool,
}

impl Watch {
    fn wants(&self, event: &Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        let kind = if event.r#type == EventType::Put as i32 { self.puts } else { self.deletes };
        kind && kv.mod_revision >= self.next
    }
}

impl<S, R> Session<S, R>
where
    S: Source,
    R: Stream<Item = Result<WatchRequest, Status>> + Send + Unpin + 'static,
{
    pub(crate) fn new(
        shared: Sessions<S>,
        requests: R,
        quorum: Option<watch::Receiver<bool>>,
        caller: Caller,
    ) -> Self {
        let (stream, queue) = shared.hub.open();
        let (judged, users) = (shared.source.auth_epoch(), shared.source.watch_auth());
        let mut ticks = tokio::time::interval_at(
            tokio::time::Instant::now() + shared.progress,
            shared.progress,
        );
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self {
            shared,
            requests,
            quorum,
            caller,
            judged,
            users,
            stream,
            queue,
            watches: BTreeMap::new(),
            interest: Interest::default(),
            behind: 0,
            live: 0,
            lost: false,
            next_id: 0,
            out: VecDeque::new(),
            batch: Batch::default(),
            progress_asked: false,
            ticks,
            ended: false,
        }
    }

    /// The answers, until the client ends the stream or the server must.
    pub(crate) fn answers(self) -> impl Stream<Item = Result<Answer, Status>> + Send + 'static {
        futures::stream::unfold(Box::new(self), |mut session| async move {
            let answer = session.next().await?;
            session.ended |= answer.is_err();
            Some((answer, session))
        })
    }

    async fn next(&mut self) -> Option<Result<Answer, Status>> {
        while !self.ended {
            if self.judged != self.shared.source.auth_epoch() {
                self.judge();
            }
            if let Some(answer) = self.out.pop_front() {
                return Some(Ok(answer.into()));
            }
            // A client that asks while much is to be sent is heard in between.
            match self.requests.next().now_or_never() {
                Some(Some(Ok(request))) => {
                    self.request(request);
                    continue;
                }
                Some(_) => return None,
                None => {}
            }
            match self.next_piece() {
                Ok(Some(answer)) => return Some(Ok(answer)),
                Ok(None) => {}
                Err(error) => return Some(Err(refusal::store(error))),
            }
            self.take();
            if !self.batch.is_empty() {
                continue;
            }
            if self.behind > 0 {
                if let Err(error) = self.page().await {
                    return Some(Err(error));
                }
                continue;
            }
            if self.lost {
                self.rejoin();
                continue;
            }
            if self.progress_wanted() {
                self.tell_progress();
                continue;
            }
            let leaderless = async {
                match &mut self.quorum {
                    // the sender lives as long as the server
                    Some(quorum) => drop(quorum.wait_for(|has| !has).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => {
                    return Some(Err(Status::from(&refusal::STOPPED)));
                }
                () = leaderless => return Some(Err(Status::from(&refusal::NO_LEADER))),
                request = self.requests.next() => match request {
                    Some(Ok(request)) => self.request(request),
                    _ => return None,
                },
                () = self.queue.wake.notified() => {}
                // the sender lives as long as the store
                Ok(()) = self.users.changed() => {}
                _ = self.ticks.tick() => self.tick(),
            }
        }
        None
    }

    fn request(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.progress_asked = true,
            None => {}
        }
    }

    fn create(&mut self, request: WatchCreateRequest) {
        let refused = if request.start_revision < 0 {
            Some(refusal::COMPACTED_TEXT)
        } else if request.watch_id != 0
            && (request.watch_id == NO_WATCH || self.watches.contains_key(&request.watch_id))
        {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else if self.watches.len() >= WATCHES_MAX {
            Some("chainfire: too many watches on this stream")
        } else if is_empty_range(&request) {
            Some("mvcc: watcher range is empty")
        } else {
            let key = if request.key.is_empty() { &FIRST } else { &request.key };
            let range = KeyRange::new(key, &request.range_end);
            let auth = self.shared.source.auth();
            match self.caller.is_stale() && auth.enabled() {
                true => Some(cancel_reason(AuthError::OldRevision)),
                false => denied(&self.caller, &auth, &range).map(cancel_reason),
            }
        };
        if let Some(reason) = refused {
            let header = self.shared.headers.at(self.shared.source.revision());
            self.out.push_back(WatchResponse {
                header,
                watch_id: NO_WATCH,
                created: true,
                canceled: true,
                cancel_reason: reason.into(),
                ..Default::default()
            });
            return;
        }
        let id = self.pick_id(request.watch_id);
        let key = if request.key.is_empty() { FIRST } else { request.key };
        let wanted = Wanted::new(&key, &request.range_end);
        let excluded = |kind: FilterType| request.filters.contains(&(kind as i32));

        // Joined before the revision is read: what comes after it reaches the queue.
        let joined = self.shared.hub.join(self.stream, &wanted);
        let revision = self.shared.source.revision().max(joined);
        let next = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        let behind = next <= joined.max(self.live);
        self.behind += usize::from(behind);
        self.interest.add(&wanted, id);
        self.watches.insert(
            id,
            Watch {
                wanted,
                next,
                need: joined,
                behind,
                puts: !excluded(FilterType::Noput),
                deletes: !excluded(FilterType::Nodelete),
                shape: Shape { prev_kv: request.prev_kv, fragment: request.fragment },
                progress: request.progress_notify,
                busy: true,
                due: false,
            },
        );
        let header = self.shared.headers.at(revision);
        self.out.push_back(WatchResponse {
            header,
            watch_id: id,
            created: true,
            ..Default::default()
        });
    }

    /// Users or roles have changed: watches that the caller may not have any more are canceled.
    fn judge(&mut self) {
        self.judged = self.shared.source.auth_epoch();
        let auth = self.shared.source.auth();
        let doomed: Vec<_> = self
            .watches
            .iter()
            .filter_map(|(id, watch)| {
                denied(&self.caller, &auth, &watch.wanted.range()).map(|error| (*id, error))
            })
            .collect();
        for (id, error) in doomed {
            self.drop_watch(id);
            self.out.push_back(WatchResponse {
                header: self.shared.headers.at(self.shared.source.revision()),
                watch_id: id,
                canceled: true,
                cancel_reason: cancel_reason(error).into(),
                ..Default::default()
            });
        }
    }

    /// What does not exist is not answered, as in etcd.
    fn cancel(&mut self, watch_id: i64) {
        if self.drop_watch(watch_id) {
            let header = self.shared.headers.at(self.shared.source.revision());
            self.out.push_back(WatchResponse {
                header,
                watch_id,
                canceled: true,
                ..Default::default()
            });
        }
    }

    fn pick_id(&mut self, asked: i64) -> i64 {
        if asked != 0 {
            return asked;
        }
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn drop_watch(&mut self, id: i64) -> bool {
        let Some(watch) = self.watches.remove(&id) else { return false };
        self.behind -= usize::from(watch.behind);
        self.interest.remove(&watch.wanted, id);
        self.shared.hub.leave(self.stream, &watch.wanted);
        true
    }

    /// The next answer from the batch.
    fn next_piece(&mut self) -> Result<Option<Answer>, StoreError> {
        while let Some(id) = self.batch.next_watch() {
            let Some(watch) = self.watches.get_mut(&id) else {
                self.batch.skip();
                continue;
            };
            let limit = self.shared.answer_bytes;
            let Some(piece) = self.batch.piece(watch.shape, limit, &self.shared.source)? else {
                break;
            };
            watch.busy = true;
            let head = WatchResponse {
                header: self.shared.headers.at(piece.revision),
                watch_id: piece.watch,
                fragment: piece.fragment,
                ..Default::default()
            };
            return Ok(Some(Answer { head, events: piece.events }));
        }
        self.batch = Batch::default();
        Ok(None)
    }

    /// Takes what the hub has queued.
    fn take(&mut self) {
        let taken = self.queue.take();
        for changes in taken.changes {
            self.deal(changes);
        }
        self.batch.seal();
        if taken.lost && !self.lost {
            self.lost = true;
            let revision = self.shared.source.revision();
            for watch in self.watches.values_mut().filter(|watch| !watch.behind) {
                watch.next = watch.next.max(self.live + 1);
                watch.behind = watch.next <= revision;
                self.behind += usize::from(watch.behind);
            }
        }
    }

    fn deal(&mut self, changes: Arc<Changes>) {
        if changes.revision <= self.live {
            return;
        }
        self.batch.live(changes.clone());
        for (at, event) in changes.events.iter().enumerate() {
            let Some(kv) = &event.kv else { continue };
            let (watches, batch) = (&self.watches, &mut self.batch);
            self.interest.each(&kv.key, |id| {
                if watches.get(&id).is_some_and(|watch| !watch.behind && watch.wants(event)) {
                    batch.hit(id, at);
                }
            });
        }
        self.live = changes.revision;
    }

    /// Reads one page of history, for all that need it: those that start later join in when the
    /// others have reached them.
    async fn page(&mut self) -> Result<(), Status> {
        let behind = || self.watches.values().filter(|watch| watch.behind);
        let Some(from) = behind().map(|watch| watch.next).min() else {
            self.behind = 0;
            return Ok(());
        };
        let mut to = self.shared.source.revision();
        let mut ranges = Vec::new();
        for watch in behind() {
            if watch.next > from {
                to = to.min(watch.next - 1);
            } else {
                ranges.push(watch.wanted.range());
            }
        }
        if ranges.len() > 64 {
            ranges = vec![crate::store::KeyRange::all()];
        }
        let (source, limit) = (self.shared.source.clone(), self.shared.page_bytes);
        let read = move || source.events(from, to, &ranges, limit);
        let history = match consensus::blocking(read).await {
            Ok(Ok(history)) => history,
            Ok(Err(StoreError::Compacted)) => {
                self.cancel_compacted();
                return Ok(());
            }
            Ok(Err(error)) => return Err(refusal::store(error)),
            Err(_) => return Err(Status::from(&refusal::STOPPED)),
        };
        self.deal_past(from, history);
        Ok(())
    }

    fn deal_past(&mut self, from: i64, history: History) {
        let History { events, next } = history;
        let mut hits = Vec::new();
        for (at, event) in events.iter().enumerate() {
            let Some(kv) = &event.kv else { continue };
            self.interest.each(&kv.key, |id| {
                let watch = self.watches.get(&id);
                if watch.is_some_and(|w| w.behind && w.next == from && w.wants(event)) {
                    hits.push((id, at));
                }
            });
        }
        self.batch.past(events);
        for (id, at) in hits {
            self.batch.hit(id, at);
        }
        self.batch.seal();
        for watch in self.watches.values_mut().filter(|w| w.behind && w.next == from) {
            watch.next = next;
            watch.behind = if self.lost {
                // Whoever is lost catches up with the store before it joins again.
                watch.next <= self.shared.source.revision()
            } else {
                watch.next <= self.live.max(watch.need)
            };
            self.behind -= usize::from(!watch.behind);
        }
    }

    fn cancel_compacted(&mut self) {
        let compacted = self.shared.source.compacted();
        let doomed: Vec<i64> = self
            .watches
            .iter()
            .filter(|(_, watch)| watch.behind && watch.next < compacted)
            .map(|(id, _)| *id)
            .collect();
        let revision = self.shared.source.revision();
        for id in doomed {
            self.drop_watch(id);
            self.out.push_back(WatchResponse {
                header: self.shared.headers.at(revision),
                watch_id: id,
                canceled: true,
                compact_revision: compacted,
                cancel_reason: refusal::COMPACTED_TEXT.into(),
                ..Default::default()
            });
        }
    }

    /// History is read up to the store's revision: what is published from here on is queued again.
    fn rejoin(&mut self) {
        let published = self.shared.hub.rejoin(self.stream);
        self.lost = false;
        self.live = self.live.max(published);
        for watch in self.watches.values_mut() {
            watch.behind = watch.next <= self.live;
            self.behind += usize::from(watch.behind);
        }
    }

    fn tick(&mut self) {
        for watch in self.watches.values_mut().filter(|watch| watch.progress) {
            watch.due = !watch.busy;
            watch.busy = false;
        }
    }

    fn progress_wanted(&self) -> bool {
        self.progress_asked || self.watches.values().any(|watch| watch.due)
    }

    /// Nothing is to be sent and nobody is behind: if nothing waits either, everything up to what
    /// the hub has handed out was sent.
    fn tell_progress(&mut self) {
        let Some(revision) = self.shared.hub.taken_up_to(self.stream) else { return };
        // What was told is not taken back: a queue that is dropped later is read again from here.
        self.live = self.live.max(revision);
        let mut notice = |watch_id| {
            self.out.push_back(WatchResponse {
                header: self.shared.headers.at(revision),
                watch_id,
                ..Default::default()
            });
        };
        for (id, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.due) {
            watch.due = false;
            notice(*id);
        }
        if self.progress_asked {
            self.progress_asked = false;
            notice(NO_WATCH);
        }
    }
}

impl<S: Source, R> Drop for Session<S, R> {
    fn drop(&mut self) {
        for watch in self.watches.values() {
            self.shared.hub.leave(self.stream, &watch.wanted);
        }
        self.shared.hub.close(self.stream);
    }
}

fn denied(caller: &Caller, auth: &Auth, range: &KeyRange) -> Option<AuthError> {
    let check = |guard: Guard<'_>| guard.auth.check(guard.who, Access::Read, range);
    caller.check(auth, &|_| Vec::new(), check).err()
}

/// In the words that etcd's server puts there: its clients look for them.
fn cancel_reason(error: AuthError) -> &'static str {
    match error {
        AuthError::UserEmpty => {
            "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
        }
        AuthError::OldRevision => {
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
        }
        _ => "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
    }
}

fn is_empty_range(request: &WatchCreateRequest) -> bool {
    let (key, end) = (&request.key, &request.range_end);
    !end.is_empty() && end.as_ref() != [0] && key >= end
}
