use std::collections::BTreeMap;

use super::*;
use crate::wire::{Identify, Verdict};

const HOUR: Duration = Duration::from_secs(3600);

fn three() -> Inventory {
    Inventory::parse(Inventory::built_in()).unwrap()
}

fn fresh() -> Registry {
    let mut registry = Registry::default();
    assert!(registry.ensure_installs(&three()));
    assert!(!registry.ensure_installs(&three()));
    registry
}

fn identify(node: &str) -> Identify {
    let line = &three().nodes[node];
    Identify {
        serial: line.serial.clone(),
        macs: line.macs.iter().map(ToString::to_string).collect(),
        process: false,
    }
}

fn claim(registry: &mut Registry, node: &str, key: &str, now: SystemTime) -> Result<Minted, Fault> {
    let request = ClaimRequest {
        node: node.to_owned(),
        public_key: key.to_owned(),
        identify: identify(node),
        install_id: registry.install_id(node).to_owned(),
    };
    registry.claim(&three(), &request, HOUR, now)
}

fn enroll(
    registry: &mut Registry,
    node: &str,
    token: &str,
    key: &str,
    install_id: Option<&str>,
) -> Result<(), Fault> {
    let identify = identify(node);
    let asked =
        Enrolling { node, token, public_key: key, identify: &identify, host_key: None, install_id };
    registry.enroll(&three(), &asked, SystemTime::now())
}

/// Claimed, enrolled, and with the verdict on its store.
fn join(registry: &mut Registry, node: &str, key: &str) -> Verdict {
    let minted = claim(registry, node, key, SystemTime::now()).unwrap();
    enroll(registry, node, &minted.token, key, None).unwrap();
    registry.form(&three(), node, key, None, SystemTime::now()).unwrap()
}

fn report(node: &str, done: &[&str]) -> Progress {
    Progress {
        node: node.to_owned(),
        step: "services".to_owned(),
        state: "running".to_owned(),
        detail: String::new(),
        generation: 1,
        phases: done.iter().map(|step| ((*step).to_owned(), 1)).collect::<BTreeMap<_, _>>(),
        uptime_millis: 0,
    }
}

fn order(registry: &mut Registry, node: &str, order: NodeOrder) {
    registry.order(&three(), node, order, false).unwrap();
}

#[test]
fn an_order_makes_a_new_install_and_enrolment_ends_it() {
    let mut registry = fresh();
    assert!(!registry.is_installed("node01"));
    join(&mut registry, "node01", "k1");
    assert!(registry.is_installed("node01"));
    let before = registry.install_id("node01").to_owned();
    order(&mut registry, "node01", NodeOrder::Install);
    assert_ne!(registry.install_id("node01"), before);
    assert!(!registry.is_installed("node01"));
    registry.check_key("node01", "k1").expect("a wiped node keeps its key until it enrols again");
    let late = registry.mint(&three(), "node01", HOUR, SystemTime::now()).unwrap();
    let fault = enroll(&mut registry, "node01", &late.token, "k1", Some(&before)).unwrap_err();
    assert_eq!(fault.code, codes::OTHER_INSTALL, "an agent of the install before");
    join(&mut registry, "node01", "k2");
    assert!(registry.is_installed("node01"));
    order(&mut registry, "node01", NodeOrder::Replace);
    assert_eq!(registry.check_key("node01", "k2").unwrap_err().code, codes::OLD_KEY);
}

#[test]
fn the_first_key_that_claims_is_the_only_one() {
    let (mut registry, now) = (fresh(), SystemTime::now());
    let first = claim(&mut registry, "node01", "k1", now).unwrap();
    assert_eq!(claim(&mut registry, "node01", "k2", now).unwrap_err().code, codes::CLAIMED);
    let again = claim(&mut registry, "node01", "k1", now).unwrap();
    let gone = enroll(&mut registry, "node01", &first.token, "k1", None).unwrap_err();
    assert_eq!(gone.kind, Kind::Unauthenticated, "the earlier token is of no use");
    let thief = enroll(&mut registry, "node01", &again.token, "k2", None).unwrap_err();
    assert_eq!(thief.code, codes::CLAIMED);
    let later = now + CLAIM_HOLDS;
    claim(&mut registry, "node01", "k2", later).expect("a key that was lost holds nothing");
    order(&mut registry, "node01", NodeOrder::Install);
    claim(&mut registry, "node01", "k3", later).expect("the operator ordered again");
}

