//! A boot server in this process with images, and a client for what no JSON client shows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bootserver::client::Operator;
use bootserver::wire::{self, Hardware, Identify, Nic};
use bootserver::{CertificateSettings, Folder, Settings};
use fault::Fault;
use identity::KeyPair;
use inventory::Inventory;
use rpc::{Https, Tls};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Larger than what takes no place among the streams.
pub(crate) const ROOT_BYTES: usize = 3 << 20;

pub(crate) fn inventory() -> Inventory {
    Inventory::parse(Inventory::built_in()).unwrap()
}

pub(crate) fn root_image() -> Vec<u8> {
    (0..ROOT_BYTES as u32).flat_map(|i| [(i ^ (i >> 8)) as u8]).collect()
}

/// A folder of images, with a manifest that is true.
pub(crate) fn write_images(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let root = root_image();
    let files: [(&str, &[u8]); 4] = [
        ("vmlinuz", b"a kernel"),
        ("initrd", b"a ramdisk"),
        ("root.squashfs", &root),
        ("plasma.squashfs", b"our programs"),
    ];
    let mut listed = serde_json::Map::new();
    for (name, content) in files {
        std::fs::write(dir.join(name), content).unwrap();
        let sha256 = sha256(content);
        let entry = serde_json::json!({"sha256": sha256, "bytes": content.len()});
        listed.insert(name.to_owned(), entry);
    }
    let manifest =
        serde_json::json!({"version": 1, "target": "lab", "kernel_release": "6", "files": listed});
    std::fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
}

pub(crate) fn sha256(content: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, content);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn settings_text(dir: &Path, api: u16, boot: u16, more: &str) -> String {
    format!(
        "state_dir = {:?}\ninventory = {:?}\nlisten = \"127.0.0.1:{api}\"\n\
         [ops]\nlisten = \"127.0.0.1:0\"\n\
         [enrollment]\nhand_out = \"declared\"\n\
         [boot]\nlisten = \"127.0.0.1:{boot}\"\nimages = {:?}\nloaders = {:?}\n{more}",
        dir.join("state"),
        dir.join("cluster.json"),
        dir.join("images"),
        dir.join("loaders"),
    )
}

pub(crate) struct Cloud {
    pub(crate) dir: TempDir,
    pub(crate) base: String,
    pub(crate) boot: SocketAddr,
    stop: CancellationToken,
    running: Option<bootserver::Running>,
}

impl Cloud {
    pub(crate) async fn start(more: &str) -> Cloud {
        Cloud::start_with(|text| text, more).await
    }

    pub(crate) async fn start_with(edit: impl Fn(String) -> String, more: &str) -> Cloud {
        let dir = tempfile::tempdir().unwrap();
        write_images(&dir.path().join("images"));
        std::fs::create_dir(dir.path().join("loaders")).unwrap();
        std::fs::write(dir.path().join("loaders/ipxe.efi"), b"MZ").unwrap();
        let certificates = CertificateSettings::default();
        drop(Folder::init(&dir.path().join("state"), &inventory(), &certificates).unwrap());
        let text = edit(settings_text(dir.path(), 0, 0, more));
        let settings: Settings = settings::parse("test.toml".as_ref(), &text).unwrap();
        let stop = CancellationToken::new();
        let running = bootserver::start(settings, inventory(), stop.clone()).await.unwrap();
        let base = format!("https://{}", running.address);
        let boot = running.boot.unwrap();
        Cloud { dir, base, boot, stop, running: Some(running) }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.running.take().unwrap().wait().await.unwrap();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn operator(&self) -> Operator {
        Operator::new(&self.base, &bootserver::operator_files(&self.state())).unwrap()
    }

    pub(crate) fn nobody(&self) -> Https {
        Https::new(&Tls::trust(&self.state().join("ca/ca.pem")).unwrap())
    }

    pub(crate) async fn post<B: serde::Serialize, T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Fault> {
        Ok(self.nobody().post_json(&format!("{}{path}", self.base), body).await?)
    }

    pub(crate) async fn identify(&self, machine: &Machine) -> Result<wire::Identified, Fault> {
        self.post("/v1/identify", &machine.asks()).await
    }

    pub(crate) async fn script(&self, machine: &Machine) -> String {
        let path = format!(
            "/boot/script?mac={}&serial={}&uuid={}&arch=i386&platform=pcbios",
            machine.mac, machine.serial, machine.uuid
        );
        let answer = ask(self.boot, &format!("GET {path} HTTP/1.1")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    }
}

/// A machine of the inventory, or one that looks like it.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) node: String,
    pub(crate) mac: String,
    pub(crate) serial: String,
    pub(crate) uuid: String,
    pub(crate) key: std::sync::Arc<KeyPair>,
}

impl Machine {
    pub(crate) fn of(node: &str) -> Machine {
        let line = &inventory().nodes[node];
        Machine {
            node: node.to_owned(),
            mac: line.macs[0].to_string(),
            serial: line.serial.clone().unwrap(),
            uuid: "5c0e0f0e-0000-4000-8000-000000000011".to_owned(),
            key: KeyPair::create().unwrap().into(),
        }
    }

    pub(crate) fn identify(&self) -> Identify {
        Identify { serial: Some(self.serial.clone()), macs: vec![self.mac.clone()], process: false }
    }

    pub(crate) fn asks(&self) -> wire::IdentifyRequest {
        let nic = Nic { name: "eth0".into(), mac: self.mac.clone(), ..Nic::default() };
        let hardware = Hardware {
            vendor: "QEMU".into(),
            uuid: Some(self.uuid.clone()),
            nics: vec![nic],
            ..Hardware::default()
        };
        wire::IdentifyRequest { identify: self.identify(), hardware, rescue: false }
    }

    pub(crate) fn claim(&self, install_id: &str) -> wire::ClaimRequest {
        wire::ClaimRequest {
            node: self.node.clone(),
            public_key: self.key.public_key_hash(),
            identify: self.identify(),
            install_id: install_id.to_owned(),
        }
    }

    pub(crate) fn enroll(&self, token: &str, install_id: &str) -> wire::EnrollRequest {
        wire::EnrollRequest {
            node: self.node.clone(),
            token: token.to_owned(),
            csr_node: self.key.csr_pem().unwrap(),
            csrs: std::collections::BTreeMap::new(),
            identify: self.identify(),
            host_key: Some("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ root@node01".to_owned()),
            install_id: Some(install_id.to_owned()),
        }
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends the lines of a request as they are, and reads the answer to its end.
pub(crate) async fn ask(to: SocketAddr, lines: &str) -> Answer {
    let mut stream = request(to, lines).await;
    let mut bytes = Vec::new();
    // a server may hang up on a request that it finds too long, before it has read all of it
    let _ = stream.read_to_end(&mut bytes).await;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    let headers = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, headers, body: bytes.get(end + 4..).unwrap_or_default().to_vec() }
}

pub(crate) async fn request(to: SocketAddr, lines: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let text = format!("{lines}\r\nHost: boot\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(text.as_bytes()).await;
    stream
}
