//! A stop answers what is under way, cuts off what never ends, and frees the port.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use rpc::{ClientAuth, Https, channel};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::world::{Kind, serve, within, world};

/// A handler that says when it began, and answers when it may.
fn slow(begun: &Arc<Notify>, may: &Arc<Notify>) -> Router {
    let (begun, may) = (begun.clone(), may.clone());
    Router::new().route(
        "/slow",
        get(async move || {
            begun.notify_one();
            may.notified().await;
            "done"
        }),
    )
}

#[tokio::test]
async fn calls_under_way_are_answered() {
    let world = world();
    let tls = world.tls("x");
    for encrypted in [true, false] {
        let (begun, may) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let security = encrypted.then(|| (tls.clone(), ClientAuth::Required));
        let server = serve(security, Kind::Http, slow(&begun, &may)).await;
        let client = if encrypted { Https::new(&tls) } else { Https::plain() };
        let scheme = if encrypted { "https" } else { "http" };
        let url = format!("{scheme}://{}/slow", server.addr);
        let call = tokio::spawn(async move { client.get_text(&url).await });
        within(begun.notified()).await;
        server.stop.cancel();
        may.notify_one();
        assert_eq!(within(call).await.unwrap().unwrap(), "done", "encrypted: {encrypted}");
        let addr = server.addr;
        server.end().await;
        assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
    }
}

#[tokio::test]
async fn endless_streams_are_cut_after_the_grace_time() {
    let server = serve(None, Kind::Grpc, Router::new()).await;
    let channel = channel(&format!("http://{}", server.addr), None).unwrap();
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = within(HealthClient::new(channel).watch(request)).await.unwrap().into_inner();
    assert_eq!(within(watch.message()).await.unwrap().unwrap().status, 1);
    let addr = server.addr;
    server.end().await;
    assert!(!matches!(within(watch.message()).await, Ok(Some(_))), "the stream is over");
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn idle_and_silent_connections_do_not_delay_a_stop() {
    let world = world();
    let tls = world.tls("x");
    let server = serve(Some((tls.clone(), ClientAuth::Required)), Kind::Grpc, Router::new()).await;
    let channel = channel(&format!("https://{}", server.addr), Some(&tls)).unwrap();
    crate::grpc::check(channel.clone()).await.unwrap();
    let _silent = TcpStream::connect(server.addr).await.unwrap();
    server.end().await;
    drop(channel);
}
