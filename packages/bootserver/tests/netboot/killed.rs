//! The boot server is killed at any moment: what it promised before counts after.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bootserver::client::Operator;
use bootserver::wire::{self, NodeOrder};
use bootserver::{CertificateSettings, Folder};
use inventory::Inventory;
use rpc::{Https, Tls};

use crate::server::{Machine, ask, inventory, request, root_image, settings_text, write_images};

struct Server {
    child: Child,
    base: String,
    boot: std::net::SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL: no word of goodbye, no last save
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn start(dir: &Path, api: u16, boot: u16) -> Server {
    let child = Command::new(env!("CARGO_BIN_EXE_bootserver"))
        .arg("--config")
        .arg(dir.join("bootserver.toml"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log")).unwrap())
        .spawn()
        .unwrap();
    let boot = std::net::SocketAddr::from(([127, 0, 0, 1], boot));
    let mut server = Server { child, base: format!("https://127.0.0.1:{api}"), boot };
    let deadline = Instant::now() + Duration::from_secs(30);
    while tokio::net::TcpStream::connect(boot).await.is_err() {
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(server.child.try_wait().unwrap().is_none(), "it ended: {}", log());
        assert!(Instant::now() < deadline, "it does not listen: {}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server
}

#[tokio::test]
async fn promises_outlive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    write_images(&path.join("images"));
    std::fs::write(path.join("cluster.json"), Inventory::built_in()).unwrap();
    let state = path.join("state");
    drop(Folder::init(&state, &inventory(), &CertificateSettings::default()).unwrap());
    let (api, boot) = (free_port(), free_port());
    std::fs::write(path.join("bootserver.toml"), settings_text(path, api, boot, "")).unwrap();
    let nobody = Https::new(&Tls::trust(&state.join("ca/ca.pem")).unwrap());
    let machine = Machine::of("node01");

    let server = start(path, api, boot).await;
    let identified: wire::Identified =
        nobody.post_json(&format!("{}/v1/identify", server.base), &machine.asks()).await.unwrap();
    let id = identified.install_id;
    let minted: wire::TokenMinted =
        nobody.post_json(&format!("{}/v1/claim", server.base), &machine.claim(&id)).await.unwrap();
    // half an image is there when the server dies
    let root = root_image();
    let line = "GET /boot/images/root.squashfs HTTP/1.1";
    let half = read_some(request(server.boot, line).await, 1_000_000).await;
    drop(server);

    let server = start(path, api, boot).await;
    let more = format!("{line}\r\nRange: bytes={}-", half.len());
    let rest = ask(server.boot, &more).await;
    assert_eq!(rest.status, 206);
    assert!([half, rest.body].concat() == root, "the two halves are the image");
    let request = machine.enroll(&minted.token, &id);
    let _: wire::Enrolled =
        nobody.post_json(&format!("{}/v1/enroll", server.base), &request).await.unwrap();
    drop(server);

    let server = start(path, api, boot).await;
    let operator = Operator::new(&server.base, &bootserver::operator_files(&state)).unwrap();
    let explained = operator.explain("node01").await.unwrap();
    assert_eq!(explained.decision, "localdisk", "{:?}", explained.reasons);
    operator.order("node01", NodeOrder::Install, false).await.unwrap();
    drop(server);

    let server = start(path, api, boot).await;
    let operator = Operator::new(&server.base, &bootserver::operator_files(&state)).unwrap();
    let status = operator.status().await.unwrap();
    assert_eq!(status.nodes["node01"].decision, "install");
    assert_ne!(status.nodes["node01"].install_id, id);
}

/// The first bytes of a body.
async fn read_some(mut stream: tokio::net::TcpStream, count: usize) -> Vec<u8> {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0u8; 64 << 10];
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the answer is too short");
        bytes.extend_from_slice(&buffer[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n")
            && bytes.len() >= end + 4 + count
        {
            return bytes[end + 4..end + 4 + count].to_vec();
        }
    }
}
