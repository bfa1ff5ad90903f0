//! Strangers cost a line and a count; good calls go on.

use axum::Router;
use rpc::{ClientAuth, Https, channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::grpc::check;
use crate::world::{Kind, Running, serve, until, within, world};

/// What a stranger may send: noise, other protocols, and beginnings of the right one.
fn samples() -> Vec<Vec<u8>> {
    let mut noise = 0x9e37_79b9_u32;
    let mut random = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            })
            .collect()
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut samples = vec![
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n".to_vec(),
        [preface.clone(), vec![0xff; 300]].concat(),
        // A frame that says it is 16 MiB long.
        [preface.clone(), vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        // A handshake record that is cut, and one that lies about its length.
        vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01],
        vec![0x16, 0x03, 0x01, 0xff, 0xff, 0x01, 0xff, 0xff, 0xff],
        vec![0],
    ];
    for length in [1, 2, 9, 24, 25, 100, 5000, 70_000] {
        samples.push(random(length));
        samples.push([preface.clone(), random(length)].concat());
    }
    samples
}

/// Sends garbage; some connections stay open, as a stranger's would.
async fn pester(server: &Running) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for (index, sample) in samples().into_iter().enumerate() {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        // The server may have hung up already.
        let _ = stream.write_all(&sample).await;
        if index % 2 == 0 {
            let _ = stream.shutdown().await;
        }
        open.push(stream);
    }
    for _ in 0..600 {
        open.push(TcpStream::connect(server.addr).await.unwrap());
    }
    open
}

#[tokio::test]
async fn garbage_on_a_tls_port_hurts_nobody() {
    let world = world();
    let tls = world.tls("chainfire");
    let server = serve(Some((tls.clone(), ClientAuth::Required)), Kind::Grpc, Router::new()).await;
    let channel = channel(&format!("https://{}", server.addr), Some(&tls)).unwrap();
    check(channel.clone()).await.unwrap();
    let open = pester(&server).await;
    check(channel).await.unwrap();
    // A new connection finds its way past those that say nothing.
    let again = rpc::channel(&format!("https://{}", server.addr), Some(&tls)).unwrap();
    check(again).await.unwrap();
    until(async || server.count("rpc_handshakes_failed_total") >= 5.0).await;
    drop(open);
    server.end().await;
}

#[tokio::test]
async fn garbage_on_a_plain_grpc_port_hurts_nobody() {
    let server = serve(None, Kind::Grpc, Router::new()).await;
    let channel = channel(&format!("http://{}", server.addr), None).unwrap();
    check(channel.clone()).await.unwrap();
    let open = pester(&server).await;
    check(channel).await.unwrap();
    until(async || server.count("rpc_garbage_total") >= 5.0).await;
    drop(open);
    server.end().await;
}

#[tokio::test]
async fn garbage_on_an_https_port_hurts_nobody() {
    let world = world();
    let tls = world.tls("bootserver");
    let server = serve(Some((tls.clone(), ClientAuth::Optional)), Kind::Http, Router::new()).await;
    let open = pester(&server).await;
    within(Https::new(&tls).get_text(&server.https("/who"))).await.unwrap();
    drop(open);
    server.end().await;
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_hung_up_on() {
    let world = world();
    let tls = world.tls("chainfire");
    let server = serve(Some((tls, ClientAuth::Required)), Kind::Grpc, Router::new()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Reset or closed, but soon.
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"), "no HTTP without TLS");
    until(async || server.count("rpc_connections_open") == 0.0).await;
    server.end().await;
}
