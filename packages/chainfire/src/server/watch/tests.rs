//! Watch streams against a store that is a list of events.

use std::sync::Arc;
use std::time::Duration;

use api::authpb::Permission;
use api::authpb::permission::Type;
use api::chainfire_internal::AuthEnable;
use api::chainfire_internal::auth_change::Change;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
    WatchRequest, WatchResponse,
};
use api::mvccpb::event::EventType;
use api::mvccpb::{Event, KeyValue};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::answer::Answer;
use super::hub::{Hub, QueueLimits};
use super::session::{Session, Sessions};
use super::source::Source;
use crate::server::auth::Caller;
use crate::server::header::Headers;
use crate::store::{Auth, Before, Changes, History, KeyRange, Principal, StoreError};

/// Every revision's events; the place is the revision.
#[derive(Clone, Default)]
struct Past(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    revisions: Vec<Vec<Event>>,
    compacted: i64,
    page: usize,
    auth: Arc<Auth>,
    epoch: u64,
}

impl Source for Past {
    fn revision(&self) -> i64 {
        self.0.lock().revisions.len() as i64 - 1
    }

    fn compacted(&self) -> i64 {
        self.0.lock().compacted
    }

    fn events(
        &self,
        from: i64,
        to: i64,
        ranges: &[KeyRange],
        _: usize,
    ) -> Result<History, StoreError> {
        let known = self.0.lock();
        if from < known.compacted {
            return Err(StoreError::Compacted);
        }
        // One page is a few revisions, so that every test reads several.
        let last = to.min(from + known.page as i64 - 1);
        let mut history = History { events: Vec::new(), next: last + 1 };
        for revision in from.max(0)..=last {
            for event in known.revisions.get(revision as usize).into_iter().flatten() {
                let key = &event.kv.as_ref().unwrap().key;
                if ranges.iter().any(|range| range.contains(key)) {
                    history.events.push(event.clone());
                }
            }
        }
        Ok(history)
    }

    fn prev(&self, event: &Event) -> Result<Option<KeyValue>, StoreError> {
        let kv = event.kv.as_ref().unwrap();
        let known = self.0.lock();
        let earlier = known.revisions[..kv.mod_revision as usize].iter().rev().flatten();
        let found = earlier.filter_map(|e| e.kv.clone()).find(|before| before.key == kv.key);
        Ok(found)
    }

    fn auth(&self) -> Arc<Auth> {
        self.0.lock().auth.clone()
    }

    fn auth_epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    fn watch_auth(&self) -> watch::Receiver<u64> {
        // without a sender nobody is woken, as without changes
        watch::channel(0).1
    }

    fn prev_of(&self, changes: &Changes, at: usize) -> Result<Option<KeyValue>, StoreError> {
        self.prev(&changes.events[at])
    }
}

type Answers = std::pin::Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

struct Bench {
    past: Past,
    hub: Arc<Hub>,
    quorum: watch::Sender<bool>,
    stop: CancellationToken,
    sessions: Sessions<Past>,
    _status: watch::Sender<consensus::Status>,
}

struct Client {
    requests: mpsc::UnboundedSender<Result<WatchRequest, Status>>,
    answers: Answers,
}

fn status() -> consensus::Status {
    consensus::Status {
        group: 1,
        me: 1,
        term: 3,
        leader: Some(1),
        role: consensus::Role::Leader,
        last_index: 0,
        committed: 0,
        applied: 0,
        persisted: 0,
        purged: 0,
        members: Vec::new(),
        removed: false,
        failure: None,
    }
}

impl Bench {
    fn new(limits: QueueLimits) -> Bench {
        let past = Past::default();
        past.0.lock().revisions = vec![Vec::new(), Vec::new()];
        past.0.lock().page = 3;
        let hub = Arc::new(Hub::new(1, limits));
        let (keep, status) = watch::channel(status());
        let stop = CancellationToken::new();
        let sessions = Sessions {
            hub: hub.clone(),
            source: past.clone(),
            headers: Headers { cluster_id: 7, member_id: 1, status },
            stop: stop.clone(),
            answer_bytes: 300,
            page_bytes: 1,
            progress: Duration::from_secs(600),
        };
        let quorum = watch::Sender::new(true);
        Bench { past, hub, quorum, stop, sessions, _status: keep }
    }

