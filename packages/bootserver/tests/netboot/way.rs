//! A machine's way from its boot loader to its certificates, and back by an order.

use bootserver::wire::{self, NodeOrder, Order};
use fault::{Fault, Kind};

use crate::server::{Cloud, Machine};

#[track_caller]
fn refused<T>(result: Result<T, Fault>, code: &str, kind: Kind) -> Fault {
    let fault = result.err().expect("this must be refused");
    assert_eq!((fault.code.0, fault.kind), (code, kind), "{fault}");
    fault
}

async fn enrol(cloud: &Cloud, machine: &Machine) -> String {
    let identified = cloud.identify(machine).await.unwrap();
    assert_eq!(identified.order, Order::Install, "{}", identified.reason);
    let claim = machine.claim(&identified.install_id);
    let minted: wire::TokenMinted = cloud.post("/v1/claim", &claim).await.unwrap();
    let request = machine.enroll(&minted.token, &identified.install_id);
    let _: wire::Enrolled = cloud.post("/v1/enroll", &request).await.unwrap();
    identified.install_id
}

#[tokio::test]
async fn from_the_loader_to_certificates_and_then_always_to_the_disk() {
    let cloud = Cloud::start("").await;
    let machine = Machine::of("node01");
    let script = cloud.script(&machine).await;
    assert!(script.contains("node01: install") && script.contains("\nkernel "), "{script}");
    let identified = cloud.identify(&machine).await.unwrap();
    assert_eq!(identified.node, "node01");
    assert!(script.contains(&format!("systemd.machine_id={}", identified.machine_id)));

    enrol(&cloud, &machine).await;
    for _ in 0..3 {
        let script = cloud.script(&machine).await;
        assert!(script.contains("node01: localdisk") && !script.contains("kernel"), "{script}");
    }
    assert_eq!(cloud.identify(&machine).await.unwrap().order, Order::Run);
    let status = cloud.operator().status().await.unwrap();
    let node = &status.nodes["node01"];
    assert_eq!(node.decision, "localdisk");
    assert_eq!(node.install_id, identified.install_id);
    let key = node.host_key.as_deref().unwrap();
    assert!(key.starts_with("ssh-ed25519 AAAA") && !key.contains("root@"), "{key}");
    assert_eq!(node.hardware.as_ref().unwrap().vendor, "QEMU");
    assert_eq!(status.nodes["node02"].decision, "install");

    let list = cloud.operator().machines().await.unwrap().machines;
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!((list[0].node.as_deref(), list[0].arch.as_str()), (Some("node01"), "i386"));
    cloud.stop().await;
}

#[tokio::test]
async fn orders_change_what_the_machine_is_told_and_are_explained() {
    let cloud = Cloud::start("").await;
    let (operator, machine) = (cloud.operator(), Machine::of("node01"));
    let first = enrol(&cloud, &machine).await;

    let explained = operator.order("node01", NodeOrder::Install, false).await.unwrap();
    assert_eq!(explained.decision, "install");
    assert!(explained.reasons[0].contains("ordered"), "{:?}", explained.reasons);
    assert_eq!(explained.script, cloud.script(&machine).await, "explained as it is served");
    // the disk was erased, and the key with it
    let anew = Machine::of("node01");
    assert_ne!(enrol(&cloud, &anew).await, first);
    let stale = cloud.post::<_, wire::TokenMinted>("/v1/claim", &machine.claim(&first)).await;
    refused(stale, "BS-8004", Kind::Denied);

    operator.order("node01", NodeOrder::Rescue, false).await.unwrap();
    assert_eq!(cloud.identify(&anew).await.unwrap().order, Order::Run, "the disk's system goes on");
    for _ in 0..3 {
        // whoever asks for the script: it is the machine's own system that uses the order up
        assert!(cloud.script(&anew).await.contains("plasma.rescue=1"));
    }
    assert_eq!(cloud.identify(&anew).await.unwrap().order, Order::Run, "still the disk's");
    let rescue = wire::IdentifyRequest { rescue: true, ..anew.asks() };
    for _ in 0..2 {
        let told: wire::Identified = cloud.post("/v1/identify", &rescue).await.unwrap();
        assert_eq!(told.order, Order::Rescue);
    }
    assert!(cloud.script(&anew).await.contains("localdisk"), "once");

    let unknown = operator.order("node09", NodeOrder::Install, false).await;
    refused(unknown, "INV-1016", Kind::NotFound);
    refused(operator.explain("../status").await, "INV-1016", Kind::NotFound);
    refused(operator.order("node02", NodeOrder::Run, false).await, "BS-7005", Kind::Precondition);
    cloud.stop().await;
}

