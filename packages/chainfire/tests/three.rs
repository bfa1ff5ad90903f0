//! Three members in this process: what followers pass on, and what a change of leaders must keep.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::chainfire::JoinRequest;
use api::chainfire::membership_client::MembershipClient;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::*;
use chainfire::{Member, Settings};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

const LONG: Duration = Duration::from_secs(30);

struct Three {
    members: Vec<Option<Member>>,
    channels: Vec<Channel>,
    peers: Vec<String>,
    dir: tempfile::TempDir,
}

impl Three {
    async fn start() -> Result<Three> {
        let dir = tempfile::tempdir()?;
        let mut three = Three { members: Vec::new(), channels: Vec::new(), peers: Vec::new(), dir };
        for _ in 0..3 {
            three.add().await?;
        }
        eventually("all vote", || async {
            let members = three.list(0).await?;
            Ok(members.len() == 3 && members.iter().all(|member| !member.is_learner))
        })
        .await?;
        Ok(three)
    }

    async fn add(&mut self) -> Result<()> {
        let number = self.members.len();
        let (member, address) = self.open(number, number).await?;
        let peer = member.endpoints().peer.clone().context("no peer listener")?;
        self.peers.push(format!("http://{peer}"));
        self.channels.push(rpc::channel(&format!("http://{address}"), None)?);
        self.members.push(Some(member));
        Ok(())
    }

    async fn open(&self, number: usize, folder: usize) -> Result<(Member, String)> {
        let (initial, join) = match number {
            0 => ("form", String::new()),
            _ => ("join", format!("{:?}", self.peers)),
        };
        let join = if join.is_empty() { "[]".to_owned() } else { join };
        let text = format!(
            r#"
            name = "n{number}"
            data_dir = "{}/{folder}"
            cluster_id = "018f0000-0000-7000-8000-000000000001"
            initial = "{initial}"
            join = {join}
            plaintext_peer = true
            [peer]
            listen = "127.0.0.1:0"
            [plaintext]
            listen = "127.0.0.1:0"
            "#,
            self.dir.path().display()
        );
        let settings: Settings = settings::parse(std::path::Path::new("test.toml"), &text)?;
        let member = chainfire::start(settings, CancellationToken::new()).await?;
        let address = member.endpoints().plaintext.clone().context("no plaintext")?;
        Ok((member, address))
    }

    fn leader(&self) -> Option<usize> {
        let leads = |member: &Option<Member>| member.as_ref().is_some_and(|m| m.status().leads());
        self.members.iter().position(leads)
    }

    fn kv(&self, at: usize) -> KvClient<Channel> {
        KvClient::new(self.channels[at].clone())
    }

    fn lease(&self, at: usize) -> LeaseClient<Channel> {
        LeaseClient::new(self.channels[at].clone())
    }

    async fn list(&self, at: usize) -> Result<Vec<api::etcdserverpb::Member>> {
        let request = MemberListRequest { linearizable: true };
        let mut client = ClusterClient::new(self.channels[at].clone());
        Ok(client.member_list(request).await?.into_inner().members)
    }

    async fn renew(&self, at: usize, id: i64) -> Result<i64> {
        let asked = futures::stream::iter([LeaseKeepAliveRequest { id }]);
        let mut answers = self.lease(at).lease_keep_alive(asked).await?.into_inner();
        Ok(answers.message().await?.context("no answer")?.ttl)
    }

    async fn stop(&mut self) {
        for member in self.members.iter_mut().filter_map(Option::take) {
            member.stop().await;
        }
    }
}

