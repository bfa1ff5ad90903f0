//! The time of a server, asked for by a machine whose clock is not to be trusted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::routing::get;
use axum::{Json, Router};
use rpc::{ClientAuth, Https, Tls, codes, server_time};
use serde_json::json;

use crate::world::{Kind, Running, World, serve, within, world};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A server that says the time that is written down here, in milliseconds.
async fn clock(world: &World) -> (Running, Arc<AtomicU64>) {
    let says = Arc::new(AtomicU64::new(0));
    let shown = says.clone();
    let time = async move || Json(json!({ "unix_millis": shown.load(Ordering::SeqCst) }));
    let more = Router::new().route("/time", get(time));
    let tls = world.tls("bootserver");
    (serve(Some((tls, ClientAuth::Optional)), Kind::Http, more).await, says)
}

fn say(says: &AtomicU64, time: Duration) {
    says.store(time.as_millis() as u64, Ordering::SeqCst);
}

#[tokio::test]
async fn a_time_at_which_its_certificate_is_valid_is_believed() {
    let world = world();
    let (server, says) = clock(&world).await;
    let (ca, url) = (world.ca_path(), server.https("/time"));
    let after = async |floor| within(server_time(&ca, &url, floor)).await;
    let ask = async || after(Duration::ZERO).await;
    for days in [0, 30, 80] {
        say(&says, now() + days * DAY);
        let time = ask().await.unwrap();
        assert!(time.unix().abs_diff(now() + days * DAY) < Duration::from_secs(20), "{time:?}");
    }
    // valid or not: what is over does not come again
    say(&says, now());
    after(now() - DAY).await.unwrap();
    let fault = after(now() + DAY).await.unwrap_err();
    assert_eq!(fault.code, codes::TIME, "{fault}");
    for wrong in [now() + 4000 * DAY, now() - 4000 * DAY, Duration::ZERO] {
        say(&says, wrong);
        let fault = ask().await.unwrap_err();
        assert_eq!(fault.code, codes::TIME, "{fault}");
        assert!(fault.kind.passes(), "it may be mended while the machine waits");
    }
    server.end().await;
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let (ours, other) = (world(), world());
    let (server, says) = clock(&other).await;
    say(&says, now());
    let ask = async |url: &str| within(server_time(&ours.ca_path(), url, Duration::ZERO)).await;
    let fault = ask(&server.https("/time")).await.unwrap_err();
    assert_eq!(fault.code, codes::UNREACHABLE, "{fault}");
    // without TLS nobody vouches for the answer
    let more = Router::new().route("/time", get(async || Json(json!({ "unix_millis": 1 }))));
    let plain = serve(None, Kind::Http, more).await;
    let fault = ask(&format!("http://{}/time", plain.addr)).await.unwrap_err();
    assert_eq!(fault.code, codes::TIME, "{fault}");
    server.end().await;
    plain.end().await;
}

#[tokio::test]
async fn dates_are_checked_against_the_time_that_was_heard() {
    let world = world();
    let (clock, says) = clock(&world).await;
    let brief = Tls::load(&world.window("brief", -10, 60)).unwrap();
    let server = serve(Some((brief, ClientAuth::Optional)), Kind::Http, Router::new()).await;
    let call = async || {
        let (ca, url) = (world.ca_path(), clock.https("/time"));
        let time = within(server_time(&ca, &url, Duration::ZERO)).await.unwrap();
        let tls = Tls::trust_by(&ca, time).unwrap();
        within(Https::new(&tls).get_text(&server.https("/who"))).await
    };
    say(&says, now());
    assert_eq!(call().await.unwrap(), "null");
    say(&says, now() + DAY);
    let error = call().await.unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
    server.end().await;
    clock.end().await;
}
