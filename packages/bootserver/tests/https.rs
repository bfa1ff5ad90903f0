//! A boot server in this process, real HTTPS, and each way to be refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bootserver::wire::{self, Identify, Verdict};
use bootserver::{CertificateSettings, Folder, Settings};
use fault::{Fault, Kind};
use identity::{KeyPair, SpiffeId, TlsFiles, describe_cert};
use inventory::Inventory;
use rpc::{Https, Tls};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

struct Cloud {
    dir: TempDir,
    stop: CancellationToken,
    running: Option<bootserver::Running>,
    base: String,
    ops: SocketAddr,
}

fn inventory() -> Inventory {
    Inventory::parse(Inventory::built_in()).unwrap().on_loopback(3).unwrap()
}

fn settings(dir: &Path) -> Settings {
    let text = format!(
        "state_dir = {:?}\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n",
        dir.join("state")
    );
    settings::parse("test.toml".as_ref(), &text).unwrap()
}

impl Cloud {
    async fn start() -> Cloud {
        let dir = tempfile::tempdir().unwrap();
        let certificates = CertificateSettings::default();
        drop(Folder::init(&dir.path().join("state"), &inventory(), &certificates).unwrap());
        let mut cloud = Cloud {
            dir,
            stop: CancellationToken::new(),
            running: None,
            base: String::new(),
            ops: ([0, 0, 0, 0], 0).into(),
        };
        cloud.serve().await;
        cloud
    }

    async fn serve(&mut self) {
        self.stop = CancellationToken::new();
        let settings = settings(self.dir.path());
        let running = bootserver::start(settings, inventory(), self.stop.clone()).await.unwrap();
        self.base = format!("https://{}", running.address);
        self.ops = running.ops;
        self.running = Some(running);
    }

