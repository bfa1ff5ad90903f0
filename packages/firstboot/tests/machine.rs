//! The agent of a whole machine against a real boot server. The machine is made of files: what the
//! kernel would show, and the few commands that the agent runs. It has no control role, so that no
//! Chainfire is needed; `run.rs` has that part.

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bootserver::client::Operator;
use bootserver::{CertificateSettings, Folder};
use firstboot::{Ending, Node, Reporter, Settings};
use inventory::{Inventory, Role};
use steps::{Ledger, Outcome, Step};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const NODE: &str = "node02";
const SERIAL: &str = "PLASMA-NODE02";
const MAC: &str = "52:54:00:20:00:12";

struct World {
    dir: TempDir,
    inventory: Inventory,
    base: String,
    target: &'static str,
    running: Option<(bootserver::Running, CancellationToken)>,
}

impl World {
    /// A machine that fits [`NODE`], and a boot server that hands out tokens to such.
    async fn start() -> World {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut inventory = Inventory::parse(Inventory::built_in()).expect("built in");
        inventory.nodes.get_mut(NODE).expect("a node").roles = vec![Role::Data];
        let state = dir.path().join("boot");
        drop(Folder::init(&state, &inventory, &CertificateSettings::default()).expect("init"));
        let (base, target) = (String::new(), "none");
        let mut world = World { dir, inventory, base, target, running: None };
        world.power_on("127.0.0.1:0").await;
        world.file("sys/class/dmi/id/product_serial", &format!("{SERIAL}\n"));
        world.file("sys/class/dmi/id/sys_vendor", "QEMU\n");
        world.file("sys/class/net/ens3/address", &format!("{MAC}\n"));
        world.file("sys/class/net/ens3/device/x", "");
        world.file("proc/cmdline", "console=ttyS0\n");
        world.file("proc/uptime", "5.50 0.00\n");
        world.hold("10.20.0.12");
        world.tool("ip", &format!("cat {}", world.path("links").display()));
        world.tool("systemctl", &format!("echo $* >>{}", world.path("told").display()));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.path("root").join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn tool(&self, name: &str, text: &str) {
        let path = self.path("tools").join(name);
        std::fs::create_dir_all(self.path("tools")).expect("a folder");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a tool");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a tool");
    }

    /// The machine's card holds this address.
    fn hold(&self, address: &str) {
        let links = serde_json::json!([{"ifname": "ens3", "address": MAC, "addr_info": [
            {"family": "inet", "local": address, "prefixlen": 24}]}]);
        std::fs::write(self.path("links"), links.to_string()).expect("links");
    }

    async fn power_on(&mut self, listen: &str) {
        let text = format!(
            "state_dir = {:?}\nlisten = {listen:?}\n[ops]\nlisten = \"127.0.0.1:0\"\n\
             [enrollment]\nhand_out = \"declared\"\n",
            self.path("boot")
        );
        let settings = settings::parse(Path::new("boot.toml"), &text).expect("settings");
        let stop = CancellationToken::new();
        let running = bootserver::start(settings, self.inventory.clone(), stop.clone());
        let running = running.await.expect("a boot server");
        self.base = format!("https://{}", running.address);
        self.running = Some((running, stop));
    }

    async fn power_off(&mut self) {
        if let Some((running, stop)) = self.running.take() {
            stop.cancel();
            running.wait().await.expect("the boot server stops");
        }
    }

    /// As nobody would write it: the defaults, but for the places.
    fn settings(&self) -> Arc<Settings> {
        let text = format!(
            "bootserver = {:?}\nca = {:?}\ntoken_file = {:?}\nstate_dir = {:?}\nconsole = {:?}\n\
             mode = \"systemd\"\ntarget = {:?}\n[machine]\nroot = {:?}\ntools = {:?}\n",
            self.base,
            self.path("boot/ca/ca.pem"),
            self.path("token"),
            self.path("node"),
            self.path("console"),
            self.target,
            self.path("root"),
            self.path("tools"),
        );
        Arc::new(settings::parse(Path::new("firstboot.toml"), &text).expect("settings"))
    }

    fn operator(&self) -> Operator {
        let files = bootserver::operator_files(&self.path("boot"));
        Operator::new(&self.base, &files).expect("an operator's client")
    }

