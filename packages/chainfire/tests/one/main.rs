//! One member in this process, driven by the generated clients over plaintext.

mod turns;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::request_op::Request as Op;
use api::etcdserverpb::response_op::Response as Answer;
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::*;
use chainfire::{Member, Settings};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

struct One {
    member: Member,
    channel: Channel,
    dir: tempfile::TempDir,
    more: String,
}

impl One {
    async fn start(more: &str) -> Result<One> {
        Self::open(tempfile::tempdir()?, more.to_owned()).await
    }

    async fn open(dir: tempfile::TempDir, more: String) -> Result<One> {
        let text = format!(
            r#"
            name = "one"
            data_dir = "{}/data"
            cluster_id = "018f0000-0000-7000-8000-000000000001"
            initial = "form"
            plaintext_peer = true
            [peer]
            listen = "127.0.0.1:0"
            [ops]
            listen = "127.0.0.1:0"
            [plaintext]
            listen = "127.0.0.1:0"
            {more}
            "#,
            dir.path().display()
        );
        let settings: Settings = settings::parse(std::path::Path::new("test.toml"), &text)?;
        let member = chainfire::start(settings, CancellationToken::new()).await?;
        let address = member.endpoints().plaintext.clone().context("no plaintext")?;
        let channel = rpc::channel(&format!("http://{address}"), None)?;
        Ok(One { member, channel, dir, more })
    }

    async fn restart(self) -> Result<One> {
        self.member.stop().await;
        Self::open(self.dir, self.more).await
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    async fn put(&self, key: &str, value: &str) -> Result<PutResponse> {
        let request = put(key, value);
        Ok(self.kv().put(request).await?.into_inner())
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        let answer = self.kv().range(range(key, "")).await?.into_inner();
        Ok(answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    PutRequest { key, value, ..Default::default() }
}

fn range(key: &str, end: &str) -> RangeRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    RangeRequest { key, range_end, ..Default::default() }
}

fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_read_compared_and_deleted() -> Result<()> {
    let one = One::start("").await?;
    let first = one.put("a", "1").await?.header.context("header")?;
    ensure!(first.revision == 2 && first.raft_term >= 1 && first.member_id != 0, "{first:?}");
    ensure!(first.cluster_id != 0);
    ensure!(one.get("a").await?.as_deref() == Some("1"));

    let compare = Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: "a".into(),
        target_union: Some(TargetUnion::ModRevision(2)),
        ..Default::default()
    };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![op(Op::RequestPut(put("a", "2"))), op(Op::RequestRange(range("a", "")))],
        failure: vec![op(Op::RequestRange(range("a", "")))],
    };
    let answer = one.kv().txn(txn.clone()).await?.into_inner();
    ensure!(answer.succeeded && answer.header.context("header")?.revision == 3);
    match answer.responses[1].response.as_ref() {
        Some(Answer::ResponseRange(range)) => ensure!(range.kvs[0].value.as_ref() == b"2"),
        other => anyhow::bail!("{other:?}"),
    }
    ensure!(!one.kv().txn(txn).await?.into_inner().succeeded);

    let old = RangeRequest { revision: 2, ..range("a", "") };
    ensure!(one.kv().range(old.clone()).await?.into_inner().kvs[0].value.as_ref() == b"1");
    let delete = DeleteRangeRequest { key: "a".into(), prev_kv: true, ..Default::default() };
    let deleted = one.kv().delete_range(delete).await?.into_inner();
    ensure!(deleted.deleted == 1 && deleted.prev_kvs[0].value.as_ref() == b"2");
    ensure!(one.get("a").await?.is_none());