    fn client(&self) -> Client {
        self.client_of(Caller::Nobody)
    }

    fn client_of(&self, caller: Caller) -> Client {
        let (requests, receive) = mpsc::unbounded_channel();
        let requests_in = UnboundedReceiverStream::new(receive);
        let quorum = Some(self.quorum.subscribe());
        let session = Session::new(self.sessions.clone(), requests_in, quorum, caller);
        let answers = session.answers().map_ok(Answer::into_response);
        Client { requests, answers: Box::pin(answers) }
    }

    /// Writes revisions to history; whoever follows the hub learns of them by [`Bench::publish`].
    fn write(&self, keys: &[&str]) -> Arc<Changes> {
        let mut known = self.past.0.lock();
        let revision = known.revisions.len() as i64;
        let events: Vec<Event> = keys
            .iter()
            .map(|key| {
                let (kind, key) = match key.strip_prefix('-') {
                    Some(key) => (EventType::Delete, key),
                    None => (EventType::Put, *key),
                };
                let kv = KeyValue {
                    key: key.to_owned().into(),
                    value: vec![b'x'; 60].into(),
                    mod_revision: revision,
                    ..Default::default()
                };
                Event { r#type: kind as i32, kv: Some(kv), prev_kv: None }
            })
            .collect();
        known.revisions.push(events.clone());
        Arc::new(Changes {
            after: revision - 1,
            revision,
            before: vec![Before::Fetch; events.len()].into(),
            events: events.into(),
            leases: Box::default(),
            compacted: None,
            alarms: false,
        })
    }

    fn put(&self, keys: &[&str]) {
        let changes = self.write(keys);
        self.hub.publish(&[changes]);
    }
}

fn create(key: &str, end: &str, start: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        start_revision: start,
        ..Default::default()
    }
}

impl Client {
    fn ask(&self, request: RequestUnion) {
        self.requests.send(Ok(WatchRequest { request_union: Some(request) })).unwrap();
    }

    fn create(&self, request: WatchCreateRequest) {
        self.ask(RequestUnion::CreateRequest(request));
    }

    async fn next(&mut self) -> WatchResponse {
        self.fallible().await.expect("an answer")
    }

    async fn fallible(&mut self) -> Result<WatchResponse, Status> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.answers.next());
        next.await.expect("an answer in time").expect("not the end")
    }

    /// Nothing comes, however often it is asked.
    async fn quiet(&mut self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
            let next = self.answers.next().now_or_never();
            assert!(next.is_none(), "{next:?}");
        }
    }

    /// Revisions of the events of the next answers, until so many events have come.
    async fn revisions(&mut self, watch: i64, count: usize) -> Vec<i64> {
        let mut all = Vec::new();
        while all.len() < count {
            let answer = self.next().await;
            if answer.watch_id == watch {
                all.extend(revisions(&answer));
            }
        }
        all
    }
}

fn revisions(answer: &WatchResponse) -> Vec<i64> {
    answer.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
}

#[tokio::test]
async fn a_watch_from_now_gets_what_comes() {
    let bench = Bench::new(QueueLimits::default());
    bench.put(&["a"]);
    let mut client = bench.client();
    client.create(create("a", "", 0));
    let created = client.next().await;
    assert!(created.created && created.watch_id == 0);
    let header = created.header.unwrap();
    assert_eq!((header.revision, header.raft_term, header.cluster_id), (2, 3, 7));
    client.quiet().await;
    bench.put(&["b"]);
    bench.put(&["a", "b", "-a"]);
    let answer = client.next().await;
    assert_eq!(revisions(&answer), [4, 4]);
    assert_eq!(answer.header.unwrap().revision, 4);
    client.quiet().await;
}