#[tokio::test]
async fn strangers_and_twins_are_listed_and_get_nothing() {
    let cloud = Cloud::start("").await;
    let stranger = Machine {
        mac: "52:54:00:99:00:01".into(),
        serial: "X".into(),
        uuid: String::new(),
        ..Machine::of("node01")
    };
    let twin = Machine { mac: "52:54:00:99:00:02".into(), ..Machine::of("node01") };
    assert!(cloud.script(&stranger).await.contains("this machine: unknown"));
    assert!(cloud.script(&twin).await.contains("node01: wait"));
    refused(cloud.identify(&stranger).await, "BS-7001", Kind::Unavailable);
    // one who has seen a frame of node01 knows a card of it, and no more
    let thief = Machine { serial: "X".into(), ..Machine::of("node01") };
    let status = cloud.operator().status().await.unwrap();
    let id = &status.nodes["node01"].install_id;
    for machine in [&twin, &thief] {
        let fault = refused(cloud.identify(machine).await, "BS-3001", Kind::Unavailable);
        assert!(!fault.to_string().contains(id.as_str()), "{fault}");
    }
    for told in [
        refused(cloud.identify(&thief).await, "BS-3001", Kind::Unavailable).to_string(),
        cloud.script(&thief).await,
        refused(
            cloud.post::<_, wire::TokenMinted>("/v1/claim", &thief.claim(id)).await,
            "BS-8004",
            Kind::Denied,
        )
        .to_string(),
    ] {
        assert!(!told.contains("PLASMA-NODE"), "the serial is what would let it in: {told}");
    }
    for machine in [&stranger, &twin] {
        let claim = machine.claim(id);
        refused(
            cloud.post::<_, wire::TokenMinted>("/v1/claim", &claim).await,
            "BS-8004",
            Kind::Denied,
        );
    }
    let list = cloud.operator().machines().await.unwrap().machines;
    assert!(list.len() == 3 && list.iter().all(|machine| machine.node.is_none()), "{list:?}");
    let explained = cloud.operator().explain("node01").await.unwrap();
    let tells = explained.reasons.iter().any(|line| line.contains("52:54:00:99:00:02"));
    assert!(tells, "the operator is told of the twin: {:?}", explained.reasons);

    // the machine itself is served all the same; a twin by its UUID alone waits
    enrol(&cloud, &Machine::of("node01")).await;
    let clone = Machine { serial: String::new(), ..twin };
    assert!(cloud.script(&clone).await.contains("this machine: wait"));
    cloud.stop().await;
}