    async fn restart(&mut self) {
        self.stop.cancel();
        self.running.take().unwrap().wait().await.unwrap();
        self.serve().await;
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn operator(&self) -> Https {
        let files = bootserver::operator_files(&self.state());
        Https::new(&Tls::load(&files).unwrap())
    }

    fn nobody(&self) -> Https {
        Https::new(&Tls::trust(&self.state().join("ca/ca.pem")).unwrap())
    }

    async fn token(&self, node: &str) -> String {
        let request = wire::TokenRequest { node: node.into(), ttl_seconds: None };
        let minted: wire::TokenMinted =
            post(&self.operator(), self, "/v1/tokens", &request).await.unwrap();
        minted.token
    }

    /// A node with its certificates, and a client that shows the node's own.
    async fn join(&self, name: &str) -> Enrolled {
        let (node, service) = (KeyPair::create().unwrap(), KeyPair::create().unwrap());
        let request = enroll(name, &self.token(name).await, &node, &service);
        let answer: wire::Enrolled =
            post(&self.nobody(), self, "/v1/enroll", &request).await.unwrap();
        self.keep(name, node, answer)
    }

    fn keep(&self, name: &str, key: KeyPair, answer: wire::Enrolled) -> Enrolled {
        let dir = self.dir.path().join(uuid::Uuid::now_v7().to_string());
        std::fs::create_dir(&dir).unwrap();
        let files = TlsFiles::in_dir(&dir);
        key.save(&files.key).unwrap();
        std::fs::write(&files.cert, &answer.certs["node"]).unwrap();
        std::fs::write(&files.ca, &answer.ca).unwrap();
        let https = Https::new(&Tls::load(&files).unwrap());
        Enrolled { name: name.to_owned(), key, answer, https }
    }
}

struct Enrolled {
    name: String,
    key: KeyPair,
    answer: wire::Enrolled,
    https: Https,
}

impl Enrolled {
    async fn form(
        &self,
        cloud: &Cloud,
        insist: Option<Verdict>,
    ) -> Result<wire::FormAnswer, Fault> {
        let request = wire::FormRequest { node: self.name.clone(), insist };
        post(&self.https, cloud, "/v1/form", &request).await
    }
}

fn enroll(name: &str, token: &str, node: &KeyPair, service: &KeyPair) -> wire::EnrollRequest {
    wire::EnrollRequest {
        node: name.into(),
        token: token.into(),
        csr_node: node.csr_pem().unwrap(),
        csrs: BTreeMap::from([("chainfire".to_owned(), service.csr_pem().unwrap())]),
        identify: Identify { process: true, ..Identify::default() },
        host_key: None,
        install_id: None,
    }
}

async fn post<B: serde::Serialize, T: serde::de::DeserializeOwned>(
    https: &Https,
    cloud: &Cloud,
    path: &str,
    body: &B,
) -> Result<T, Fault> {
    Ok(https.post_json(&format!("{}{path}", cloud.base), body).await?)
}

async fn get<T: serde::de::DeserializeOwned>(
    https: &Https,
    cloud: &Cloud,
    path: &str,
) -> Result<T, Fault> {
    Ok(https.get_json(&format!("{}{path}", cloud.base)).await?)
}

#[track_caller]
fn refused<T>(result: Result<T, Fault>, code: &str, kind: Kind) -> Fault {
    let fault = result.err().expect("this must be refused");
    assert_eq!((fault.code.0, fault.kind), (code, kind), "{fault}");
    fault
}

#[tokio::test]
async fn a_node_enrols_and_gets_what_the_inventory_says() {
    let cloud = Cloud::start().await;
    let node = cloud.join("node01").await;
    let certs = &node.answer.certs;
    assert_eq!(certs.keys().collect::<Vec<_>>(), ["chainfire", "node"]);
    let info = describe_cert(&certs["chainfire"]).unwrap();
    assert_eq!(info.spiffe, Some(SpiffeId::service("plasma", "chainfire", "node01").unwrap()));
    let sans: Vec<String> = info.sans.iter().map(ToString::to_string).collect();
    assert_eq!(sans, ["127.0.1.1", "node01", "node01.plasma.internal", "localhost", "127.0.0.1"]);
    let inventory: serde_json::Value = get(&node.https, &cloud, "/v1/inventory").await.unwrap();
    assert_eq!(inventory, node.answer.inventory);
    assert_eq!(Inventory::from_value(&inventory).unwrap(), self::inventory());

    let status: wire::Status = get(&cloud.operator(), &cloud, "/v1/status").await.unwrap();
    assert!(status.nodes["node01"].enrolled.is_some());
    assert!(status.nodes["node02"].enrolled.is_none());
}

#[tokio::test]
async fn a_machine_gets_no_localhost() {
    let machines = Inventory::parse(Inventory::built_in()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let certificates = CertificateSettings::default();
    drop(Folder::init(&dir.path().join("state"), &machines, &certificates).unwrap());
    let stop = CancellationToken::new();
    let running = bootserver::start(settings(dir.path()), machines, stop.clone()).await.unwrap();
    let mut cloud = Cloud {
        base: format!("https://{}", running.address),
        ops: running.ops,
        running: None,
        dir,
        stop,
    };
    cloud.running = Some(running);
    let (node, service) = (KeyPair::create().unwrap(), KeyPair::create().unwrap());
    let mut request = enroll("node02", &cloud.token("node02").await, &node, &service);

    let answer = post::<_, wire::Enrolled>(&cloud.nobody(), &cloud, "/v1/enroll", &request).await;
    refused(answer, "BS-3001", Kind::Denied);
    request.identify = Identify {
        serial: Some("PLASMA-NODE02".into()),
        macs: vec!["52:54:00:20:00:12".into()],
        process: false,
    };
    // the refusal has not spent the token
    let answer: wire::Enrolled =
        post(&cloud.nobody(), &cloud, "/v1/enroll", &request).await.unwrap();
    let sans = describe_cert(&answer.certs["node"]).unwrap().sans;
    let sans: Vec<String> = sans.iter().map(ToString::to_string).collect();
    assert_eq!(sans, ["10.20.0.12", "node02", "node02.plasma.internal"]);
}

#[tokio::test]
async fn tokens_are_refused_one_by_one() {
    let cloud = Cloud::start().await;
    let (key, service) = (KeyPair::create().unwrap(), KeyPair::create().unwrap());
    let token = cloud.token("node01").await;
    let nobody = cloud.nobody();
    let ask = async |request: wire::EnrollRequest| {
        post::<_, wire::Enrolled>(&nobody, &cloud, "/v1/enroll", &request).await
    };
    let unknown = ask(enroll("node01", "0000.guess", &key, &service)).await;
    refused(unknown, "ID-2001", Kind::Unauthenticated);
    let wrong_secret = format!("{}x", token);
    refused(
        ask(enroll("node01", &wrong_secret, &key, &service)).await,
        "ID-2001",
        Kind::Unauthenticated,
    );
    let wrong_node = ask(enroll("node02", &token, &key, &service)).await;
    let fault = refused(wrong_node, "ID-2004", Kind::Denied);
    assert!(!fault.to_string().contains(&token), "a fault must not repeat the token: {fault}");

    ask(enroll("node01", &token, &key, &service)).await.unwrap();
    ask(enroll("node01", &token, &key, &service)).await.expect("the same key may come again");
    let thief = KeyPair::create().unwrap();
    refused(ask(enroll("node01", &token, &thief, &service)).await, "ID-2003", Kind::Denied);

    let request = wire::TokenRequest { node: "node02".into(), ttl_seconds: Some(5) };
    let short: wire::TokenMinted =
        post(&cloud.operator(), &cloud, "/v1/tokens", &request).await.unwrap();
    let revoked = cloud.token("node03").await;
    let id = revoked.split('.').next().unwrap();
    let url = format!("{}/v1/tokens/{id}", cloud.base);
    let _: serde_json::Value = cloud.operator().delete_json(&url).await.unwrap();
    refused(ask(enroll("node03", &revoked, &key, &service)).await, "ID-2005", Kind::Denied);

    let list: wire::Tokens = get(&cloud.operator(), &cloud, "/v1/tokens").await.unwrap();
    let states: BTreeMap<_, _> =
        list.tokens.iter().map(|t| (t.node.as_str(), t.state.as_str())).collect();
    assert_eq!(states["node01"], "used");
    assert_eq!(states["node03"], "revoked");
    let listed = serde_json::to_string(&list).unwrap();
    assert!(!listed.contains(token.split('.').nth(1).unwrap()), "{listed}");

    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let list: wire::Tokens = get(&cloud.operator(), &cloud, "/v1/tokens").await.unwrap();
        if list.tokens.iter().any(|t| t.id == short.id && t.state == "expired") {
            break;
        }
        assert!(Instant::now() < deadline, "the token never expires");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused(
        ask(enroll("node02", &short.token, &key, &service)).await,
        "ID-2002",
        Kind::Unauthenticated,
    );
}

#[tokio::test]
async fn requests_for_more_are_refused_and_spend_nothing() {
    let cloud = Cloud::start().await;
    let (key, service) = (KeyPair::create().unwrap(), KeyPair::create().unwrap());
    let token = cloud.token("node01").await;
    let nobody = cloud.nobody();
    let mut foreign = enroll("node01", &token, &key, &service);
    foreign.csrs.insert("iam".into(), service.csr_pem().unwrap());
    let mut garbage = enroll("node01", &token, &key, &service);
    garbage.csr_node = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END".into();
    for (request, code) in [(&foreign, "BS-3002"), (&garbage, "ID-1004")] {
        let answer = post::<_, wire::Enrolled>(&nobody, &cloud, "/v1/enroll", request).await;
        assert_eq!(answer.unwrap_err().code.0, code);
    }
    let bounds = [(0, "BS-3003"), (u64::MAX, "BS-3003")];
    for (ttl, code) in bounds {
        let request = wire::TokenRequest { node: "node01".into(), ttl_seconds: Some(ttl) };
        let answer =
            post::<_, wire::TokenMinted>(&cloud.operator(), &cloud, "/v1/tokens", &request).await;
        refused(answer, code, Kind::Invalid);
    }
    let request = wire::TokenRequest { node: "node09".into(), ttl_seconds: None };
    let answer =
        post::<_, wire::TokenMinted>(&cloud.operator(), &cloud, "/v1/tokens", &request).await;
    refused(answer, "INV-1016", Kind::NotFound);
}

#[tokio::test]
async fn the_grant_is_given_once_and_outlives_a_restart() {
    let mut cloud = Cloud::start().await;
    let (one, two) = (cloud.join("node01").await, cloud.join("node02").await);
    let early = two.form(&cloud, None).await.unwrap();
    assert_eq!(early.verdict, Verdict::Join);
    assert_eq!(early.peers, ["https://127.0.1.1:2380", "https://127.0.1.3:2380"]);
    refused(two.form(&cloud, Some(Verdict::Form)).await, "BS-4002", Kind::Denied);

    assert_eq!(one.form(&cloud, None).await.unwrap().verdict, Verdict::Form);
    cloud.restart().await;
    let again = one.form(&cloud, None).await.unwrap();
    assert_eq!((again.verdict, again.cluster_id), (Verdict::Form, one.answer.cluster_id.clone()));
    assert_eq!(two.form(&cloud, None).await.unwrap().verdict, Verdict::Join);
    refused(two.form(&cloud, Some(Verdict::Form)).await, "BS-4001", Kind::Denied);

    // the same node with another key: its folder was deleted, and it enrolled anew
    let reborn = cloud.join("node01").await;
    assert_eq!(reborn.form(&cloud, None).await.unwrap().verdict, Verdict::Join);
    refused(reborn.form(&cloud, Some(Verdict::Form)).await, "BS-4001", Kind::Denied);
    // and whoever still has the old key is nobody any more
    refused(one.form(&cloud, None).await, "BS-4005", Kind::Denied);
}

#[tokio::test]
async fn a_certificate_is_renewed_for_the_same_key_alone() {
    let cloud = Cloud::start().await;
    let node = cloud.join("node01").await;
    let mut request = wire::RenewRequest {
        node: "node01".into(),
        csr_node: node.key.csr_pem().unwrap(),
        csrs: BTreeMap::new(),
    };
    let fresh: wire::Enrolled = post(&node.https, &cloud, "/v1/renew", &request).await.unwrap();
    assert_ne!(fresh.certs["node"], node.answer.certs["node"]);
    request.csr_node = KeyPair::create().unwrap().csr_pem().unwrap();
    let other = post::<_, wire::Enrolled>(&node.https, &cloud, "/v1/renew", &request).await;
    refused(other, "BS-4005", Kind::Denied);
    let nobody = post::<_, wire::Enrolled>(&cloud.nobody(), &cloud, "/v1/renew", &request).await;
    assert_eq!(nobody.unwrap_err().kind, Kind::Unauthenticated);
}

#[tokio::test]
async fn each_path_knows_its_callers() {
    let cloud = Cloud::start().await;
    let (node, nobody) = (cloud.join("node01").await, cloud.nobody());
    type Answer = Result<serde_json::Value, Fault>;
    for path in ["/v1/status", "/v1/tokens", "/v1/inventory"] {
        let answer: Answer = get(&nobody, &cloud, path).await;
        assert_eq!(answer.unwrap_err().kind, Kind::Unauthenticated, "{path}");
    }
    for path in ["/v1/status", "/v1/tokens"] {
        let answer: Answer = get(&node.https, &cloud, path).await;
        assert_eq!(answer.unwrap_err().kind, Kind::Denied, "{path}");
    }
    let form = wire::FormRequest { node: "node02".into(), insist: None };
    let answer: Answer = post(&node.https, &cloud, "/v1/form", &form).await;
    refused(answer, "BS-2001", Kind::Denied);
    let answer: Answer = post(&nobody, &cloud, "/v1/form", &form).await;
    assert_eq!(answer.unwrap_err().kind, Kind::Unauthenticated);

    let answer: Answer = get(&nobody, &cloud, "/v1/nothing").await;
    refused(answer, "BS-2003", Kind::NotFound);
    let answer: Answer = get(&nobody, &cloud, "/v1/enroll").await;
    refused(answer, "BS-2004", Kind::Invalid);
    let answer: Answer =
        post(&nobody, &cloud, "/v1/enroll", &serde_json::json!({"nodes": 1})).await;
    refused(answer, "BS-2002", Kind::Invalid);
    let large = serde_json::json!({"node": "x".repeat(100_000)});
    let answer: Answer = post(&nobody, &cloud, "/v1/enroll", &large).await;
    refused(answer, "BS-2002", Kind::Invalid);
    let time: wire::Time = get(&nobody, &cloud, "/v1/time").await.unwrap();
    assert!(time.unix_millis > 1_700_000_000_000);
}

#[tokio::test]
async fn reports_are_marked_bounded_and_kept() {
    let mut cloud = Cloud::start().await;
    let node = cloud.join("node01").await;
    let report = |name: &str, detail: &str| wire::Progress {
        node: name.into(),
        step: "join".into(),
        state: "waiting".into(),
        detail: detail.into(),
        generation: 3,
        phases: BTreeMap::from([("identify".to_owned(), 12)]),
        uptime_millis: 0,
    };
    type Answer = Result<serde_json::Value, Fault>;
    let answer: Answer =
        post(&cloud.nobody(), &cloud, "/v1/progress", &report("node02", "x")).await;
    answer.unwrap();
    let answer: Answer =
        post(&cloud.nobody(), &cloud, "/v1/progress", &report("node09", "x")).await;
    refused(answer, "INV-1016", Kind::NotFound);
    let answer: Answer = post(&node.https, &cloud, "/v1/progress", &report("node02", "x")).await;
    refused(answer, "BS-2001", Kind::Denied);
    let long = report("node01", &"x".repeat(20_000));
    let answer: Answer = post(&node.https, &cloud, "/v1/progress", &long).await;
    refused(answer, "BS-2002", Kind::Invalid);
    let answer: Answer =
        post(&node.https, &cloud, "/v1/progress", &report("node01", "peers")).await;
    answer.unwrap();

    let mut flooded = None;
    for _ in 0..200 {
        let answer: Answer =
            post(&cloud.nobody(), &cloud, "/v1/progress", &report("node03", "x")).await;
        flooded = answer.err().or(flooded);
    }
    refused(flooded.map_or(Ok(()), Err), "BS-2005", Kind::Exhausted);

    cloud.restart().await;
    let status: wire::Status = get(&cloud.operator(), &cloud, "/v1/status").await.unwrap();
    let of = |name: &str| status.nodes[name].report.clone().unwrap();
    assert!(of("node01").verified && !of("node02").verified);
    assert_eq!(of("node01").progress.detail, "peers");
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let cloud = Cloud::start().await;
    let (key, service) = (KeyPair::create().unwrap(), KeyPair::create().unwrap());
    let guess = enroll("node01", "0000.guess", &key, &service);
    let nobody = cloud.nobody();
    let mut slowed = None;
    for _ in 0..300 {
        let answer = post::<_, wire::Enrolled>(&nobody, &cloud, "/v1/enroll", &guess).await;
        let fault = answer.expect_err("a guess never enrols");
        if fault.code.0 == "BS-2005" {
            slowed = Some(fault);
            break;
        }
        assert_eq!(fault.code.0, "ID-2001");
    }
    refused(slowed.map_or(Ok(()), Err), "BS-2005", Kind::Exhausted);
}

#[tokio::test]
async fn health_says_ready_and_counts_answers() {
    let cloud = Cloud::start().await;
    let plain = Https::plain();
    let ready = plain.get_text(&format!("http://{}/readyz", cloud.ops)).await.unwrap();
    assert!(ready.contains("\"ready\":true"), "{ready}");
    let _ = get::<serde_json::Value>(&cloud.nobody(), &cloud, "/v1/status").await;
    let metrics = plain.get_text(&format!("http://{}/metrics", cloud.ops)).await.unwrap();
    assert!(metrics.contains("bootserver_answers_total"), "{metrics}");
}

#[tokio::test]
async fn the_folder_has_one_server_and_one_cluster() {
    let cloud = Cloud::start().await;
    let second =
        bootserver::start(settings(cloud.dir.path()), inventory(), CancellationToken::new()).await;
    refused(second, "BS-1003", Kind::Precondition);
    let empty = tempfile::tempdir().unwrap();
    let none =
        bootserver::start(settings(empty.path()), inventory(), CancellationToken::new()).await;
    refused(none, "BS-1001", Kind::Precondition);

    let other = tempfile::tempdir().unwrap();
    let (dir, certificates) = (other.path().join("state"), CertificateSettings::default());
    drop(Folder::init(&dir, &inventory(), &certificates).unwrap());
    let mut renamed = inventory();
    renamed.cluster.name = "fusion".into();
    refused(Folder::init(&dir, &renamed, &certificates).map(drop), "BS-1002", Kind::Precondition);
    let mut taken = settings(other.path());
    taken.listen = cloud.base.trim_start_matches("https://").parse().unwrap();
    let in_use = bootserver::start(taken, inventory(), CancellationToken::new()).await;
    let fault = in_use.err().unwrap();
    assert!(fault.what.contains("in use"), "{fault}");

    std::fs::write(dir.join("registry.json"), b"{\"version\":1,\"content\":{\"tok").unwrap();
    let damaged =
        bootserver::start(settings(other.path()), inventory(), CancellationToken::new()).await;
    refused(damaged, "BS-1005", Kind::Corrupt);
}

#[test]
fn init_again_changes_nothing_and_completes_what_was_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = CertificateSettings::default();
    let init = || Folder::init(dir.path(), &inventory(), &certificates);
    let (folder, made) = init().unwrap();
    assert_eq!(made, bootserver::Init::Made);
    let id = folder.cluster_id().to_owned();
    let cert = std::fs::read(folder.operator_files().cert).unwrap();
    drop(folder);
    let (folder, again) = init().unwrap();
    assert_eq!((again, folder.cluster_id()), (bootserver::Init::Already, id.as_str()));
    assert_eq!(std::fs::read(folder.operator_files().cert).unwrap(), cert);
    drop(folder);
    // cut short before its end: each part that is missing is made, the CA stays
    let ca = std::fs::read(dir.path().join("ca/ca.pem")).unwrap();
    std::fs::remove_file(dir.path().join("cluster.json")).unwrap();
    std::fs::remove_file(dir.path().join("operator/cert.pem")).unwrap();
    let (folder, made) = init().unwrap();
    assert_eq!(made, bootserver::Init::Made);
    assert!(folder.operator_files().cert.exists());
    assert_eq!(std::fs::read(dir.path().join("ca/ca.pem")).unwrap(), ca);
}
