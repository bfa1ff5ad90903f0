//! Authentication and permissions with real processes, mutual TLS, and Debian's own etcdctl.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::authpb::permission::Type;
use api::etcdserverpb::auth_client::AuthClient;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::*;
use identity::TlsFiles;
use testkit::{Cluster, eventually};
use tonic::transport::Channel;
use tonic::{Code, Request};

const ETCDCTL: &str = "etcdctl";
const ROOT: &str = "root:secret";

/// Every wait of these tests; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn installed() -> bool {
    let found = Command::new(ETCDCTL).arg("version").env("ETCDCTL_API", "3").output().is_ok();
    if !found {
        tracing::warn!("etcdctl is not installed: install etcd-client");
    }
    found
}

/// A cluster, and whose certificate etcdctl shows.
struct World {
    cluster: Cluster,
    shown: TlsFiles,
}

impl World {
    async fn start(members: usize) -> Result<World> {
        let set = vec!["auth.bcrypt_cost=4".to_owned()];
        let options = testkit::Options { members, set, ..testkit::Options::default() };
        let cluster = Cluster::start_with(options).await?;
        // a machine's certificate, for which there is no user
        let dir = cluster.folder(0).join("guest");
        let local = std::net::Ipv4Addr::LOCALHOST;
        let shown = cluster.certificates().service("guest", "elsewhere", local, &dir)?;
        Ok(World { cluster, shown })
    }

    fn command_as(&self, place: usize, shown: &TlsFiles, words: &[&str]) -> Command {
        let mut command = Command::new(ETCDCTL);
        command
            .env("ETCDCTL_API", "3")
            .arg("--command-timeout=60s")
            .arg(format!("--endpoints={}", self.cluster.endpoint(place)))
            .arg(format!("--cacert={}", shown.ca.display()))
            .arg(format!("--cert={}", shown.cert.display()))
            .arg(format!("--key={}", shown.key.display()))
            .args(words);
        command
    }

    async fn run(&self, place: usize, shown: &TlsFiles, words: &[&str]) -> Result<Output> {
        let mut command = self.command_as(place, shown, words);
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// What it prints; it must succeed.
    async fn ctl(&self, words: &[&str]) -> Result<String> {
        let output = self.run(0, &self.shown, words).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {said}{errors}");
        Ok(said)
    }

    /// What it complains of; it must fail.
    async fn refused(&self, words: &[&str]) -> Result<String> {
        let output = self.run(0, &self.shown, words).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{words:?} succeeded");
        Ok(errors)
    }

    /// Makes root and asks everybody from now on.
    async fn enable(&self) -> Result<Root> {
        let mut auth = AuthClient::new(self.channel(0)?);
        let (name, password) = ("root".to_owned(), "secret".to_owned());
        auth.user_add(AuthUserAddRequest { name, password, ..Default::default() }).await?;
        let (user, role) = ("root".to_owned(), "root".to_owned());
        auth.user_grant_role(AuthUserGrantRoleRequest { user, role }).await?;
        auth.auth_enable(AuthEnableRequest {}).await?;
        let token = self.login(0, "root", "secret").await?;
        Ok(Root { auth, kv: KvClient::new(self.channel(0)?), token })
    }

    /// A channel as the guest, to one member.
    fn channel(&self, place: usize) -> Result<Channel> {
        let tls = rpc::Tls::load(&self.shown)?;
        Ok(rpc::channel(&self.cluster.endpoint(place), Some(&tls))?)
    }

    async fn login(&self, place: usize, name: &str, password: &str) -> Result<String> {
        let request = AuthenticateRequest { name: name.into(), password: password.into() };
        let mut client = AuthClient::new(self.channel(place)?);
        Ok(client.authenticate(request).await?.into_inner().token)
    }
}

/// Root, by the generated clients.
struct Root {
    auth: AuthClient<Channel>,
    kv: KvClient<Channel>,
    token: String,
}

impl Root {
    /// A user with a password and one role, which is new.
    async fn user(&mut self, name: &str, password: &str, role: &str) -> Result<()> {
        let add = AuthUserAddRequest {
            name: name.into(),
            password: password.into(),
            ..Default::default()
        };
        self.auth.user_add(with_token(&self.token, add)).await?;
        let add = AuthRoleAddRequest { name: role.into() };
        self.auth.role_add(with_token(&self.token, add)).await?;
        let grant = AuthUserGrantRoleRequest { user: name.into(), role: role.into() };
        self.auth.user_grant_role(with_token(&self.token, grant)).await?;
        Ok(())
    }