async fn eventually<F, T>(what: &str, mut check: F) -> Result<()>
where
    F: FnMut() -> T,
    T: Future<Output = Result<bool>>,
{
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let seen = check().await;
        if let Ok(true) = seen {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "waited for: {what}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    PutRequest { key, value, ..Default::default() }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_member_serves_everything() -> Result<()> {
    let mut three = Three::start().await?;
    let leader = three.leader().context("a leader")?;
    let follower = (leader + 1) % 3;
    three.kv(follower).put(put("a", "1")).await?;
    for at in 0..3 {
        let answer = three.kv(at).range(range("a")).await?.into_inner();
        ensure!(answer.kvs[0].value.as_ref() == b"1", "read your writes, at {at}");
        let header = answer.header.context("header")?;
        let me = three.members[at].as_ref().context("runs")?.endpoints().member_id;
        ensure!(header.member_id == me, "the header is the answering member's own");
    }
    let granted = three.lease(follower).lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await?;
    let id = granted.into_inner().id;
    three.kv(follower).put(PutRequest { lease: id, ..put("leased", "1") }).await?;
    for at in 0..3 {
        ensure!(three.renew(at, id).await? == 60, "renewed through {at}");
        let asked = LeaseTimeToLiveRequest { id, keys: true };
        let left = three.lease(at).lease_time_to_live(asked).await?.into_inner();
        ensure!(left.ttl >= 58 && left.keys == ["leased"], "{left:?}");
    }
    ensure!(three.renew(follower, 12345).await? == 0);

    let mut maintenance = MaintenanceClient::new(three.channels[follower].clone());
    let target_id = three.members[follower].as_ref().context("runs")?.endpoints().member_id;
    let refused = maintenance.move_leader(MoveLeaderRequest { target_id }).await.unwrap_err();
    ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
    ensure!(refused.message() == "etcdserver: not leader");
    let mut hashes = Vec::new();
    for at in 0..3 {
        let mut client = MaintenanceClient::new(three.channels[at].clone());
        let hash = client.hash_kv(HashKvRequest { revision: 3 }).await?.into_inner();
        hashes.push((hash.hash, hash.hash_revision, hash.compact_revision));
    }
    ensure!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    three.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_leaders_keeps_leases_and_watches() -> Result<()> {
    let mut three = Three::start().await?;
    let leader = three.leader().context("a leader")?;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    for (id, ttl, key) in [(1, 60, "long"), (2, 3, "short")] {
        three.lease(follower).lease_grant(LeaseGrantRequest { ttl, id }).await?;
        three.kv(follower).put(PutRequest { lease: id, ..put(key, "1") }).await?;
    }
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    let create = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 2,
        ..Default::default()
    };
    send.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })?;
    let mut watch = WatchClient::new(three.channels[follower].clone());
    let mut answers = watch.watch(UnboundedReceiverStream::new(receive)).await?.into_inner();

    let stopped = three.members[leader].take().context("runs")?;
    stopped.stop().await;
    for n in 0..20 {
        let value = n.to_string();
        eventually("a write", || async {
            let at = if n % 2 == 0 { follower } else { other };
            let answer = three.kv(at).put(put("w", &value)).await;
            Ok(answer.is_ok())
        })
        .await?;
    }
    ensure!(three.renew(other, 1).await? == 60, "the long lease lives on");
    eventually("the short lease ends", || async {
        Ok(three.kv(other).range(range("short")).await?.into_inner().count == 0)
    })
    .await?;
    ensure!(three.kv(other).range(range("long")).await?.into_inner().count == 1);

    // Every revision from 2 on, each once, in order; the short lease may have ended at any of them.
    let after = three.kv(follower).put(put("end", "")).await?.into_inner();
    let last = after.header.context("header")?.revision;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|revision| *revision < last) {
        let next = tokio::time::timeout(LONG, answers.message()).await??;
        for event in next.context("the stream ended")?.events {
            seen.push(event.kv.context("kv")?.mod_revision);
        }
    }
    let end = *seen.last().context("events")?;
    ensure!(seen == (2..=end).collect::<Vec<i64>>(), "{seen:?}");
    three.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_removed_before_it_heard_anything_says_so() -> Result<()> {
    let mut three = Three::start().await?;
    let text = format!(
        r#"
        name = "n3"
        data_dir = "{}/3"
        cluster_id = "018f0000-0000-7000-8000-000000000001"
        join = {:?}
        plaintext_peer = true
        [peer]
        listen = "127.0.0.1:0"
        advertise = "http://127.0.0.1:9"
        [plaintext]
        listen = "127.0.0.1:0"
        [raft]
        heartbeat_ms = 30
        election_ms = 100
        "#,
        three.dir.path().display(),
        three.peers,
    );
    let settings: Settings = settings::parse(std::path::Path::new("test.toml"), &text)?;
    let mut unheard = chainfire::start(settings, CancellationToken::new()).await?;
    let id = unheard.endpoints().member_id;
    // It is a member, so it waits, however long.
    let waits = tokio::time::timeout(Duration::from_secs(3), unheard.failed()).await;
    ensure!(waits.is_err(), "{waits:?}");
    ensure!(!unheard.status().formed() && three.list(0).await?.len() == 4);
    let mut client = ClusterClient::new(three.channels[0].clone());
    client.member_remove(MemberRemoveRequest { id }).await?;
    let fault = tokio::time::timeout(LONG, unheard.failed()).await?.to_string();
    ensure!(fault.starts_with("CF-3001 ") && fault.contains("was removed"), "{fault}");
    unheard.stop().await;
    three.stop().await;
    Ok(())
}

