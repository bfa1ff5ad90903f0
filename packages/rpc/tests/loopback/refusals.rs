//! Whoever has not the right certificate is refused, and wrong files are told apart.

use axum::Router;
use fault::Code;
use identity::{SpiffeId, TlsFiles, write_file};
use rpc::{ClientAuth, Https, Server, Tls, channel, codes};

use crate::grpc::check;
use crate::world::{Kind, overwrite, serve, within, world};

#[tokio::test]
async fn callers_without_a_certificate_of_this_cluster_are_refused() {
    let (world, other) = (world(), crate::world::world());
    let tls = world.tls("chainfire");
    let server = serve(Some((tls.clone(), ClientAuth::Required)), Kind::Grpc, Router::new()).await;
    let endpoint = format!("https://{}", server.addr);

    let nobody = Tls::trust(&world.ca_path()).unwrap();
    check(channel(&endpoint, Some(&nobody)).unwrap()).await.unwrap_err();

    // A certificate of another cluster, whose holder trusts this one.
    let mut stranger = other.service("chainfire");
    write_file(&other.dir.path().join("both.pem"), both(&world, &other).as_bytes(), 0o644).unwrap();
    stranger.ca = other.dir.path().join("both.pem");
    let stranger = Tls::load(&stranger).unwrap();
    check(channel(&endpoint, Some(&stranger)).unwrap()).await.unwrap_err();

    assert_eq!(check(channel(&endpoint, Some(&tls)).unwrap()).await.unwrap(), 1);
    assert!(server.count("rpc_handshakes_failed_total") >= 2.0);
    server.end().await;
}

fn both(a: &crate::world::World, b: &crate::world::World) -> String {
    format!("{}{}", a.ca.ca_pem(), b.ca.ca_pem())
}

#[tokio::test]
async fn optional_still_refuses_a_wrong_certificate() {
    let (world, other) = (world(), crate::world::world());
    let server =
        serve(Some((world.tls("bootserver"), ClientAuth::Optional)), Kind::Http, Router::new())
            .await;
    let mut stranger = other.service("x");
    write_file(&other.dir.path().join("both.pem"), both(&world, &other).as_bytes(), 0o644).unwrap();
    stranger.ca = other.dir.path().join("both.pem");
    let client = Https::new(&Tls::load(&stranger).unwrap());
    within(client.get_text(&server.https("/who"))).await.unwrap_err();
    server.end().await;
}

#[tokio::test]
async fn servers_that_are_not_who_was_dialed_are_refused() {
    let (world, other) = (world(), crate::world::world());
    // Of this cluster, but for another address.
    let id = SpiffeId::service("plasma", "chainfire", "node09").unwrap();
    let elsewhere = world.files("elsewhere", &id, &["127.0.0.9".parse().unwrap()]);
    let elsewhere = Tls::load(&elsewhere).unwrap();
    let server = serve(Some((elsewhere, ClientAuth::Optional)), Kind::Http, Router::new()).await;
    let client = Https::new(&world.tls("caller"));
    let error = within(client.get_text(&server.https("/who"))).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    server.end().await;

    // Of another cluster.
    let server =
        serve(Some((other.tls("x"), ClientAuth::Optional)), Kind::Http, Router::new()).await;
    let error = within(client.get_text(&server.https("/who"))).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    server.end().await;
}

#[test]
fn every_mistake_in_the_files_has_its_code() {
    let (world, other) = (world(), crate::world::world());
    let good = world.service("good");
    Tls::load(&good).unwrap();
    let refused = |files: &TlsFiles, code: Code, words: &str| {
        let fault = Tls::load(files).unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.what.contains(words), "{words:?} in {fault}");
        assert!(!fault.hint.is_empty());
    };
    let dir = world.dir.path();
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        files
    };

    refused(&with(&|f| f.cert = dir.join("none.pem")), codes::TLS_FILE, "none.pem");
    refused(&with(&|f| f.key = dir.join("none.pem")), codes::TLS_FILE, "none.pem");
    refused(&with(&|f| f.ca = dir.join("none.pem")), codes::TLS_FILE, "none.pem");
    refused(&with(&|f| f.key = dir.to_owned()), codes::TLS_FILE, "directory");
    refused(&with(&|f| f.cert = f.key.clone()), codes::TLS_PEM, "a certificate");
    refused(&with(&|f| f.key = f.cert.clone()), codes::TLS_PEM, "a private key");
    refused(&with(&|f| f.ca = f.key.clone()), codes::TLS_PEM, "a certificate");
    let other_key = other.service("x").key;
    refused(&with(&|f| f.key = other_key.clone()), codes::TLS_KEY, "does not belong");
    refused(&with(&|f| f.ca = other.ca_path()), codes::TLS_CHAIN, "does not verify");
    refused(&world.window("old", -120, -60), codes::TLS_EXPIRED, "expired at");
    refused(&world.window("young", 60, 120), codes::TLS_EARLY, "not valid yet");

    let torn = world.service("torn");
    let pem = std::fs::read(&torn.cert).unwrap();
    std::fs::write(&torn.cert, &pem[..pem.len() / 2]).unwrap();
    refused(&torn, codes::TLS_PEM, "a certificate");
    std::fs::write(&torn.cert, "").unwrap();
    refused(&torn, codes::TLS_PEM, "none in it");
    overwrite(&good.cert, &torn.cert);
    refused(&torn, codes::TLS_KEY, "does not belong");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    let fault = Server::new("chainfire-client").plaintext().bind(addr).await.err().unwrap();
    assert_eq!(fault.code, codes::PORT_IN_USE);
    assert!(fault.what.contains("chainfire-client") && fault.what.contains(&addr.to_string()));
    assert!(fault.hint.contains("ss -ltnp"), "{fault}");
    let fault =
        Server::new("x").plaintext().bind("192.0.2.1:1".parse().unwrap()).await.err().unwrap();
    assert_eq!(fault.code, codes::LISTEN);
}

#[tokio::test]
async fn a_server_needs_a_certificate_of_its_own() {
    let world = world();
    let trust = Tls::trust(&world.ca_path()).unwrap();
    let fault = Server::new("x")
        .tls(trust, ClientAuth::Required)
        .bind("127.0.0.1:0".parse().unwrap())
        .await
        .err()
        .unwrap();
    assert_eq!(fault.code, codes::TLS_NO_IDENTITY);
}

#[tokio::test]
async fn a_server_is_never_plaintext_by_oversight() {
    let any = "127.0.0.1:0".parse().unwrap();
    let fault = Server::new("x").bind(any).await.err().unwrap();
    assert_eq!(fault.code, codes::UNDECIDED);
}
