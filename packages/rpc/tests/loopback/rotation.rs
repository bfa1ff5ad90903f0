//! New files are used at new connections; wrong ones are not taken.

use axum::Router;
use identity::{TlsFiles, write_file};
use rpc::{ClientAuth, Https, Tls};

use crate::world::{Kind, overwrite, serve, until, within, world};

fn replace(files: &TlsFiles, by: &TlsFiles) {
    overwrite(&by.key, &files.key);
    overwrite(&by.cert, &files.cert);
}

#[tokio::test]
async fn a_rotated_certificate_is_used_without_a_restart() {
    let world = world();
    let files = world.service("chainfire");
    let server_tls = Tls::load(&files).unwrap();
    let server =
        serve(Some((server_tls.clone(), ClientAuth::Optional)), Kind::Http, Router::new()).await;
    let trust = Tls::trust(&world.ca_path()).unwrap();
    let url = server.https("/who");
    within(Https::new(&trust).get_text(&url)).await.unwrap();

    // The new one names this place no more, which shows when it is used.
    let id = identity::SpiffeId::service("plasma", "chainfire", "node01").unwrap();
    let moved = world.files("moved", &id, &["127.0.0.77".parse().unwrap()]);
    replace(&files, &moved);
    until(async || Https::new(&trust).get_text(&url).await.is_err()).await;

    replace(&files, &world.service("back"));
    until(async || Https::new(&trust).get_text(&url).await.is_ok()).await;
    server.end().await;
}

#[tokio::test]
async fn wrong_new_files_leave_the_old_in_use() {
    let world = world();
    let files = world.service("chainfire");
    let tls = Tls::load(&files).unwrap();
    let server = serve(Some((tls.clone(), ClientAuth::Optional)), Kind::Http, Router::new()).await;
    let trust = Tls::trust(&world.ca_path()).unwrap();
    write_file(&files.cert, b"garbage", 0o644).unwrap();
    assert_eq!(tls.reload().unwrap_err().code, rpc::codes::TLS_PEM);
    within(Https::new(&trust).get_text(&server.https("/who"))).await.unwrap();

    let old = world.window("old", -120, -60);
    replace(&files, &old);
    assert_eq!(tls.reload().unwrap_err().code, rpc::codes::TLS_EXPIRED);
    within(Https::new(&trust).get_text(&server.https("/who"))).await.unwrap();

    replace(&files, &world.service("good"));
    tls.reload().unwrap();
    within(Https::new(&trust).get_text(&server.https("/who"))).await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn a_client_shows_its_new_certificate() {
    let world = world();
    let files = world.service("caller");
    let caller = Tls::load(&files).unwrap();
    let server =
        serve(Some((world.tls("x"), ClientAuth::Required)), Kind::Http, Router::new()).await;
    let who = async |tls: &Tls| -> String {
        within(Https::new(tls).get_text(&server.https("/who"))).await.unwrap()
    };
    assert!(who(&caller).await.contains("svc/caller/"));
    replace(&files, &world.service("renamed"));
    caller.reload().unwrap();
    assert!(who(&caller).await.contains("svc/renamed/"));
    server.end().await;
}