    fn ledger(&self) -> Option<Ledger> {
        let text = std::fs::read_to_string(self.path("node/ledger.json")).ok()?;
        Some(Ledger::decode(&text).expect("the ledger is whole at any moment"))
    }

    fn outcome(&self, step: Step) -> Option<Outcome> {
        Some(self.ledger()?.steps.get(&step)?.outcome.clone())
    }

    /// One run of the agent, cut (as by kill -9) when `cut` says so.
    async fn run(&self, mut cut: impl FnMut(&Ledger) -> bool) -> Option<Ending> {
        if !self.path("console").exists() {
            std::fs::write(self.path("console"), "").expect("a console");
        }
        let (settings, stop) = (self.settings(), CancellationToken::new());
        let reporter = Reporter::start(settings.clone(), stop.clone());
        let mut node = Node::new(settings);
        let ending = {
            let mut run = pin!(firstboot::run(&mut node, &reporter, &stop));
            let ending = std::future::poll_fn(|context| match run.as_mut().poll(context) {
                Poll::Ready(ending) => Poll::Ready(Some(ending.expect("the ledger is written"))),
                Poll::Pending if self.ledger().is_some_and(|ledger| cut(&ledger)) => {
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
            });
            let ending = tokio::time::timeout(Duration::from_secs(90), ending).await;
            ending.unwrap_or_else(|_| panic!("no end: {:#?}", self.ledger()))
        };
        if ending.is_some() {
            reporter.stop().await;
        }
        ending
    }

    /// Runs to the blessing, and stays until something is true.
    async fn stays(&self, mut is_true: impl FnMut() -> bool) {
        let (settings, stop) = (self.settings(), CancellationToken::new());
        let reporter = Reporter::start(settings.clone(), stop.clone());
        let mut node = Node::new(settings);
        let ending = firstboot::run(&mut node, &reporter, &stop).await.expect("a ledger");
        assert_eq!(ending, Ending::Blessed);
        let look = async {
            while !is_true() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stop.cancel();
        };
        let both = async { tokio::join!(node.stay(&stop), look) };
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("it does not come true");
        reporter.stop().await;
    }

    /// Runs until the step waits, and gives the reason.
    async fn waits(&self, step: Step) -> String {
        let waits = |ledger: &Ledger| {
            let record = ledger.steps.get(&step);
            matches!(record.map(|r| &r.outcome), Some(Outcome::Waiting { .. }))
        };
        assert_eq!(self.run(waits).await, None);
        match self.outcome(step) {
            Some(Outcome::Waiting { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_machine_is_recognised_claims_a_token_and_is_blessed() {
    let mut world = World::start().await;
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    let ledger = world.ledger().expect("a ledger");
    assert_eq!(ledger.steps[&Step::Enroll].acts, 1);
    // the boot server has seen what the machine is made of
    let machines = world.operator().machines().await.expect("machines").machines;
    let hardware = machines[0].hardware.as_ref().expect("hardware");
    assert_eq!((machines[0].node.as_deref(), hardware.vendor.as_str()), (Some(NODE), "QEMU"));
    let status = world.operator().status().await.expect("status");
    assert!(status.nodes[NODE].enrolled.is_some());
    let report = status.nodes[NODE].report.as_ref().expect("a report");
    assert!(report.verified);
    assert_eq!(report.progress.uptime_millis, 5500);
    // people saw it too
    let console = std::fs::read_to_string(world.path("console")).expect("the console");
    let seen: Vec<&str> =
        console.lines().filter_map(|line| line.split_whitespace().nth(4)).collect();
    let done: Vec<&str> = Step::ALL.iter().map(|step| step.name()).collect();
    assert_eq!(seen, done, "{console}");

    // from now on it needs nobody
    world.power_off().await;
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    assert_eq!(world.ledger().expect("a ledger").steps[&Step::Enroll].acts, 1);
}

#[tokio::test]
async fn cut_at_every_write_it_enrols_with_one_key() {
    let mut world = World::start().await;
    let (mut cuts, mut keys) = (0, std::collections::BTreeSet::new());
    for writes in 1.. {
        let until = world.ledger().map_or(0, |ledger| ledger.generation) + writes;
        let ending = world.run(|ledger| ledger.generation >= until).await;
        keys.extend(std::fs::read_to_string(world.path("node/identity/node.key.pem")).ok());
        match ending {
            None => cuts += 1,
            Some(ending) => {
                assert_eq!(ending, Ending::Blessed);
                break;
            }
        }
        assert!(cuts < 100, "the agent gets nowhere: {:#?}", world.ledger());
    }
    assert!(cuts > 3, "only {cuts} cuts");
    assert_eq!(keys.len(), 1, "a key is made once, whatever is cut");
    world.power_off().await;
}

#[tokio::test]
async fn a_boot_server_that_is_away_is_waited_for() {
    let mut world = World::start().await;
    let listen = world.base.trim_start_matches("https://").to_owned();
    world.power_off().await;
    let reason = world.waits(Step::Identify).await;
    assert!(reason.contains("cannot be reached"), "{reason}");

    world.power_on(&listen).await;
    let clocked = |ledger: &Ledger| ledger.steps.contains_key(&Step::Identity);
    assert_eq!(world.run(clocked).await, None);
    // gone again before the enrolment, and back
    world.power_off().await;
    let reason = world.waits(Step::Identify).await;
    assert!(reason.contains("cannot be reached"), "{reason}");
    world.power_on(&listen).await;
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    world.power_off().await;
}

#[tokio::test]
async fn a_token_that_is_refused_gives_way_to_one_that_is_claimed() {
    let mut world = World::start().await;
    // another node's token, as good as an expired one
    let minted = world.operator().mint("node03", None).await.expect("a token");
    std::fs::write(world.path("token"), minted.token).expect("the token");
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    world.power_off().await;
}

#[tokio::test]
async fn an_unknown_machine_and_a_second_one_like_ours_wait_and_do_nothing() {
    let mut world = World::start().await;
    world.file("sys/class/dmi/id/product_serial", "SOMEBODY-ELSE\n");
    world.file("sys/class/net/ens3/address", "52:54:00:ff:ff:ff\n");
    let reason = world.waits(Step::Identify).await;
    assert!(reason.starts_with("BS-"), "{reason}");

    world.file("sys/class/dmi/id/product_serial", &format!("{SERIAL}\n"));
    let reason = world.waits(Step::Identify).await;
    assert!(reason.contains("second machine"), "{reason}");
    assert!(!world.path("node/identity").exists());
    assert_eq!(world.outcome(Step::Clock), None);
    world.power_off().await;
}

#[tokio::test]
async fn without_its_address_it_waits() {
    let mut world = World::start().await;
    world.hold("10.20.0.99");
    let reason = world.waits(Step::Network).await;
    assert!(reason.starts_with("FB-1010") && reason.contains("10.20.0.12"), "{reason}");
    world.hold("10.20.0.12");
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    world.power_off().await;
}

/// Its lease is not the inventory's address where another DHCP server gives it.
#[tokio::test]
async fn the_installer_of_nixos_goes_on_with_any_address() {
    let mut world = World::start().await;
    world.target = "nixos";
    world.hold("10.20.0.99");
    // there is no lsblk, and so no disk
    assert_eq!(world.run(|ledger| ledger.steps.contains_key(&Step::Disk)).await, None);
    assert_eq!(world.outcome(Step::Network), Some(Outcome::Done));
    world.power_off().await;
}

#[tokio::test]
async fn an_enrolled_node_goes_on_with_the_inventory_that_was_said_last() {
    let mut world = World::start().await;
    let listen = world.base.trim_start_matches("https://").to_owned();
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    let operator = |name: &str| inventory::Operator { name: name.to_owned(), ssh_keys: Vec::new() };
    let operators = |world: &World| {
        let text = std::fs::read_to_string(world.path("node/enrolment.json")).expect("a file");
        let enrolment: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        enrolment["inventory"]["operators"].to_string()
    };
    // known after a start
    world.power_off().await;
    world.inventory.operators = vec![operator("ann")];
    world.power_on(&listen).await;
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    assert!(operators(&world).contains("ann"), "{}", operators(&world));
    // and without one
    world.power_off().await;
    world.inventory.operators = vec![operator("bob")];
    world.power_on(&listen).await;
    world.stays(|| operators(&world).contains("bob")).await;
    assert!(!operators(&world).contains("ann"), "{}", operators(&world));
    // the server is away: it starts with what it heard last, and goes back to nothing older
    world.power_off().await;
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    assert!(operators(&world).contains("bob"));
}

#[tokio::test]
async fn a_certificate_that_is_to_be_renewed_holds_until_the_boot_server_is_back() {
    let mut world = World::start().await;
    let listen = world.base.trim_start_matches("https://").to_owned();
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    world.power_off().await;
    // the same certificate in the last third of its life
    let path = world.path("node/identity/node.cert.pem");
    let read = || std::fs::read_to_string(&path).expect("a certificate");
    let info = identity::describe_cert(&read()).expect("a certificate");
    let day = time::Duration::DAY;
    let (from, to) = (info.not_before - 300 * day, info.not_before + 60 * day);
    let key = identity::KeyPair::load(&world.path("node/identity/node.key.pem")).expect("a key");
    let authority = identity::Authority::load(&world.path("boot/ca")).expect("the CA");
    let id = info.spiffe.expect("a name");
    let old = authority.sign_between(&key.csr_pem().expect("a CSR"), &id, &info.sans, from, to);
    let old = old.expect("a certificate");
    std::fs::write(&path, &old).expect("a certificate");
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    assert_eq!(read(), old);
    // looked at as soon as it is blessed, not an hour later
    world.power_on(&listen).await;
    world.stays(|| read() != old).await;
    assert!(identity::describe_cert(&read()).expect("a certificate").not_after > to);
    world.power_off().await;
}

#[tokio::test]
async fn a_time_that_is_over_is_not_believed() {
    let mut world = World::start().await;
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    let seen = || -> Option<u64> {
        std::fs::read_to_string(world.path("node/last-seen")).ok()?.trim().parse().ok()
    };
    assert_eq!(seen(), None);
    world.stays(|| seen().is_some()).await;
    let later = seen().expect("a time") + 24 * 3600;
    std::fs::write(world.path("node/last-seen"), later.to_string()).expect("a time");
    // a node whose certificates hold needs no time from anybody
    assert_eq!(world.run(|_| false).await, Some(Ending::Blessed));
    // one without any is told nothing by a server of the past
    std::fs::remove_file(world.path("node/enrolment.json")).expect("the enrolment");
    let reason = world.waits(Step::Identify).await;
    assert!(reason.contains("known to be over"), "{reason}");
    world.power_off().await;
}

#[tokio::test]
async fn a_rescue_lets_operators_in_and_touches_nothing() {
    let mut world = World::start().await;
    world.target = "lab";
    world.file("proc/cmdline", "console=ttyS0 plasma.rescue=1\n");
    world.tool("networkctl", "true");
    // what ssh-keygen would do: the last argument is the path
    world.tool(
        "ssh-keygen",
        "for path; do :; done; echo key >$path; echo 'ssh-ed25519 A' >$path.pub",
    );
    assert_eq!(world.run(|_| false).await, Some(Ending::Rescue));
    assert!(world.path("root/etc/ssh/keys/ssh_host_ed25519_key").exists());
    let told = || std::fs::read_to_string(world.path("told")).expect("what systemctl was told");
    assert!(told().contains("--no-block restart ssh.service"), "{}", told());
    // systemd leaves sshd out of a boot without a key, so the agent starts it once there is one
    std::fs::remove_file(world.path("told")).expect("what systemctl was told");
    assert_eq!(world.run(|_| false).await, Some(Ending::Rescue));
    assert_eq!(told(), "--no-block start ssh.service\n");
    for step in [Step::Clock, Step::Disk, Step::Install, Step::Enroll, Step::Bless] {
        let outcome = world.outcome(step);
        assert!(matches!(outcome, Some(Outcome::Off { .. })), "{step} {outcome:?}");
    }
    assert!(!world.path("node/identity").exists());
    world.power_off().await;
}

/// There the system has sshd's keys and starts it.
#[tokio::test]
async fn a_rescue_of_nixos_needs_no_key_of_the_agents() {
    for target in ["nixos", "none"] {
        let mut world = World::start().await;
        world.target = target;
        world.file("proc/cmdline", "console=ttyS0 plasma.rescue=1\n");
        assert_eq!(world.run(|_| false).await, Some(Ending::Rescue));
        assert!(!world.path("root/etc/ssh/keys").exists());
        world.power_off().await;
    }
}
