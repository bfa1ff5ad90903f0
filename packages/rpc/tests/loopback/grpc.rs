//! gRPC over mTLS and plaintext.

use axum::Router;
use axum::routing::post;
use fault::Fault;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rpc::{ClientAuth, Peer, channel};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::world::{Kind, Running, serve, within, world};

pub(crate) async fn check(channel: tonic::transport::Channel) -> Result<i32, tonic::Status> {
    let request = HealthCheckRequest { service: String::new() };
    let answer = within(HealthClient::new(channel).check(request)).await?;
    Ok(answer.into_inner().status)
}

fn endpoint(server: &Running) -> String {
    format!("https://{}", server.addr)
}

#[tokio::test]
async fn a_call_with_a_certificate_is_answered() {
    let world = world();
    let tls = world.tls("chainfire");
    let server = serve(Some((tls.clone(), ClientAuth::Required)), Kind::Grpc, Router::new()).await;
    let by_address = channel(&endpoint(&server), Some(&tls)).unwrap();
    assert_eq!(check(by_address).await.unwrap(), 1);
    let by_name = format!("https://localhost:{}", server.addr.port());
    assert_eq!(check(channel(&by_name, Some(&tls)).unwrap()).await.unwrap(), 1);
    server.end().await;
}

#[tokio::test]
async fn plaintext_is_answered_without_an_id() {
    let server = serve(None, Kind::Grpc, Router::new()).await;
    let channel = channel(&format!("http://{}", server.addr), None).unwrap();
    assert_eq!(check(channel).await.unwrap(), 1);
    server.end().await;
}

#[tokio::test]
async fn the_callers_deadline_ends_the_call_at_the_server() {
    let never = post(async || std::future::pending::<String>().await);
    let more = Router::new().route("/test.v1.Test/Never", never);
    let server = serve(None, Kind::Grpc, more).await;
    // By hand: tonic's own client would give up by itself.
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = http::Request::post(format!("http://{}/test.v1.Test/Never", server.addr))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "50m")
        .body(Full::<bytes::Bytes>::default())
        .unwrap();
    let answer = within(client.request(request)).await.unwrap();
    let status: i32 = answer.headers()["grpc-status"].to_str().unwrap().parse().unwrap();
    assert_eq!(tonic::Code::from(status), tonic::Code::DeadlineExceeded);
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn a_grpc_service_decides_by_its_caller() {
    let world = world();
    let (_reporter, health) = rpc::health();
    let guarded = InterceptedService::new(health, |request: tonic::Request<()>| {
        let peer: &Peer = request.extensions().get().expect("every request has a caller");
        peer.require_service("chainfire", "plasma")?;
        Ok(request)
    });
    let tls = world.tls("chainfire");
    let server = rpc::Server::new("test")
        .tls(tls.clone(), ClientAuth::Required)
        .bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let (endpoint, stop) = (format!("https://{}", server.local_addr()), CancellationToken::new());
    let task = tokio::spawn(server.serve(Routes::new(guarded), stop.clone()));
    assert_eq!(check(channel(&endpoint, Some(&tls)).unwrap()).await.unwrap(), 1);

    let other = channel(&endpoint, Some(&world.tls("iam"))).unwrap();
    let fault = Fault::from_status(&check(other).await.unwrap_err()).unwrap();
    assert_eq!(
        fault.to_string(),
        "RPC-4002 caller spiffe://plasma/svc/iam/node01 is not service chainfire, \
         call with a certificate that may do this"
    );
    stop.cancel();
    within(task).await.unwrap().unwrap();
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let world = world();
    let tls = world.tls("chainfire");
    let server = serve(Some((tls.clone(), ClientAuth::Required)), Kind::Grpc, Router::new()).await;
    let channel = channel(&endpoint(&server), Some(&tls)).unwrap();
    let calls = (0..500).map(|_| check(channel.clone()));
    for answer in futures::future::join_all(calls).await {
        answer.unwrap();
    }
    assert_eq!(server.count("rpc_connections_total"), 1.0);
    server.end().await;
}

#[tokio::test]
async fn reflection_is_built_from_a_descriptor_set() {
    let set = tonic_health::pb::FILE_DESCRIPTOR_SET;
    assert!(rpc::reflection(set).is_ok());
    assert!(rpc::reflection_v1alpha(set).is_ok());
    let fault = rpc::reflection(b"garbage").err().unwrap();
    assert_eq!(fault.code, rpc::codes::REFLECTION);
}