    async fn grant(&mut self, role: &str, kind: Type, key: &str, end: &str) -> Result<()> {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        let perm = Some(api::authpb::Permission { perm_type: kind as i32, key, range_end });
        let grant = AuthRoleGrantPermissionRequest { name: role.into(), perm };
        self.auth.role_grant_permission(with_token(&self.token, grant)).await?;
        Ok(())
    }

    async fn revoke(&mut self, role: &str, key: &str, end: &str) -> Result<()> {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        let revoke = AuthRoleRevokePermissionRequest { role: role.into(), key, range_end };
        self.auth.role_revoke_permission(with_token(&self.token, revoke)).await?;
        Ok(())
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        self.kv.put(with_token(&self.token, put(key, value))).await?;
        Ok(())
    }
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(token) = token.parse() {
        request.metadata_mut().insert("token", token);
    }
    request
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn gap_authentication() -> Result<()> {
    if !installed() {
        return Ok(());
    }
    let world = World::start(1).await?;
    world.ctl(&["put", "a", "1"]).await?;
    let said = world.refused(&["auth", "enable"]).await?;
    ensure!(said.contains("etcdserver: root user does not exist"), "{said}");
    let said = world.ctl(&["--user", ROOT, "get", "a"]).await?;
    ensure!(said == "a\n1\n", "a client with a user works while nobody is asked: {said}");
    ensure!(world.ctl(&["user", "add", ROOT]).await?.contains("User root created"));
    let said = world.refused(&["user", "add", ROOT]).await?;
    ensure!(said.contains("etcdserver: user name already exists"), "{said}");
    // etcdctl makes and grants the role root by itself when it is told that it lacks
    ensure!(world.ctl(&["auth", "enable"]).await? == "Authentication Enabled\n");

    let said = world.refused(&["get", "a"]).await?;
    ensure!(said.contains("etcdserver: permission denied"), "no user of this certificate: {said}");
    ensure!(world.ctl(&["--user", ROOT, "get", "a"]).await? == "a\n1\n");
    let said = world.refused(&["--user", "root:wrong", "get", "a"]).await?;
    let failed = "etcdserver: authentication failed, invalid user ID or password";
    ensure!(said.contains(failed), "{said}");
    let said = world.refused(&["--user", "nobody:secret", "get", "a"]).await?;
    ensure!(said.contains(failed), "who is not there fails alike: {said}");

    let root = async |words: &[&str]| world.ctl(&[&["--user", ROOT][..], words].concat()).await;
    root(&["user", "add", "ann:pass"]).await?;
    root(&["user", "add", "operator/eve", "--no-password"]).await?;
    let users = root(&["user", "list"]).await?;
    ensure!(users == "ann\noperator/eve\nroot\n", "{users}");
    ensure!(root(&["user", "get", "root"]).await? == "User: root\nRoles: root\n");
    let said = world.refused(&["--user", ROOT, "user", "get", "bob"]).await?;
    ensure!(said.contains("etcdserver: user name not found"), "{said}");
    let said = world.refused(&["--user", ROOT, "user", "delete", "root"]).await?;
    ensure!(said.contains("etcdserver: invalid auth management"), "{said}");

    // a token, where clients put it
    let token = world.login(0, "root", "secret").await?;
    let mut kv = KvClient::new(world.channel(0)?);
    ensure!(kv.range(with_token(&token, get("a"))).await?.into_inner().count == 1);
    let mut bearer = Request::new(get("a"));
    bearer.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    ensure!(kv.range(bearer).await?.into_inner().count == 1);
    let bent = kv.range(with_token(&format!("{token}x"), get("a"))).await.unwrap_err();
    ensure!(bent.code() == Code::Unauthenticated, "{bent}");
    ensure!(bent.message() == "etcdserver: invalid auth token", "{bent}");

    // a changed password ends what the old one began
    let anns = world.login(0, "ann", "pass").await?;
    let mut auth = AuthClient::new(world.channel(0)?);
    let own = AuthUserGetRequest { name: "ann".into() };
    auth.user_get(with_token(&anns, own.clone())).await?;
    let change = AuthUserChangePasswordRequest {
        name: "ann".into(),
        password: "other".into(),
        ..Default::default()
    };
    auth.user_change_password(with_token(&token, change)).await?;
    let old = auth.user_get(with_token(&anns, own.clone())).await.unwrap_err();
    ensure!(old.message() == "etcdserver: invalid auth token", "{old}");
    ensure!(world.login(0, "ann", "pass").await.is_err());
    let anns = world.login(0, "ann", "other").await?;
    auth.user_get(with_token(&anns, own)).await?;

    // whoever has the certificate of a user needs no password
    let eve = world.cluster.certificates().operator("eve", &world.cluster.folder(0).join("eve"))?;
    root(&["role", "add", "r"]).await?;
    root(&["role", "grant-permission", "r", "read", "a"]).await?;
    root(&["user", "grant-role", "operator/eve", "r"]).await?;
    let output = world.run(0, &eve, &["get", "a"]).await?;
    ensure!(output.stdout == b"a\n1\n", "{output:?}");
    let output = world.run(0, &eve, &["put", "a", "2"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("etcdserver: permission denied"), "{said}");

    // nothing that was typed is in the store or in the log
    let mut kept = Vec::new();
    collect(world.cluster.data(0), &mut kept)?;
    ensure!(!kept.is_empty());
    for (path, bytes) in kept {
        let found = bytes.windows(6).any(|window| window == b"secret");
        ensure!(!found, "a password is in {}", path.display());
    }
    ensure!(root(&["auth", "disable"]).await? == "Authentication Disabled\n");
    ensure!(world.ctl(&["get", "a"]).await? == "a\n1\n");
    let off = world.login(0, "root", "secret").await.unwrap_err();
    ensure!(off.to_string().contains("etcdserver: authentication is not enabled"), "{off:#}");
    Ok(())
}

/// All files under a folder.
fn collect(dir: &std::path::Path, found: &mut Vec<(std::path::PathBuf, Vec<u8>)>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push((path, bytes));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gap_authorization() -> Result<()> {
    if !installed() {
        return Ok(());
    }
    let world = World::start(1).await?;
    world.enable().await?;
    let root = async |words: &[&str]| world.ctl(&[&["--user", ROOT][..], words].concat()).await;
    root(&["user", "add", "ann:pw"]).await?;
    root(&["role", "add", "apps"]).await?;
    root(&["role", "grant-permission", "apps", "readwrite", "apps/", "--prefix"]).await?;
    root(&["role", "grant-permission", "apps", "read", "shared"]).await?;
    root(&["role", "grant-permission", "apps", "read", "x", "--from-key"]).await?;
    root(&["role", "grant-permission", "apps", "write", "m", "n"]).await?;
    root(&["user", "grant-role", "ann", "apps"]).await?;
    let role = root(&["role", "get", "apps"]).await?;
    ensure!(role.contains("[apps/, apps0) (prefix apps/)"), "{role}");
    ensure!(role.contains("[x, <open ended>"), "{role}");
    let roles = root(&["role", "list"]).await?;
    ensure!(roles.lines().any(|role| role == "apps"), "{roles}");
    for key in ["apps/1", "shared", "secret", "zebra"] {
        root(&["put", key, "v"]).await?;
    }

    let ann = async |words: &[&str]| world.ctl(&[&["--user", "ann:pw"][..], words].concat()).await;
    let denied = async |words: &[&str]| -> Result<()> {
        let said = world.refused(&[&["--user", "ann:pw"][..], words].concat()).await?;
        ensure!(said.contains("etcdserver: permission denied"), "{words:?}: {said}");
        Ok(())
    };
    ensure!(ann(&["get", "apps/", "--prefix"]).await? == "apps/1\nv\n");
    ensure!(ann(&["put", "apps/2", "w"]).await? == "OK\n");
    ensure!(ann(&["get", "shared"]).await? == "shared\nv\n");
    ensure!(ann(&["get", "x", "--from-key"]).await? == "zebra\nv\n");
    ensure!(ann(&["put", "m1", "w"]).await? == "OK\n");
    for words in [
        &["get", "secret"][..],
        &["get", "", "--prefix"],
        &["get", "secret", "--consistency=s"],
        &["get", "m1"],
        &["put", "shared", "w"],
        &["put", "m1", "w", "--prev-kv"],
        &["del", "apps", "--prefix"],
        &["del", "m", "n", "--prev-kv"],
        &["user", "list"],
        &["user", "get", "root"],
        &["role", "add", "mine"],
        &["auth", "disable"],
        &["member", "remove", "1"],
    ] {
        denied(words).await?;
    }
    ensure!(ann(&["user", "get", "ann"]).await?.contains("apps"));
    ensure!(ann(&["role", "get", "apps"]).await?.contains("apps/"));
    ensure!(ann(&["del", "m", "n"]).await? == "1\n");

    // the rest of the services, by the generated clients
    let token = world.login(0, "ann", "pw").await?;
    let rooted = world.login(0, "root", "secret").await?;
    let denied = |status: &tonic::Status| {
        status.code() == Code::PermissionDenied
            && status.message() == "etcdserver: permission denied"
    };
    let channel = world.channel(0)?;
    let mut maintenance = maintenance_client::MaintenanceClient::new(channel.clone());
    let refused = maintenance.snapshot(with_token(&token, SnapshotRequest {})).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    let refused = maintenance.hash(with_token(&token, HashRequest {})).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    maintenance.hash(with_token(&rooted, HashRequest {})).await?;
    let alarm = AlarmRequest { action: 2, member_id: 0, alarm: 1 };
    let refused = maintenance.alarm(with_token(&token, alarm)).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    let leader = MoveLeaderRequest { target_id: 1 };
    let refused = maintenance.move_leader(with_token(&token, leader)).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    let mut lease = lease_client::LeaseClient::new(channel.clone());
    let grant = LeaseGrantRequest { ttl: 100, id: 7 };
    lease.lease_grant(with_token(&token, grant)).await?;
    let mut kv = KvClient::new(channel.clone());
    kv.put(with_token(&rooted, PutRequest { lease: 7, ..put("secret", "v") })).await?;
    let ttl = LeaseTimeToLiveRequest { id: 7, keys: false };
    lease.lease_time_to_live(with_token(&token, ttl)).await?;
    let ttl = LeaseTimeToLiveRequest { id: 7, keys: true };
    let refused = lease.lease_time_to_live(with_token(&token, ttl)).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    let refused = lease.lease_leases(with_token(&token, LeaseLeasesRequest {})).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    let renewals = futures::stream::iter([LeaseKeepAliveRequest { id: 7 }]);
    let renewed = lease.lease_keep_alive(with_token(&token, renewals)).await;
    let refused = match renewed {
        Ok(mut answers) => answers.get_mut().message().await.unwrap_err(),
        Err(refused) => refused,
    };
    ensure!(denied(&refused), "{refused}");
    let revoke = LeaseRevokeRequest { id: 7 };
    let refused = lease.lease_revoke(with_token(&token, revoke)).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    lease.lease_revoke(with_token(&rooted, revoke)).await?;
    let mut lock = api::v3lockpb::lock_client::LockClient::new(channel.clone());
    let own = api::v3lockpb::LockRequest { name: "apps/lock".into(), lease: 0 };
    let held = lock.lock(with_token(&token, own)).await?.into_inner().key;
    lock.unlock(with_token(&token, api::v3lockpb::UnlockRequest { key: held })).await?;
    let others = api::v3lockpb::LockRequest { name: "lock".into(), lease: 0 };
    let refused = lock.lock(with_token(&token, others)).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    let mut election = api::v3electionpb::election_client::ElectionClient::new(channel.clone());
    let name = api::v3electionpb::LeaderRequest { name: "board".into() };
    let refused = election.leader(with_token(&token, name)).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    let mut cluster = cluster_client::ClusterClient::new(channel);
    let add = MemberAddRequest { peer_ur_ls: vec!["https://127.9.9.9:1".into()], is_learner: true };
    let refused = cluster.member_add(with_token(&token, add)).await.unwrap_err();
    ensure!(denied(&refused), "{refused}");
    cluster.member_list(MemberListRequest { linearizable: true }).await?;
    Ok(())
}

/// The answers of a watch stream, until what is looked for.
async fn until(
    answers: &mut tonic::Streaming<WatchResponse>,
    found: impl Fn(&WatchResponse) -> bool,
) -> Result<Vec<WatchResponse>> {
    let mut seen = Vec::new();
    loop {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await??;
        let answer = answer.context("the stream ended")?;
        let last = found(&answer);
        seen.push(answer);
        if last {
            return Ok(seen);
        }
    }
}

fn watch(key: &str, end: &str) -> WatchRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    let create = WatchCreateRequest { key, range_end, ..Default::default() };
    let request_union = Some(watch_request::RequestUnion::CreateRequest(create));
    WatchRequest { request_union }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_its_user_may_read_and_no_more() -> Result<()> {
    let world = World::start(1).await?;
    let mut root = world.enable().await?;
    root.user("ann", "pw", "apps").await?;
    root.grant("apps", Type::Read, "apps/", "apps0").await?;
    root.grant("apps", Type::Read, "other", "").await?;

    if installed() {
        // etcdctl is told why
        let words = ["--user", "ann:pw", "watch", "secret"];
        let output = world.run(0, &world.shown, &words).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains("permission denied"), "{said}");
    }

    let token = world.login(0, "ann", "pw").await?;
    let mut client = watch_client::WatchClient::new(world.channel(0)?);
    let (requests, outbound) = tokio::sync::mpsc::channel(8);
    let outbound = tokio_stream::wrappers::ReceiverStream::new(outbound);
    let mut answers = client.watch(with_token(&token, outbound)).await?.into_inner();
    for request in
        [watch("apps/", "apps0"), watch("other", ""), watch("apps/", "b"), watch("", "\0")]
    {
        requests.send(request).await?;
    }
    let created = until(&mut answers, |_| true).await?.remove(0);
    ensure!(created.created && !created.canceled && created.watch_id == 0, "{created:?}");
    let created = until(&mut answers, |_| true).await?.remove(0);
    ensure!(created.created && !created.canceled && created.watch_id == 1, "{created:?}");
    for _ in 0..2 {
        let refused = until(&mut answers, |_| true).await?.remove(0);
        ensure!(refused.created && refused.canceled && refused.watch_id == -1, "{refused:?}");
        ensure!(refused.cancel_reason.contains("etcdserver: permission denied"), "{refused:?}");
    }
    root.put("secret", "1").await?;
    root.put("apps/1", "1").await?;
    let seen = until(&mut answers, |answer| !answer.events.is_empty()).await?;
    let keys = |answers: &[WatchResponse]| -> Vec<String> {
        let events = answers.iter().flat_map(|answer| &answer.events);
        let kvs = events.filter_map(|event| event.kv.as_ref());
        kvs.map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
    };
    ensure!(keys(&seen) == ["apps/1"], "{seen:?}");

    // what is taken away is not shown any more, what is left goes on
    root.revoke("apps", "apps/", "apps0").await?;
    root.put("apps/2", "hidden").await?;
    root.put("other", "1").await?;
    let seen =
        until(&mut answers, |answer| keys(std::slice::from_ref(answer)) == ["other"]).await?;
    ensure!(keys(&seen) == ["other"], "{seen:?}");
    let canceled: Vec<_> = seen.iter().filter(|answer| answer.canceled).collect();
    ensure!(canceled.len() == 1 && canceled[0].watch_id == 0, "{seen:?}");
    ensure!(canceled[0].cancel_reason.contains("etcdserver: permission denied"), "{seen:?}");

    // a user who is gone watches nothing, also where nothing happens
    let ann = AuthUserDeleteRequest { name: "ann".into() };
    root.auth.user_delete(with_token(&root.token, ann)).await?;
    let seen = until(&mut answers, |answer| answer.canceled).await?;
    ensure!(seen.last().is_some_and(|answer| answer.watch_id == 1), "{seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bug_14571_permissions_change_under_writes_members_refuse_alike() -> Result<()> {
    let mut world = World::start(3).await?;
    let mut root = world.enable().await?;
    root.user("ann", "pw", "apps").await?;

    // a token of one member is good on all
    let rooted = root.token.clone();
    let token = world.login(1, "ann", "pw").await?;
    for place in 0..3 {
        let mut auth = AuthClient::new(world.channel(place)?);
        let own = AuthUserGetRequest { name: "ann".into() };
        auth.user_get(with_token(&token, own)).await?;
    }

    // writers on all members, while what they may do comes and goes
    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = tokio::task::JoinSet::new();
    for place in 0..3 {
        let (mut kv, token) = (KvClient::new(world.channel(place)?), token.clone());
        let stop = stop.clone();
        writers.spawn(async move {
            let (mut done, mut refused) = (0u64, 0u64);
            for round in 0u64.. {
                if stop.is_cancelled() {
                    break;
                }
                let mut request =
                    with_token(&token, put(&format!("apps/{place}"), &format!("{round}")));
                request.set_timeout(Duration::from_secs(10));
                match kv.put(request).await {
                    Ok(_) => done += 1,
                    Err(status) if status.code() == Code::PermissionDenied => refused += 1,
                    // a member that was killed
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
            (done, refused)
        });
    }
    for round in 0..30 {
        root.grant("apps", Type::Readwrite, "apps/", "apps0").await?;
        root.revoke("apps", "apps/", "apps0").await?;
        if round == 15 {
            world.cluster.kill(2);
        }
        if round == 20 {
            world.cluster.spawn(2)?;
        }
    }
    world.cluster.ready(2).await?;
    stop.cancel();
    let (mut done, mut refused) = (0, 0);
    while let Some(counts) = writers.join_next().await {
        let counts = counts?;
        done += counts.0;
        refused += counts.1;
    }
    ensure!(done > 0 && refused > 0, "{done} done, {refused} refused");

    // all members hold the same, users and roles too
    let mut newest = 0;
    for place in 0..3 {
        let mut kv = KvClient::new(world.channel(place)?);
        let answer = kv.range(with_token(&rooted, get("apps/0"))).await?.into_inner();
        newest = newest.max(answer.header.context("header")?.revision);
    }
    eventually("all members are the same", PATIENCE, || async {
        let mut hashes = Vec::new();
        for place in 0..3 {
            let mut client = maintenance_client::MaintenanceClient::new(world.channel(place)?);
            let answer = client.hash(with_token(&rooted, HashRequest {})).await?.into_inner();
            let revision = answer.header.context("header")?.revision;
            ensure!(revision == newest, "member {place} is at {revision} of {newest}");
            hashes.push(answer.hash);
        }
        ensure!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_password_logs_in_and_does_so_again() -> Result<()> {
    use chainfire_client::{Client, Consistency, Credentials, Error, Options, Watch};
    let world = World::start(1).await?;
    let tls = rpc::Tls::load(&world.shown)?;
    let client = |credentials: Credentials| {
        let options = Options { credentials: Some(credentials), ..Options::default() };
        Client::connect_with([world.cluster.endpoint(0)], Some(tls.clone()), options)
    };
    let file = world.cluster.folder(0).join("credentials");
    std::fs::write(&file, ROOT)?;
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let root = client(Credentials::from_file(&file)?)?;
    root.put("a", "1").await?; // nobody is asked yet
    let mut watcher = root.watch(Watch::prefix("apps/")).await?;
    let mut rooted = world.enable().await?;
    root.put("a", "2").await?;
    root.put("apps/1", "1").await?;
    let seen = tokio::time::timeout(PATIENCE, watcher.next()).await??;
    ensure!(seen.events.len() == 1 && seen.events[0].kv.key == "apps/1", "{seen:?}");

    // another key signs tokens now: the one that the client has is good no more
    rekey(&mut rooted).await?;
    let local = root.get_with("a", Consistency::Local).await?;
    ensure!(local.is_some_and(|kv| kv.value == "2"), "a local read logs in again, too");
    rekey(&mut rooted).await?;
    let hashes = root.hashes(0).await;
    ensure!(hashes.iter().all(|(_, hash)| hash.is_ok()), "{hashes:?}");
    let first = client(Credentials::new("root", "secret"))?.hashes(0).await;
    ensure!(first.iter().all(|(_, hash)| hash.is_ok()), "the first call logs in: {first:?}");
    rekey(&mut rooted).await?;
    ensure!(root.get("a").await?.is_some_and(|kv| kv.value == "2"));
    root.put("apps/2", "1").await?;
    let seen = tokio::time::timeout(PATIENCE, watcher.next()).await??;
    ensure!(seen.events[0].kv.key == "apps/2", "{seen:?}");
    let lease = root.lease(Duration::from_secs(60)).await?;
    root.put_with_lease("apps/3", "1", lease.id()).await?;
    lease.revoke().await?;

    let wrong = client(Credentials::new("root", "guess"))?.get("a").await;
    let failed = "authentication failed, invalid user ID or password";
    ensure!(
        matches!(&wrong, Err(Error::Refused { message, .. }) if message.contains(failed)),
        "{wrong:?}"
    );
    rooted.token = world.login(0, "root", "secret").await?;
    rooted.user("ann", "pw", "none").await?;
    let ann = client(Credentials::new("ann", "pw"))?;
    let denied = ann.get("a").await;
    ensure!(
        matches!(&denied, Err(Error::Refused { status: Code::PermissionDenied, .. })),
        "{denied:?}"
    );
    let denied = ann.watch(Watch::key("a").from(1)).await?.next().await;
    ensure!(
        matches!(&denied, Err(Error::Refused { status: Code::PermissionDenied, .. })),
        "{denied:?}"
    );
    Ok(())
}

/// Disables and enables: another key signs tokens afterwards.
async fn rekey(root: &mut Root) -> Result<()> {
    let (name, password) = ("root".to_owned(), "secret".to_owned());
    let login = AuthenticateRequest { name, password };
    let token = root.auth.authenticate(login).await?.into_inner().token;
    root.auth.auth_disable(with_token(&token, AuthDisableRequest {})).await?;
    root.auth.auth_enable(AuthEnableRequest {}).await?;
    Ok(())
}
