//! The agent against a real boot server and a real Chainfire: to the end, and cut at any point.

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bootserver::client::Operator;
use bootserver::{CertificateSettings, Folder};
use firstboot::{Ending, Node, Reporter, Settings};
use inventory::Inventory;
use steps::{Ledger, Outcome, Step};
use tempfile::TempDir;
use testkit::net::Block;
use tokio_util::sync::CancellationToken;

/// A boot server in this process, and a node of processes on an address of the test's own.
struct Lab {
    dir: TempDir,
    _block: Block,
    base: String,
    stop: CancellationToken,
    running: Option<bootserver::Running>,
}

const NODE: &str = "node01";

impl Lab {
    async fn start() -> Lab {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let block = Block::claim().expect("loopback addresses");
        let built_in = Inventory::parse(Inventory::built_in()).expect("the built-in inventory");
        let mut inventory = built_in.on_loopback(1).expect("one node");
        inventory.nodes.get_mut(NODE).expect("node01").address = IpAddr::V4(block.address(1));
        let state = dir.path().join("boot");
        drop(Folder::init(&state, &inventory, &CertificateSettings::default()).expect("init"));
        let text = format!(
            "state_dir = {state:?}\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n"
        );
        let settings = settings::parse(Path::new("boot.toml"), &text).expect("settings");
        let stop = CancellationToken::new();
        let running =
            bootserver::start(settings, inventory, stop.clone()).await.expect("a boot server");
        let base = format!("https://{}", running.address);
        Lab { dir, _block: block, base, stop, running: Some(running) }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    fn settings(&self) -> Arc<Settings> {
        let text = format!(
            "node = {NODE:?}\nbootserver = {:?}\nca = {:?}\ntoken_file = {:?}\n\
             state_dir = {:?}\nmode = \"process\"\nchainfire_bin = {:?}\n",
            self.base,
            self.dir.path().join("boot/ca/ca.pem"),
            self.dir.path().join("token"),
            self.state(),
            testkit::binary("chainfire").expect("chainfire is built"),
        );
        Arc::new(settings::parse(Path::new("firstboot.toml"), &text).expect("settings"))
    }

    fn operator(&self) -> Operator {
        let files = bootserver::operator_files(&self.dir.path().join("boot"));
        Operator::new(&self.base, &files).expect("an operator's client")
    }

    async fn give_token(&self) {
        let minted = self.operator().mint(NODE, None).await.expect("a token");
        std::fs::write(self.dir.path().join("token"), minted.token).expect("writing the token");
    }

    fn ledger(&self) -> Option<Ledger> {
        let text = std::fs::read_to_string(self.state().join("ledger.json")).ok()?;
        Some(Ledger::decode(&text).expect("the ledger is whole at any moment"))
    }

    /// One run of the agent, cut (as by kill -9) when `cut` says so.
    async fn run(&self, mut cut: impl FnMut(Option<&Ledger>) -> bool) -> Option<Ending> {
        let (settings, stop) = (self.settings(), CancellationToken::new());
        let reporter = Reporter::start(settings.clone(), stop.clone());
        let mut node = Node::new(settings);
        let mut run = pin!(firstboot::run(&mut node, &reporter, &stop));
        let ending = std::future::poll_fn(|context| match run.as_mut().poll(context) {
            Poll::Ready(ending) => Poll::Ready(Some(ending.expect("the ledger can be written"))),
            Poll::Pending if cut(self.ledger().as_ref()) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        tokio::time::timeout(Duration::from_secs(90), ending).await.unwrap_or_else(|_| {
            panic!("no end within 90 s; the ledger: {:#?}", self.ledger());
        })
    }

    async fn end(mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.wait().await.expect("the boot server stops");
        }
    }
}

#[tokio::test]
async fn a_node_becomes_a_blessed_member_and_again_at_once() {
    let lab = Lab::start().await;
    lab.give_token().await;
    assert_eq!(lab.run(|_| false).await, Some(Ending::Blessed));
    let first = lab.ledger().expect("a ledger");
    assert!(first.blessed());
    assert_eq!(first.steps[&Step::Enroll].acts, 1);
    assert!(matches!(first.steps[&Step::Disk].outcome, Outcome::Off { .. }));

    // the token is spent; a second run needs none, and enrols nothing anew
    assert_eq!(lab.run(|_| false).await, Some(Ending::Blessed));
    let second = lab.ledger().expect("a ledger");
    assert_eq!(second.steps[&Step::Enroll].acts, 1);
    assert_eq!(second.runs, 2);
    lab.end().await;
}

/// Cut at every write of the ledger, and at many points between, the agent goes on where it was.
#[tokio::test]
async fn cut_at_every_write_the_agent_goes_on_and_ends_the_same() {
    let lab = Lab::start().await;
    lab.give_token().await;
    let mut cuts = 0;
    // each run gets one write further than the one before it
    for writes in 1.. {
        let until = lab.ledger().map_or(0, |ledger| ledger.generation) + writes;
        let ending = lab.run(|ledger| ledger.is_some_and(|l| l.generation >= until)).await;
        match ending {
            None => cuts += 1,
            Some(ending) => {
                assert_eq!(ending, Ending::Blessed);
                break;
            }
        }
        assert!(cuts < 100, "the agent gets nowhere: {:#?}", lab.ledger());
    }
    assert!(cuts > 10, "only {cuts} cuts");
    let ledger = lab.ledger().expect("a ledger");
    assert!(ledger.blessed());
    // its identity was made once, whatever was cut
    let status = lab.operator().status().await.expect("status");
    assert_eq!(status.former.as_deref(), Some(NODE));
    lab.end().await;
}

#[tokio::test]
async fn without_a_token_it_waits_and_says_for_what() {
    let lab = Lab::start().await;
    let waits = |ledger: Option<&Ledger>| {
        let enroll = ledger.and_then(|ledger| ledger.steps.get(&Step::Enroll));
        matches!(enroll.map(|record| &record.outcome), Some(Outcome::Waiting { .. }))
    };
    assert_eq!(lab.run(waits).await, None);
    let ledger = lab.ledger().expect("a ledger");
    let Outcome::Waiting { reason } = &ledger.steps[&Step::Enroll].outcome else { panic!() };
    assert!(reason.starts_with("FB-1005 there is no join token"), "{reason}");

    lab.give_token().await;
    assert_eq!(lab.run(|_| false).await, Some(Ending::Blessed));
    lab.end().await;
}

#[tokio::test]
async fn a_spent_token_is_refused_with_its_code() {
    let lab = Lab::start().await;
    lab.give_token().await;
    let enrolled = |ledger: Option<&Ledger>| {
        let record = ledger.and_then(|ledger| ledger.steps.get(&Step::Enroll));
        record.is_some_and(|record| record.outcome == Outcome::Done)
    };
    assert_eq!(lab.run(enrolled).await, None);

    // the folder is lost; the token that is still lying there belongs to the lost key
    std::fs::remove_dir_all(lab.state()).expect("the node's folder");
    let refused = |ledger: Option<&Ledger>| {
        let record = ledger.and_then(|ledger| ledger.steps.get(&Step::Enroll));
        matches!(record.map(|r| &r.outcome), Some(Outcome::Waiting { .. } | Outcome::Failed { .. }))
    };
    let ending = lab.run(refused).await;
    assert!(matches!(ending, None | Some(Ending::Failed(Step::Enroll, _))), "{ending:?}");
    let ledger = lab.ledger().expect("a ledger");
    let said = format!("{:?}", ledger.steps[&Step::Enroll].outcome);
    assert!(said.contains("ID-"), "{said}");

    lab.give_token().await;
    assert_eq!(lab.run(|_| false).await, Some(Ending::Blessed));
    lab.end().await;
}
