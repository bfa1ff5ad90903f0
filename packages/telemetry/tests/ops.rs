//! The ops listener as a probe sees it.

use std::time::Duration;

use prometheus::{IntCounter, Registry};
use telemetry::{Health, codes, ops, process_metrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

async fn get(addr: std::net::SocketAddr, path: &str, accept: &str) -> (u16, String) {
    let asked = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.expect("an answer in time")
}

#[tokio::test]
async fn probes_see_life_readiness_metrics_and_version() {
    let (health, registry, stop) = (Health::new(), Registry::new(), CancellationToken::new());
    process_metrics(&registry);
    let counter = IntCounter::new("test_total", "Counts.").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    counter.inc();
    let gate = health.gate("leader");
    let any = "127.0.0.1:0".parse().unwrap();
    let (addr, task) = ops(any, health.clone(), registry, stop.clone()).await.unwrap();

    assert_eq!(get(addr, "/healthz", "*/*").await, (200, "ok\n".into()));
    assert_eq!(get(addr, "/readyz", "*/*").await, (503, "leader: starting\n".into()));
    gate.close("no leader for 3 s");
    let (status, body) = get(addr, "/readyz", "application/json").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let closed = serde_json::json!([{ "gate": "leader", "reason": "no leader for 3 s" }]);
    assert_eq!((status, &body["ready"], &body["closed"]), (503, &false.into(), &closed));
    gate.open();
    assert_eq!(get(addr, "/readyz", "*/*").await, (200, "ready\n".into()));

    let (status, metrics) = get(addr, "/metrics", "*/*").await;
    assert_eq!(status, 200);
    for line in ["test_total 1", "process_resident_memory_bytes ", "plasma_build_info{"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let (_, version) = get(addr, "/version", "*/*").await;
    assert!(version.contains(telemetry::VERSION), "{version}");
    assert_eq!(get(addr, "/nothing", "*/*").await.0, 404);

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
    assert!(TcpStream::connect(addr).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn silent_and_garbled_connections_do_not_keep_probes_out() {
    let stop = CancellationToken::new();
    let any = "127.0.0.1:0".parse().unwrap();
    let (addr, _task) = ops(any, Health::new(), Registry::new(), stop.clone()).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(TcpStream::connect(addr).await.unwrap());
        let mut garbled = TcpStream::connect(addr).await.unwrap();
        garbled.write_all(&[0x16, 0x03, 0x01, 0xff, b'\r', b'\n', 0]).await.unwrap();
    }
    assert_eq!(get(addr, "/healthz", "*/*").await.0, 200);
    stop.cancel();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    let stop = CancellationToken::new();
    let fault = ops(addr, Health::new(), Registry::new(), stop).await.unwrap_err();
    assert_eq!(fault.code, codes::OPS_LISTEN);
    assert!(fault.what.contains(&addr.to_string()) && fault.hint.contains("ops.listen"), "{fault}");
}