    let compact = CompactionRequest { revision: 4, physical: true };
    one.kv().compact(compact).await?;
    let refused = one.kv().range(old).await.unwrap_err();
    ensure!(refused.code() == Code::OutOfRange, "{refused:?}");
    ensure!(refused.message() == "etcdserver: mvcc: required revision has been compacted");
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_etcds_code_and_text() -> Result<()> {
    let one = One::start("").await?;
    one.put("a", "1").await?;
    let big = "x".repeat(1_600_000);
    let many = vec![op(Op::RequestRange(range("a", ""))); 129];
    let twice = vec![op(Op::RequestPut(put("a", ""))), op(Op::RequestPut(put("a", "")))];
    let txn = |success| TxnRequest { success, ..Default::default() };
    let (mut kv, mut lease) = (one.kv(), LeaseClient::new(one.channel.clone()));
    let odd = RangeRequest { sort_target: 9, ..range("a", "") };
    let future = RangeRequest { revision: 99, ..range("a", "") };
    let with_lease = PutRequest { lease: 77, ..put("a", "") };
    let table = [
        (kv.put(put("", "1")).await.err(), Code::InvalidArgument, "key is not provided"),
        (kv.put(put("a", &big)).await.err(), Code::InvalidArgument, "request is too large"),
        (kv.range(odd).await.err(), Code::InvalidArgument, "invalid sort option"),
        (
            kv.range(future).await.err(),
            Code::OutOfRange,
            "mvcc: required revision is a future revision",
        ),
        (
            kv.txn(txn(many)).await.err(),
            Code::InvalidArgument,
            "too many operations in txn request",
        ),
        (
            kv.txn(txn(twice)).await.err(),
            Code::InvalidArgument,
            "duplicate key given in txn request",
        ),
        (kv.put(with_lease).await.err(), Code::NotFound, "requested lease not found"),
        (
            lease.lease_revoke(LeaseRevokeRequest { id: 77 }).await.err(),
            Code::NotFound,
            "requested lease not found",
        ),
    ];
    for (status, code, text) in table {
        let status = status.with_context(|| format!("{text} was not refused"))?;
        ensure!(status.message() == format!("etcdserver: {text}"), "{status:?}");
        ensure!(status.code() == code, "{status:?}");
        ensure!(fault::Fault::from_status(&status).is_some(), "{status:?}");
    }
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_the_past_and_the_present() -> Result<()> {
    let one = One::start("").await?;
    for n in 0..50 {
        one.put("w", &n.to_string()).await?;
    }
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    let ask = |request| send.send(WatchRequest { request_union: Some(request) });
    let create = WatchCreateRequest {
        key: "w".into(),
        range_end: "x".into(),
        start_revision: 2,
        prev_kv: true,
        ..Default::default()
    };
    ask(RequestUnion::CreateRequest(create))?;
    let mut client = WatchClient::new(one.channel.clone());
    let mut answers = client.watch(UnboundedReceiverStream::new(receive)).await?.into_inner();
    let mut seen = Vec::new();
    let mut written = 50;
    while seen.len() < 100 {
        let next = tokio::time::timeout(Duration::from_secs(10), answers.message()).await??;
        for event in next.context("the stream ended")?.events {
            let kv = event.kv.context("kv")?;
            let before = event.prev_kv.map(|kv| kv.mod_revision);
            ensure!(before == (kv.mod_revision > 2).then_some(kv.mod_revision - 1));
            seen.push(kv.mod_revision);
        }
        while written < 100 && written < seen.len() + 10 {
            one.put("w", &written.to_string()).await?;
            written += 1;
        }
    }
    ensure!(seen == (2..=101).collect::<Vec<i64>>(), "{seen:?}");
    ask(RequestUnion::ProgressRequest(WatchProgressRequest {}))?;
    let notice = answers.message().await?.context("the stream ended")?;
    ensure!(notice.watch_id == -1 && notice.header.context("header")?.revision == 101);
    // A stop ends the stream, and does not wait for it.
    one.member.stop().await;
    let end = answers.message().await;
    ensure!(end.is_err() || end.is_ok_and(|last| last.is_none()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_takes_its_keys_with_it_and_survives_a_restart() -> Result<()> {
    let one = One::start("").await?;
    let mut lease = LeaseClient::new(one.channel.clone());
    let long = lease.lease_grant(LeaseGrantRequest { ttl: 100, id: 7 }).await?.into_inner();
    ensure!((long.id, long.ttl) == (7, 100));
    let again = lease.lease_grant(LeaseGrantRequest { ttl: 100, id: 7 }).await.unwrap_err();
    ensure!(again.message() == "etcdserver: lease already exists");
    let short = lease.lease_grant(LeaseGrantRequest { ttl: 1, id: 0 }).await?.into_inner();
    ensure!(short.id > 0 && short.ttl == 2, "the least time is two seconds: {short:?}");
    for (key, id) in [("long", 7), ("short", short.id)] {
        one.kv().put(PutRequest { lease: id, ..put(key, "v") }).await?;
    }

    let asked = futures::stream::iter([7, 99].map(|id| LeaseKeepAliveRequest { id }));
    let mut answers = lease.lease_keep_alive(asked).await?.into_inner();
    let mut times = Vec::new();
    while let Some(answer) = answers.message().await? {
        times.push((answer.id, answer.ttl));
    }
    ensure!(times == [(7, 100), (99, 0)], "{times:?}");
    let left = LeaseTimeToLiveRequest { id: 7, keys: true };
    let left = lease.lease_time_to_live(left).await?.into_inner();
    ensure!(left.ttl >= 98 && left.granted_ttl == 100 && left.keys == ["long"], "{left:?}");
    let gone = LeaseTimeToLiveRequest { id: 99, keys: true };
    ensure!(lease.lease_time_to_live(gone).await?.into_inner().ttl == -1);

    // The short one ends by itself, also across a restart.
    let one = one.restart().await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while one.get("short").await?.is_some() {
        ensure!(tokio::time::Instant::now() < deadline, "the lease did not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(one.get("long").await?.is_some());
    let mut lease = LeaseClient::new(one.channel.clone());
    let all = lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases;
    ensure!(all.len() == 1 && all[0].id == 7);
    lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await?;
    ensure!(one.get("long").await?.is_none());
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_to_grow_and_shrinks_on() -> Result<()> {
    let one = One::start("[storage]\nquota_bytes = 20000").await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let refused = loop {
        match one.kv().put(put("fill", &"x".repeat(1000))).await {
            Ok(_) => ensure!(tokio::time::Instant::now() < deadline, "never refused"),
            Err(status) => break status,
        }
    };
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.message() == "etcdserver: mvcc: database space exceeded");
    let mut maintenance = MaintenanceClient::new(one.channel.clone());
    while maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms.is_empty() {
        ensure!(tokio::time::Instant::now() < deadline, "no alarm");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let delete = DeleteRangeRequest { key: "fill".into(), ..Default::default() };
    let deleted = one.kv().delete_range(delete).await?.into_inner();
    let revision = deleted.header.context("header")?.revision;
    one.kv().compact(CompactionRequest { revision, physical: true }).await?;
    let alarm = maintenance.alarm(AlarmRequest::default()).await?.into_inner().alarms[0];
    let disarm = AlarmRequest {
        action: alarm_request::AlarmAction::Deactivate as i32,
        member_id: alarm.member_id,
        alarm: alarm.alarm,
    };
    maintenance.alarm(disarm).await?;
    while let Err(status) = one.kv().put(put("a", "1")).await {
        ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
        ensure!(tokio::time::Instant::now() < deadline, "never taken again");
        maintenance.alarm(disarm).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_or_another_cluster_gets_a_clear_error() -> Result<()> {
    let one = One::start("").await?;
    let data = one.dir.path().join("data");
    let text = |cluster: &str| {
        format!(
            r#"
            name = "one"
            data_dir = "{}"
            cluster_id = "{cluster}"
            initial = "form"
            plaintext_peer = true
            [peer]
            listen = "127.0.0.1:0"
            [plaintext]
            listen = "127.0.0.1:0"
            "#,
            data.display()
        )
    };
    let start = async |cluster: &str| -> Result<String> {
        let settings = settings::parse(std::path::Path::new("test.toml"), &text(cluster))?;
        match chainfire::start(settings, CancellationToken::new()).await {
            Ok(_) => anyhow::bail!("started"),
            Err(fault) => Ok(fault.to_string()),
        }
    };
    let same = "018f0000-0000-7000-8000-000000000001";
    let said = start(same).await?;
    ensure!(said.starts_with("CF-4003 ") && said.contains("another process"), "{said}");
    one.member.stop().await;
    let said = start("018f0000-0000-7000-8000-000000000002").await?;
    ensure!(said.starts_with("CF-4004 ") && said.contains(same), "{said}");
    // Whoever has lost the journal has forgotten its votes, and the one that formed the cluster
    // would form a second one.
    std::fs::remove_dir_all(data.join("journal"))?;
    std::fs::remove_dir_all(data.join("engine"))?;
    for _ in 0..2 {
        let said = start(same).await?;
        ensure!(said.starts_with("CF-4007 ") && said.contains("join anew"), "{said}");
    }
    Ok(())
}

/// A request with a token, if there is one.
fn with<T>(token: &str, message: T) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("token", token.parse()?);
    }
    Ok(request)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_nothing_is_told_nothing_once_users_count() -> Result<()> {
    use api::chainfire::gossip_client::GossipClient;
    use api::chainfire::membership_client::MembershipClient;
    use api::chainfire::{JoinRequest, NodesRequest, WatchNodesRequest};
    use api::etcdserverpb::auth_client::AuthClient;
    use api::etcdserverpb::cluster_client::ClusterClient;

    let more = "[auth]\nbcrypt_cost = 4\n[gossip]\nlisten = \"127.0.0.1:0\"";
    let one = One::start(more).await?;
    let mut auth = AuthClient::new(one.channel.clone());
    let (name, password) = ("root".to_owned(), "pw".to_owned());
    let add = AuthUserAddRequest { name, password, ..Default::default() };
    auth.user_add(add).await?;
    auth.role_add(AuthRoleAddRequest { name: "root".into() }).await?;
    let (user, role) = ("root".to_owned(), "root".to_owned());
    auth.user_grant_role(AuthUserGrantRoleRequest { user, role }).await?;
    auth.auth_enable(AuthEnableRequest {}).await?;
    let login = |name: String| AuthenticateRequest { name, password: "pw".into() };
    let root = auth.authenticate(login("root".into())).await?.into_inner().token;

    let mut cluster = ClusterClient::new(one.channel.clone());
    let mut gossip = GossipClient::new(one.channel.clone());
    for token in ["", "cf1.bent", &root] {
        for linearizable in [false, true] {
            let list = with(token, MemberListRequest { linearizable })?;
            ensure!(cluster.member_list(list).await.is_ok() == (token == root), "{token}");
        }
        let nodes = gossip.nodes(with(token, NodesRequest {})?).await;
        ensure!(nodes.is_ok() == (token == root), "{token}: {nodes:?}");
        let nodes = gossip.watch_nodes(with(token, WatchNodesRequest {})?).await;
        ensure!(nodes.is_ok() == (token == root), "{token}");
    }
    let nobody = cluster.member_list(MemberListRequest::default()).await.unwrap_err();
    ensure!(nobody.message() == "etcdserver: user name is empty", "{nobody}");

    // whoever joins asks at the peer port
    let newcomer = JoinRequest {
        cluster_id: "018f0000-0000-7000-8000-000000000001".into(),
        name: "two".into(),
        nonce: vec![7; 16].into(),
        peer_urls: vec!["http://127.0.0.1:9".into()],
        client_urls: Vec::new(),
    };
    let mut membership = MembershipClient::new(one.channel.clone());
    let refused = membership.join(newcomer.clone()).await.unwrap_err();
    ensure!(refused.code() == Code::Unimplemented, "{refused}");
    let peer = one.member.endpoints().peer.clone().context("no peer port")?;
    let peer = rpc::channel(&format!("http://{peer}"), None)?;
    MembershipClient::new(peer).join(newcomer).await?;

    let long = auth.authenticate(login("x".repeat(5000))).await.unwrap_err();
    ensure!(long.message().contains("authentication failed"), "{long}");
    one.member.stop().await;
    Ok(())
}