#[tokio::test]
async fn history_runs_over_into_the_present_without_gap_or_double() {
    let bench = Bench::new(QueueLimits::default());
    for _ in 2..=20 {
        bench.put(&["a", "other"]);
    }
    let mut client = bench.client();
    client.create(create("a", "", 5));
    assert!(client.next().await.created);
    let mut seen = Vec::new();
    // Writes go on while history is read, published late or at once.
    let mut late = Vec::new();
    for round in 0..30 {
        if round < 10 {
            late.push(bench.write(&["a"]));
            if round % 3 == 0 {
                bench.hub.publish(&std::mem::take(&mut late));
            }
        }
        if round == 10 {
            bench.hub.publish(&late);
        }
        if seen.len() < 26 {
            seen.extend(revisions(&client.next().await));
        }
    }
    assert_eq!(seen, (5..=30).collect::<Vec<i64>>());
    client.quiet().await;
}

#[tokio::test]
async fn a_start_in_the_future_gets_nothing_earlier() {
    let bench = Bench::new(QueueLimits::default());
    let mut client = bench.client();
    client.create(create("a", "", 5));
    assert!(client.next().await.created);
    for _ in 2..=6 {
        bench.put(&["a"]);
    }
    assert_eq!(client.revisions(0, 2).await, [5, 6]);
    client.quiet().await;
}

#[tokio::test]
async fn a_slow_stream_loses_its_queue_but_no_event() {
    let bench = Bench::new(QueueLimits { entries: 4, ..QueueLimits::default() });
    let mut client = bench.client();
    client.create(create("a", "", 0));
    client.create(create("", "\0", 0));
    assert!(client.next().await.created);
    assert!(client.next().await.created);
    for _ in 2..=40 {
        bench.put(&["a"]);
    }
    assert_eq!(bench.hub.stats().lost, 1);
    assert_eq!(bench.hub.stats().queued_bytes, 0);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut written = 40;
    while first.len() + second.len() < 2 * 59 {
        let answer = client.next().await;
        let seen = if answer.watch_id == 0 { &mut first } else { &mut second };
        seen.extend(revisions(&answer));
        // And it falls behind again on the way.
        if written < 60 {
            written += 1;
            bench.put(&["a"]);
        }
    }
    let all: Vec<i64> = (2..=60).collect();
    assert_eq!((first, second), (all.clone(), all));
    client.quiet().await;
}

#[tokio::test]
async fn a_second_watch_joins_a_stream_that_is_under_way() {
    let bench = Bench::new(QueueLimits::default());
    let mut client = bench.client();
    client.create(create("a", "", 0));
    assert!(client.next().await.created);
    for _ in 2..=12 {
        bench.put(&["b"]);
    }
    client.create(create("b", "", 2));
    let created = client.next().await;
    assert_eq!((created.created, created.watch_id), (true, 1));
    bench.put(&["a"]);
    bench.put(&["b"]);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    while a.len() + b.len() < 13 {
        let answer = client.next().await;
        if answer.watch_id == 0 { &mut a } else { &mut b }.extend(revisions(&answer));
    }
    assert_eq!(a, [13]);
    assert_eq!(b, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14]);
    client.quiet().await;
}

#[tokio::test]
async fn a_compacted_start_cancels_that_watch_alone() {
    let bench = Bench::new(QueueLimits::default());
    for _ in 2..=10 {
        bench.put(&["a"]);
    }
    bench.past.0.lock().compacted = 6;
    let mut client = bench.client();
    client.create(create("a", "", 5));
    client.create(create("a", "", 6));
    assert!(client.next().await.created);
    assert!(client.next().await.created);
    let canceled = client.next().await;
    assert!(canceled.canceled && canceled.compact_revision == 6 && canceled.watch_id == 0);
    assert_eq!(canceled.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(client.revisions(1, 5).await, [6, 7, 8, 9, 10]);
    client.create(create("a", "", -1));
    let refused = client.next().await;
    assert!(refused.created && refused.canceled && refused.watch_id == -1);
}

#[tokio::test]
async fn ids_are_the_clients_or_the_next_free_one() {
    let bench = Bench::new(QueueLimits::default());
    let mut client = bench.client();
    let with_id = |id| WatchCreateRequest { watch_id: id, ..create("a", "", 0) };
    for (asked, got, refused) in
        [(0, 0, false), (2, 2, false), (0, 1, false), (0, 3, false), (2, -1, true), (-1, -1, true)]
    {
        client.create(with_id(asked));
        let answer = client.next().await;
        assert_eq!((answer.watch_id, answer.canceled, answer.created), (got, refused, true));
    }
    client.create(create("b", "a", 0));
    assert_eq!(client.next().await.cancel_reason, "mvcc: watcher range is empty");
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 2 }));
    let canceled = client.next().await;
    assert!(canceled.canceled && canceled.watch_id == 2 && !canceled.created);
    client.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 99 }));
    client.quiet().await;
    bench.put(&["a"]);
    for watch in [0, 1, 3] {
        assert_eq!(client.next().await.watch_id, watch);
    }
}

