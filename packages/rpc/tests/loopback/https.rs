//! The JSON client and HTTPS servers.

use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use fault::{Code, Fault, Kind as FaultKind};
use identity::SpiffeId;
use rpc::{ClientAuth, Https, HttpsError, Tls, codes, http_error};
use serde_json::{Value, json};

use crate::world::{Kind, loopback, serve, within, world};

#[tokio::test]
async fn the_server_knows_its_caller() {
    let world = world();
    let server_tls = world.tls("bootserver");
    let server = serve(Some((server_tls, ClientAuth::Optional)), Kind::Http, Router::new()).await;
    for id in [
        SpiffeId::node("plasma", "node07").unwrap(),
        SpiffeId::operator("plasma", "admin").unwrap(),
        SpiffeId::service("plasma", "chainfire", "node02").unwrap(),
    ] {
        let tls = Tls::load(&world.files("caller", &id, &loopback())).unwrap();
        assert_eq!(tls.id().as_ref(), Some(&id));
        let who: Option<SpiffeId> =
            within(Https::new(&tls).get_json(&server.https("/who"))).await.unwrap();
        assert_eq!(who, Some(id));
    }
    // Without a certificate the caller is unknown, and still served here.
    let trusting = Tls::trust(&world.ca_path()).unwrap();
    let who: Option<SpiffeId> =
        within(Https::new(&trusting).get_json(&server.https("/who"))).await.unwrap();
    assert_eq!(who, None);
    server.end().await;
}

#[tokio::test]
async fn json_goes_both_ways_and_faults_come_back() {
    let refuse = async || {
        http_error(Fault::new(Code("BS-1001"), FaultKind::Denied, "node02 is not former", "wait"))
    };
    let more = Router::new()
        .route("/echo", post(async |Json(body): Json<Value>| Json(body)))
        .route("/refuse", post(refuse))
        .route("/nothing", post(async || ()))
        .route("/text", get(async || "plain"));
    let server = serve(None, Kind::Http, more).await;
    let client = Https::plain();
    let url = |path: &str| format!("http://{}{path}", server.addr);

    let sent = json!({ "node": "node01", "n": [1, 2] });
    let back: Value = within(client.post_json(&url("/echo"), &sent)).await.unwrap();
    assert_eq!(back, sent);
    let () = within(client.post_json(&url("/nothing"), &sent)).await.unwrap();
    assert_eq!(within(client.get_text(&url("/text"))).await.unwrap(), "plain");

    let error = within(client.post_json::<_, Value>(&url("/refuse"), &sent)).await.unwrap_err();
    assert!(!error.passes());
    let fault = Fault::from(error);
    assert_eq!(fault.to_string(), "BS-1001 node02 is not former, wait");
    assert_eq!(fault.kind, FaultKind::Denied);

    let missing = within(client.get_json::<Value>(&url("/missing"))).await.unwrap_err();
    assert!(matches!(missing, HttpsError::Status { status, .. } if status == 404));
    let text = within(client.get_json::<Value>(&url("/text"))).await.unwrap_err();
    assert!(matches!(text, HttpsError::Json { .. }));
    server.end().await;
}

#[tokio::test]
async fn answers_are_bounded_in_size_and_time() {
    let more = Router::new()
        .route("/huge", get(async || "x".repeat(5 << 20)))
        .route("/never", get(async || std::future::pending::<String>().await));
    let server = serve(None, Kind::Http, more).await;
    let client = Https::plain().timeout(Duration::from_millis(300));
    let url = |path: &str| format!("http://{}{path}", server.addr);
    let huge = Https::plain().get_text(&url("/huge")).await.unwrap_err();
    assert!(matches!(huge, HttpsError::TooLarge { .. }), "{huge}");
    let never = within(client.get_text(&url("/never"))).await.unwrap_err();
    assert!(matches!(never, HttpsError::TimedOut { .. }) && never.passes(), "{never}");
    server.end().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = within(Https::plain().get_text(&format!("http://{gone}/"))).await.unwrap_err();
    assert!(error.passes());
    let fault = Fault::from(error);
    assert_eq!(fault.code, codes::UNREACHABLE);
    assert!(fault.what.contains(&gone.to_string()) && fault.what.contains("refused"), "{fault}");
    let fault = Fault::from(Https::plain().get_text("https://127.0.0.1:1/").await.unwrap_err());
    assert_eq!(fault.code, codes::ENDPOINT);
}