#[test]
fn a_key_that_lost_its_place_does_not_get_it_back() {
    let (mut registry, now) = (fresh(), SystemTime::now());
    // somebody claims first, and the operator orders again
    let stolen = claim(&mut registry, "node01", "thief", now).unwrap();
    order(&mut registry, "node01", NodeOrder::Install);
    enroll(&mut registry, "node01", &stolen.token, "thief", None).unwrap_err();
    // a member is replaced, and repeats what made it one
    let first = registry.mint(&three(), "node01", HOUR, now).unwrap();
    enroll(&mut registry, "node01", &first.token, "k1", None).unwrap();
    enroll(&mut registry, "node01", &first.token, "k1", None).expect("its answer was lost");
    let second = registry.mint(&three(), "node01", HOUR, now).unwrap();
    enroll(&mut registry, "node01", &second.token, "k2", None).unwrap();
    let late = enroll(&mut registry, "node01", &first.token, "k1", None).unwrap_err();
    assert_eq!(late.code, codes::OLD_KEY);
    registry.check_key("node01", "k2").unwrap();
    order(&mut registry, "node01", NodeOrder::Replace);
    let late = enroll(&mut registry, "node01", &second.token, "k2", None).unwrap_err();
    assert_eq!(late.code, codes::OLD_KEY);
}

#[test]
fn an_order_is_newer_than_the_one_before_whatever_the_clock_says() {
    let mut registry = fresh();
    let years = 10 * 365 * 24 * 3600;
    let ahead = unix_millis(SystemTime::now()) / 1000 + years;
    let time = uuid::Timestamp::from_unix(uuid::NoContext, ahead, 999_500_000);
    let future = uuid::Uuid::new_v7(time);
    registry.installs.get_mut("node01").unwrap().install_id = future.to_string();
    for _ in 0..3 {
        let before = uuid::Uuid::parse_str(registry.install_id("node01")).unwrap();
        order(&mut registry, "node01", NodeOrder::Install);
        let after = uuid::Uuid::parse_str(registry.install_id("node01")).unwrap();
        let millis = |id: uuid::Uuid| id.as_u128() >> 80;
        assert!(millis(after) > millis(before), "{after} after {before}");
    }
}

#[test]
fn a_claim_needs_the_machine_and_the_current_install() {
    let (mut registry, now) = (fresh(), SystemTime::now());
    let mut request = ClaimRequest {
        node: "node01".to_owned(),
        public_key: "k".to_owned(),
        identify: identify("node02"),
        install_id: registry.install_id("node01").to_owned(),
    };
    let other = registry.claim(&three(), &request, HOUR, now).unwrap_err();
    assert_eq!(other.code, codes::NOT_THIS_MACHINE);
    request.identify = identify("node01");
    request.install_id = registry.install_id("node02").to_owned();
    let stale = registry.claim(&three(), &request, HOUR, now).unwrap_err();
    assert_eq!(stale.code, codes::OTHER_INSTALL);
    request.install_id = registry.install_id("node01").to_owned();
    registry.claim(&three(), &request, HOUR, now).unwrap();
}

#[test]
fn rescue_lasts_one_boot_unless_it_is_to_stay() {
    let mut registry = fresh();
    let boots = |registry: &Registry| registry.rescue("node01", Moment::Boot);
    let agent = |rescue| Moment::Agent { rescue };
    order(&mut registry, "node01", NodeOrder::Rescue);
    assert!(boots(&registry) && !registry.rescue("node01", agent(false)));
    assert!(registry.met_rescue("node01") && !registry.met_rescue("node01"));
    assert!(!boots(&registry), "the next boot");
    assert!(registry.rescue("node01", agent(true)), "the agent may start again");

    registry.order(&three(), "node01", NodeOrder::Rescue, true).unwrap();
    for _ in 0..3 {
        assert!(!registry.met_rescue("node01"));
        assert!(boots(&registry));
    }
    join(&mut registry, "node01", "k1");
    order(&mut registry, "node01", NodeOrder::Run);
    assert!(!boots(&registry) && registry.is_installed("node01"));
}