#[tokio::test]
async fn a_card_alone_uses_up_no_order_begins_no_install_and_says_nothing_of_the_node() {
    let cloud = Cloud::start("").await;
    let (operator, machine) = (cloud.operator(), Machine::of("node01"));
    // without a serial the loader is believed by its card, the agent is not
    let thief = Machine { serial: String::new(), ..Machine::of("node01") };
    let asks = wire::IdentifyRequest { rescue: true, ..thief.asks() };

    operator.order("node01", NodeOrder::Rescue, false).await.unwrap();
    refused(
        cloud.post::<_, wire::Identified>("/v1/identify", &asks).await,
        "BS-3001",
        Kind::Unavailable,
    );
    assert!(cloud.script(&machine).await.contains("plasma.rescue=1"), "the order holds");
    operator.order("node01", NodeOrder::Run, false).await.unwrap();

    enrol(&cloud, &machine).await;
    operator.order("node01", NodeOrder::Install, false).await.unwrap();
    refused(cloud.identify(&thief).await, "BS-3001", Kind::Unavailable);
    operator.order("node01", NodeOrder::Run, false).await.expect("no install has begun");

    // its UUID is not the node's: who has it is no twin
    let uuid = "5c0e0f0e-0000-4000-8000-000000000099".to_owned();
    let forged = Machine { uuid: uuid.clone(), ..thief };
    refused(cloud.identify(&forged).await, "BS-3001", Kind::Unavailable);
    let mac = "52:54:00:99:00:03".to_owned();
    let other = Machine { mac, serial: "X".into(), uuid, ..Machine::of("node01") };
    assert!(cloud.script(&other).await.contains("this machine: unknown"));
    let status = operator.status().await.unwrap();
    let hardware = status.nodes["node01"].hardware.as_ref().unwrap();
    assert_eq!(hardware.uuid.as_ref(), Some(&machine.uuid), "as its own agent said");

    // and what its agent said is not taken back by a loader's words under its card
    let liar = Machine { serial: "X".into(), ..Machine::of("node01") };
    cloud.script(&liar).await;
    let clone = Machine { uuid: machine.uuid.clone(), ..other };
    assert!(cloud.script(&clone).await.contains("this machine: wait"), "a twin by its UUID");
    cloud.stop().await;
}

#[tokio::test]
async fn a_node_learns_no_other_nodes_serial() {
    let cloud = Cloud::start("").await;
    let identified = cloud.identify(&Machine::of("node01")).await.unwrap();
    let inventory = inventory::Inventory::from_value(&identified.inventory).unwrap();
    let serials: Vec<_> = inventory.nodes.values().map(|node| node.serial.as_deref()).collect();
    assert_eq!(serials, [Some("PLASMA-NODE01"), None, None]);
    cloud.stop().await;
}

#[tokio::test]
async fn tokens_are_handed_out_only_when_the_operator_wants_it() {
    let cloud = Cloud::start("").await;
    let machine = Machine::of("node01");
    let id = cloud.identify(&machine).await.unwrap().install_id;
    let ask = async |claim: &wire::ClaimRequest| {
        cloud.post::<_, wire::TokenMinted>("/v1/claim", claim).await
    };
    ask(&machine.claim(&id)).await.unwrap();
    refused(ask(&Machine::of("node01").claim(&id)).await, "BS-8002", Kind::Denied);
    let mut odd = machine.claim(&id);
    odd.public_key = "short".into();
    refused(ask(&odd).await, "BS-8005", Kind::Invalid);
    refused(ask(&machine.claim("another")).await, "BS-8003", Kind::Precondition);
    let mut flooded = None;
    for _ in 0..100 {
        flooded = ask(&machine.claim(&id)).await.err();
    }
    refused(flooded.map_or(Ok(()), Err), "BS-2005", Kind::Exhausted);
    cloud.stop().await;

    let cloud = Cloud::start_with(|text| text.replace("\"declared\"", "\"never\""), "").await;
    let id = cloud.identify(&machine).await.unwrap().install_id;
    let claim = machine.claim(&id);
    let answer = cloud.post::<_, wire::TokenMinted>("/v1/claim", &claim).await;
    refused(answer, "BS-8001", Kind::Denied);
    cloud.stop().await;
}

#[tokio::test]
async fn operators_paths_are_for_operators() {
    let cloud = Cloud::start("").await;
    let nobody = cloud.nobody();
    for path in ["/v1/machines", "/v1/boot/node01"] {
        let answer = nobody.get_json::<serde_json::Value>(&format!("{}{path}", cloud.base)).await;
        assert_eq!(Fault::from(answer.unwrap_err()).kind, Kind::Unauthenticated, "{path}");
    }
    let order = wire::OrderRequest { order: NodeOrder::Replace, sticky: false };
    let answer = cloud.post::<_, wire::Explained>("/v1/nodes/node01/order", &order).await;
    assert_eq!(answer.unwrap_err().kind, Kind::Unauthenticated);
    let bad = serde_json::json!({"order": "explode"});
    let answer = cloud.post::<_, wire::Explained>("/v1/nodes/node01/order", &bad).await;
    assert_eq!(answer.unwrap_err().kind, Kind::Unauthenticated, "who asks comes before what");
    cloud.stop().await;
}