/// Twins: the same name with another folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_lets_nobody_displace_a_member_that_lives() -> Result<()> {
    let mut three = Three::start().await?;
    let leader = three.leader().context("a leader")?;
    let (live, dead) = ((leader + 1) % 3, leader);
    let before = three.list(live).await?;
    let twin = |at: usize| JoinRequest {
        cluster_id: "018f0000-0000-7000-8000-000000000001".into(),
        name: format!("n{at}"),
        nonce: vec![7; 16].into(),
        peer_urls: vec!["http://127.0.0.1:9".into()],
        client_urls: Vec::new(),
    };
    let peer = rpc::channel(&three.peers[live], None)?;
    let join = |at: usize| {
        let mut client = MembershipClient::new(peer.clone());
        async move { client.join(twin(at)).await.map(|answer| answer.into_inner().member_id) }
    };
    let stopped = three.members[leader].take().context("runs")?;
    stopped.stop().await;
    // Whatever the new leader knows of the others: it never lets one of them be displaced.
    let (mut codes, deadline) = (Vec::new(), tokio::time::Instant::now() + LONG);
    let taken = loop {
        let alive = join(live).await.expect_err("it lives");
        let code = fault::Fault::from_status(&alive).map(|fault| fault.code.0);
        ensure!(alive.code() == Code::Unavailable || code == Some("CF-3006"), "{alive:?}");
        codes.extend(code);
        match join(dead).await {
            Ok(id) => break id,
            Err(status) => {
                ensure!(tokio::time::Instant::now() < deadline, "never replaced: {status:?}");
                codes.extend(fault::Fault::from_status(&status).map(|fault| fault.code.0));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    ensure!(codes.contains(&"CF-3006"), "{codes:?}");
    let after = three.list(live).await?;
    ensure!(after.iter().any(|member| member.id == taken && member.name == format!("n{dead}")));
    for member in before.iter().filter(|member| member.name != format!("n{dead}")) {
        ensure!(after.iter().any(|other| other.id == member.id), "{after:?}");
    }
    three.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_calls_fail_in_etcds_words() -> Result<()> {
    let mut three = Three::start().await?;
    let leader = three.leader().context("a leader")?;
    let left = (leader + 1) % 3;
    three.kv(left).put(put("a", "1")).await?;
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    let create = WatchCreateRequest { key: "a".into(), ..Default::default() };
    send.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })?;
    let mut request = tonic::Request::new(UnboundedReceiverStream::new(receive));
    request.metadata_mut().insert("hasleader", "true".parse()?);
    let mut watch = WatchClient::new(three.channels[left].clone());
    let mut answers = watch.watch(request).await?.into_inner();
    ensure!(answers.message().await?.context("created")?.created);

    for at in (0..3).filter(|at| *at != left) {
        let member = three.members[at].take().context("runs")?;
        member.stop().await;
    }
    let cut = loop {
        match tokio::time::timeout(LONG, answers.message()).await? {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("the stream ended without a reason"),
            Err(status) => break status,
        }
    };
    ensure!(cut.code() == Code::Unavailable && cut.message() == "etcdserver: no leader", "{cut:?}");
    let mut request = tonic::Request::new(range("a"));
    request.metadata_mut().insert("hasleader", "true".parse()?);
    let refused = three.kv(left).range(request).await.unwrap_err();
    ensure!(refused.message() == "etcdserver: no leader", "{refused:?}");
    let refused = three.kv(left).put(put("a", "2")).await.unwrap_err();
    ensure!(refused.code() == Code::Unavailable, "{refused:?}");
    let local = RangeRequest { serializable: true, ..range("a") };
    ensure!(three.kv(left).range(local).await?.into_inner().count == 1, "local reads go on");
    three.stop().await;
    Ok(())
}