#[test]
fn an_order_is_taken_back_until_it_has_begun() {
    let mut registry = fresh();
    let nothing = registry.order(&three(), "node01", NodeOrder::Run, false).unwrap_err();
    assert_eq!(nothing.code, codes::BAD_ORDER);
    join(&mut registry, "node01", "k1");
    let before = registry.install_id("node01").to_owned();
    order(&mut registry, "node01", NodeOrder::Run);
    order(&mut registry, "node01", NodeOrder::Install);
    order(&mut registry, "node01", NodeOrder::Run);
    assert_eq!(registry.install_id("node01"), before);
    assert!(registry.is_installed("node01"));
    order(&mut registry, "node01", NodeOrder::Install);
    claim(&mut registry, "node01", "k2", SystemTime::now()).unwrap();
    let begun = registry.order(&three(), "node01", NodeOrder::Run, false).unwrap_err();
    assert_eq!(begun.code, codes::BAD_ORDER);

    order(&mut registry, "node01", NodeOrder::Install);
    assert!(registry.begin_install("node01") && !registry.begin_install("node01"));
    let begun = registry.order(&three(), "node01", NodeOrder::Run, false).unwrap_err();
    assert_eq!(begun.code, codes::BAD_ORDER, "an agent was told to install");
}

#[test]
fn a_former_that_formed_nothing_forms_after_its_wipe() {
    for wish in [NodeOrder::Install, NodeOrder::Replace] {
        let mut registry = fresh();
        assert_eq!(join(&mut registry, "node01", "k1"), Verdict::Form);
        assert_eq!(join(&mut registry, "node02", "k2"), Verdict::Join);
        order(&mut registry, "node01", wish);
        assert!(registry.grant().is_none());
        if wish == NodeOrder::Install {
            let old = registry.form(&three(), "node01", "k1", None, SystemTime::now());
            assert_eq!(old.unwrap_err().code, codes::OTHER_INSTALL, "it is about to be wiped");
        }
        assert_eq!(join(&mut registry, "node01", "k9"), Verdict::Form);
    }
}

#[test]
fn whoever_may_be_a_member_holds_the_grant() {
    let mut registry = fresh();
    join(&mut registry, "node01", "k1");
    join(&mut registry, "node02", "k2");
    let joined = report("node02", &["join"]);
    assert!(registry.is_news(&joined) && registry.note_progress(&joined));
    assert!(!registry.is_news(&joined));
    order(&mut registry, "node01", NodeOrder::Install);
    assert!(registry.grant().is_some(), "node02 joined what was formed");
    // it was never blessed, and is to begin anew too: nothing of the cluster is left
    order(&mut registry, "node02", NodeOrder::Install);
    order(&mut registry, "node01", NodeOrder::Install);
    assert!(registry.grant().is_none());

    let mut registry = fresh();
    join(&mut registry, "node01", "k1");
    join(&mut registry, "node02", "k2");
    registry.note_progress(&report("node02", &["join", "bless"]));
    order(&mut registry, "node02", NodeOrder::Replace);
    order(&mut registry, "node01", NodeOrder::Replace);
    assert!(registry.grant().is_some(), "a cluster was alive");
    assert_eq!(join(&mut registry, "node01", "k9"), Verdict::Join);
}

#[test]
fn a_released_grant_is_void_once_others_have_joined() {
    let mut registry = fresh();
    join(&mut registry, "node01", "k1");
    join(&mut registry, "node02", "k2");
    order(&mut registry, "node01", NodeOrder::Install);
    assert!(registry.grant().is_none(), "nobody had joined");
    // the old former ran on until its reboot
    registry.note_progress(&report("node02", &["join", "bless"]));
    assert_eq!(join(&mut registry, "node01", "k9"), Verdict::Join);
}

#[test]
fn a_registry_of_before_means_installed_and_blessed() {
    let text = r#"{"tokens":{"tokens":{}},
        "nodes":{"node01":{"public_key":"k1","enrolled":1},"node02":{"public_key":"k2","enrolled":1}},
        "grant":{"node":"node01","public_key":"k1","at":1}}"#;
    let mut registry: Registry = serde_json::from_str(text).unwrap();
    registry.ensure_installs(&three());
    assert!(registry.is_installed("node01") && registry.is_installed("node02"));
    assert!(!registry.is_installed("node03"));
    order(&mut registry, "node01", NodeOrder::Install);
    assert!(registry.grant().is_some());
    let again: Registry = serde_json::from_str(&serde_json::to_string(&registry).unwrap()).unwrap();
    assert_eq!(again.install_id("node01"), registry.install_id("node01"));
}