#[tokio::test]
async fn filters_and_previous_pairs() {
    let bench = Bench::new(QueueLimits::default());
    let mut client = bench.client();
    client.create(WatchCreateRequest { filters: vec![0], prev_kv: true, ..create("a", "", 0) });
    client.create(WatchCreateRequest { filters: vec![1], ..create("a", "", 0) });
    client.next().await;
    client.next().await;
    bench.put(&["a"]);
    assert_eq!(client.next().await.watch_id, 1, "the put is filtered out of watch 0");
    bench.put(&["-a"]);
    let answer = client.next().await;
    assert_eq!(answer.watch_id, 0);
    assert_eq!(answer.events[0].prev_kv.as_ref().unwrap().mod_revision, 2);
    client.quiet().await;
}

#[tokio::test]
async fn a_revision_is_split_only_for_who_takes_fragments() {
    let bench = Bench::new(QueueLimits::default());
    let mut client = bench.client();
    client.create(create("a", "b", 0));
    client.create(WatchCreateRequest { fragment: true, ..create("a", "b", 0) });
    client.next().await;
    client.next().await;
    let keys: Vec<String> = (0..7).map(|n| format!("a{n}")).collect();
    bench.put(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    bench.put(&["a"]);
    let whole = client.next().await;
    assert_eq!((whole.watch_id, whole.events.len(), whole.fragment), (0, 7, false));
    assert_eq!(revisions(&client.next().await), [3]);
    let mut parts = Vec::new();
    while parts.len() < 8 {
        let part = client.next().await;
        let revisions = revisions(&part);
        parts.extend(revisions);
        let splits = parts.len() < 7;
        assert_eq!(part.fragment, splits, "{parts:?}");
    }
    assert_eq!(parts, [2, 2, 2, 2, 2, 2, 2, 3]);
}

#[tokio::test]
async fn progress_never_runs_ahead_of_events() {
    let bench = Bench::new(QueueLimits::default());
    let mut client = bench.client();
    client.create(create("a", "", 2));
    client.next().await;
    for _ in 2..=9 {
        bench.put(&["a"]);
    }
    let unpublished = bench.write(&["a"]);
    client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    let mut seen = Vec::new();
    let notice = loop {
        let answer = client.next().await;
        if answer.watch_id == -1 {
            break answer;
        }
        seen.extend(revisions(&answer));
    };
    let told = notice.header.unwrap().revision;
    assert!(notice.events.is_empty() && told >= 9);
    assert_eq!(seen, (2..=told).collect::<Vec<i64>>());
    bench.hub.publish(&[unpublished]);
}

#[tokio::test]
async fn a_quiet_watch_is_told_how_far_it_is() {
    let mut bench = Bench::new(QueueLimits::default());
    bench.sessions.progress = Duration::from_millis(5);
    let mut client = bench.client();
    client.create(WatchCreateRequest { progress_notify: true, ..create("a", "", 0) });
    client.create(create("a", "", 0));
    client.next().await;
    client.next().await;
    bench.put(&["b"]);
    for _ in 0..3 {
        let notice = client.next().await;
        assert_eq!((notice.watch_id, notice.header.unwrap().revision), (0, 2));
    }
}

/// As when a member that lags installs a snapshot: found by the simulation, seed 328.
#[tokio::test]
async fn a_quiet_watch_that_was_told_how_far_it_is_is_not_cancelled_for_what_is_compacted_below() {
    let bench = Bench::new(QueueLimits::default());
    let mut client = bench.client();
    client.create(create("a", "", 0));
    client.next().await;
    for _ in 2..=9 {
        bench.put(&["b"]);
    }
    client.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    assert_eq!(client.next().await.header.unwrap().revision, 9);
    bench.past.0.lock().compacted = 6;
    bench.write(&["a"]);
    bench.hub.skip_to(10);
    assert_eq!(client.revisions(0, 1).await, [10]);
}

#[tokio::test]
async fn without_a_quorum_or_at_the_stop_the_stream_ends_with_a_reason() {
    let bench = Bench::new(QueueLimits::default());
    let mut client = bench.client();
    client.create(create("a", "", 0));
    client.next().await;
    client.quiet().await;
    bench.quorum.send_replace(false);
    assert_eq!(client.fallible().await.unwrap_err().message(), "etcdserver: no leader");
    assert!(client.answers.next().await.is_none());
    drop(client);
    assert_eq!(bench.hub.stats().watches, 0);

    bench.quorum.send_replace(true);
    let mut client = bench.client();
    bench.stop.cancel();
    assert_eq!(client.fallible().await.unwrap_err().message(), "etcdserver: server stopped");
    drop(client);
    assert_eq!(bench.hub.stats().streams, 0);
}

/// Users and roles, enabled: `reader` may read every key.
fn with_reader() -> (Auth, Principal) {
    let grant = |user: &str, role: &str| {
        let (user, role) = (user.into(), role.into());
        Change::UserGrantRole(AuthUserGrantRoleRequest { user, role })
    };
    let (key, range_end) = ("\0".into(), "\0".into());
    let perm = Some(Permission { perm_type: Type::Read as i32, key, range_end });
    let auth = Auth::default().after([
        add("root"),
        grant("root", "root"),
        add("reader"),
        Change::RoleAdd(AuthRoleAddRequest { name: "all".into() }),
        Change::RoleGrantPermission(AuthRoleGrantPermissionRequest { name: "all".into(), perm }),
        grant("reader", "all"),
        Change::Enable(AuthEnable { token_key: "key".into() }),
    ]);
    let principal = Principal { user: "reader".into(), auth_revision: auth.revision() };
    (auth, principal)
}

fn add(name: &str) -> Change {
    let (name, hashed_password) = (name.into(), "aGFzaA==".into());
    Change::UserAdd(AuthUserAddRequest { name, hashed_password, ..Default::default() })
}

impl Bench {
    fn know(&self, auth: &Auth) {
        let mut known = self.past.0.lock();
        (known.auth, known.epoch) = (Arc::new(auth.clone()), known.epoch + 1);
    }
}

#[tokio::test]
async fn a_watch_on_all_keys_outlives_changes_of_other_users() {
    let bench = Bench::new(QueueLimits::default());
    let (auth, principal) = with_reader();
    bench.know(&auth);
    let mut client = bench.client_of(Caller::Token(principal, u64::MAX));
    for (key, end) in [("\0", "\0"), ("", "\0")] {
        client.create(create(key, end, 0));
        let created = client.next().await;
        assert!(created.created && !created.canceled, "{created:?}");
    }
    let auth = auth.after([add("somebody else")]);
    bench.know(&auth);
    bench.put(&["a"]);
    assert_eq!(client.revisions(0, 1).await, [2]);
    let delete = AuthRoleDeleteRequest { role: "all".into() };
    bench.know(&auth.after([Change::RoleDelete(delete)]));
    bench.put(&["a"]);
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let answer = client.next().await;
        if answer.canceled {
            assert!(answer.cancel_reason.contains("permission denied"), "{answer:?}");
            gone.push(answer.watch_id);
        }
    }
    assert_eq!(gone, [0, 1]);
}

#[tokio::test]
async fn nothing_begins_with_a_token_that_is_too_old() {
    let bench = Bench::new(QueueLimits::default());
    let (auth, principal) = with_reader();
    let mut client = bench.client_of(Caller::Token(principal, 1));
    client.create(create("a", "", 0));
    assert!(!client.next().await.canceled, "nobody is asked yet");
    bench.know(&auth);
    client.create(create("a", "", 0));
    let refused = client.next().await;
    assert!(refused.created && refused.canceled, "{refused:?}");
    // in these words etcd's client logs in again
    let words = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
    assert_eq!(refused.cancel_reason, words);
    bench.put(&["a"]);
    assert_eq!(client.revisions(0, 1).await, [2], "what has begun goes on");
}
