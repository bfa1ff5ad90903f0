//! The commands that speak with a boot server and with nodes, against the real boot server and a
//! real sshd, both on loopback.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bootserver::wire;
use bootserver::{CertificateSettings, Folder, Settings};
use identity::KeyPair;
use inventory::Inventory;
use rpc::{Https, Tls};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A boot server in this process; `plasma` is called as an operator would call it.
struct Cloud {
    dir: tempfile::TempDir,
    base: String,
    stop: CancellationToken,
    runtime: Runtime,
    running: Option<bootserver::Running>,
}

/// Two machines, as far as the boot server can tell, both on loopback.
const INVENTORY: &str = r#"{
  "cluster": {
    "name": "plasma", "domain": "plasma.internal", "former": "node01",
    "bootserver": { "address": "127.0.0.1" }
  },
  "nodes": {
    "node01": {
      "roles": ["control"], "address": "127.0.1.1", "prefixLength": 8,
      "macs": ["52:54:00:20:00:11"], "serial": "M1", "disk": { "match": { "serial": "D1" } }
    },
    "node02": {
      "roles": ["data"], "address": "127.0.1.2", "prefixLength": 8,
      "macs": ["52:54:00:20:00:12"], "serial": "M2",
      "disk": { "match": { "serial": "D2" }, "consentToErase": ["D2"] }
    },
    "node03": {
      "roles": ["data"], "address": "127.0.1.3", "prefixLength": 8,
      "macs": ["52:54:00:20:00:13"], "serial": "M3", "disk": { "match": { "serial": "D3" } }
    }
  }
}"#;

/// What machines could boot; none does.
fn images(dir: &Path) -> PathBuf {
    let images = dir.join("images");
    std::fs::create_dir(&images).unwrap();
    let file = serde_json::json!({"sha256": "0".repeat(64), "bytes": 1});
    let manifest = serde_json::json!({
        "version": 1, "target": "lab", "kernel_release": "6.1",
        "files": {"vmlinuz": file, "initrd": file, "root.squashfs": file, "plasma.squashfs": file},
    });
    std::fs::write(images.join("manifest.json"), manifest.to_string()).unwrap();
    images
}

impl Cloud {
    fn start() -> Cloud {
        let dir = tempfile::tempdir().unwrap();
        let inventory = Inventory::parse(INVENTORY).unwrap();
        std::fs::write(dir.path().join("cluster.json"), INVENTORY).unwrap();
        let state = dir.path().join("state");
        drop(Folder::init(&state, &inventory, &CertificateSettings::default()).unwrap());
        let text = format!(
            "state_dir = {state:?}\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
             [enrollment]\nhand_out = \"declared\"\n\
             [boot]\nlisten = \"127.0.0.1:0\"\nimages = {:?}\n",
            images(dir.path()),
        );
        let settings: Settings = settings::parse("test.toml".as_ref(), &text).unwrap();
        let runtime = Runtime::new().unwrap();
        let stop = CancellationToken::new();
        let started = bootserver::start(settings, inventory, stop.clone());
        let running = runtime.block_on(started).unwrap();
        let base = format!("https://{}", running.address);
        Cloud { dir, base, stop, runtime, running: Some(running) }
    }

    fn operator(&self) -> PathBuf {
        self.dir.path().join("state/operator")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plasma"));
        // the command's words come last, so the options stand before them
        command.args(arguments);
        command
            .env("PLASMA_HOME", self.dir.path().join("home"))
            .env("PLASMA_BOOTSERVER", &self.base)
            .env("PLASMA_OPERATOR", self.operator())
            .env("HOME", self.dir.path())
            .env_remove("SSH_AUTH_SOCK")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn plasma(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.plasma(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "plasma {arguments:?}: {}\n{errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], exit: i32, code: &str) -> String {
        let output = self.plasma(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "plasma {arguments:?}: {errors}");
        assert!(errors.contains(code), "plasma {arguments:?}: {errors}");
        errors
    }

    fn nobody(&self) -> Https {
        Https::new(&Tls::trust(&self.dir.path().join("state/ca/ca.pem")).unwrap())
    }

    /// A machine calls for the first time.
    fn identify(&self, number: u8, disks: &[(&str, &[&str])]) -> wire::Identified {
        let seen = |(serial, traces): &(&str, &[&str])| wire::DiskSeen {
            name: format!("vd{}", serial.to_lowercase()),
            bytes: 16 << 30,
            serial: Some((*serial).to_owned()),
            traces: traces.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let request = wire::IdentifyRequest {
            identify: wire::Identify {
                serial: Some(format!("M{number}")),
                macs: vec![format!("52:54:00:20:00:1{number}")],
                ..Default::default()
            },
            hardware: wire::Hardware {
                serial: Some(format!("M{number}")),
                memory_bytes: 1 << 30,
                disks: disks.iter().map(seen).collect(),
                ..Default::default()
            },
            ..Default::default()
        };
        let url = format!("{}/v1/identify", self.base);
        self.runtime.block_on(self.nobody().post_json(&url, &request)).unwrap()
    }

    /// The machine becomes its node, with this host key.
    fn enrol(&self, number: u8, host_key: Option<&str>) {
        let node = format!("node0{number}");
        let minted: Value =
            serde_json::from_str(&self.good(&["token", "new", &node, "-o", "json"])).unwrap();
        let (key, service) = (KeyPair::create().unwrap(), KeyPair::create().unwrap());
        let csrs = BTreeMap::from([("chainfire".to_owned(), service.csr_pem().unwrap())]);
        let request = wire::EnrollRequest {
            node,
            token: minted["token"].as_str().unwrap().to_owned(),
            csr_node: key.csr_pem().unwrap(),
            csrs: if number == 1 { csrs } else { BTreeMap::new() },
            identify: wire::Identify {
                serial: Some(format!("M{number}")),
                macs: vec![format!("52:54:00:20:00:1{number}")],
                ..Default::default()
            },
            host_key: host_key.map(str::to_owned),
            install_id: None,
        };
        let url = format!("{}/v1/enroll", self.base);
        let enrolled: Result<wire::Enrolled, _> =
            self.runtime.block_on(self.nobody().post_json(&url, &request));
        enrolled.unwrap();
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            let _ = self.runtime.block_on(running.wait());
        }
    }
}

#[test]
fn what_will_happen_is_told_and_ordered() {
    let cloud = Cloud::start();
    let status = cloud.refused(&["machines", "-o", "svg"], 2, "topology");
    assert!(!status.contains("panicked"));
    assert_eq!(cloud.good(&["machines"]), "no machine has asked yet\n");
    let run = |node| String::from_utf8(cloud.plasma(&["node", "run", node]).stderr).unwrap();
    cloud.good(&["node", "rescue", "node01"]);
    assert!(run("node01").contains("still installed at its next boot"));
    cloud.refused(&["node", "run", "node01"], 1, "nothing installed that it could run");
    cloud.identify(1, &[("D1", &[]), ("X", &["ntfs"])]);
    cloud.identify(2, &[("D2", &["gpt", "ext4"])]);
    cloud.identify(3, &[("D3", &["LVM2_member"])]);

    // one is empty, one consented, one stops all by itself
    let plan = cloud.plasma(&["plan", "cluster.json"]);
    let text = String::from_utf8(plan.stdout).unwrap();
    assert_eq!(plan.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&plan.stderr));
    for part in [
        "will install on vdd1 D1 16.0 GiB, which is empty",
        "would erase disk D2 (foreign: gpt, ext4, consented)",
        "stops: disk D3 holds foreign data (LVM2_member)",
        "plan: 1 to install, 1 to erase and install, 1 would stop",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let json = cloud.plasma(&["plan", "cluster.json", "-o", "json"]).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["nodes"][2]["disk"], "stops");

    let explained: Value =
        serde_json::from_str(&cloud.good(&["boot", "explain", "node01", "-o", "json"])).unwrap();
    assert_eq!(explained["decision"], "install");
    cloud.enrol(1, None);
    assert!(cloud.good(&["boot", "explain", "node01"]).contains("boots its own disk"));
    assert!(cloud.good(&["node", "list"]).contains("node01"));
    let status = cloud.plasma(&["status"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(1));
    for part in ["not ready: node01 booted: enrolled", "not ready: node01 serves: no answer"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }

    // destroying needs a name, or a yes
    cloud.refused(&["node", "wipe", "node01"], 2, "PL-1011");
    cloud.refused(&["node", "wipe", "node09", "--yes"], 1, "node01, node02, node03");
    assert!(cloud.good(&["boot", "explain", "node01"]).contains("boots its own disk"));
    assert!(cloud.good(&["node", "rescue", "node01"]).contains("rescue"));
    assert!(cloud.good(&["node", "run", "node01"]).contains("boots its own disk"));
    assert!(run("node01").contains("nothing is left to do"));
    assert!(cloud.good(&["node", "wipe", "node01", "--yes"]).contains("will install itself"));
    cloud.enrol(2, None);
    assert!(cloud.good(&["node", "replace", "node02", "--yes"]).contains("will install itself"));
}

/// An SSH server with a key of its own, which lets one key in.
struct Sshd {
    program: &'static str,
    child: Child,
    port: u16,
    host_key: String,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::print_stderr)] // what is left out, and why
fn sshd(dir: &Path, address: &str) -> Option<Sshd> {
    let found = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|p| Path::new(p).is_file());
    let (Some(program), Some(_)) = (found, which("ssh-keygen")) else {
        eprintln!("left out: plasma ssh against sshd needs openssh-server");
        return None;
    };
    let keygen = |path: &Path| {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(path)
            .status();
        assert!(made.unwrap().success());
        std::fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
    };
    let host_key = keygen(&dir.join("host"));
    let user_key = keygen(&dir.join("user"));
    keygen(&dir.join("stranger"));
    std::fs::write(dir.join("authorized"), user_key).unwrap();
    // sshd insists on a folder of root's for its unprivileged half
    let _ = std::fs::create_dir_all("/run/sshd");
    let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
    let d = dir.display();
    let config = format!(
        "ListenAddress {address}\nPort {port}\nHostKey {d}/host\nPidFile none\n\
         AuthorizedKeysFile {d}/authorized\nPasswordAuthentication no\nUsePAM no\n\
         StrictModes no\nLogLevel ERROR\n"
    );
    std::fs::write(dir.join("sshd_config"), config).unwrap();
    let log = std::fs::File::create(dir.join("sshd.log")).unwrap();
    let child = Command::new(program)
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut sshd = Sshd { program, child, port, host_key };
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect((address, port)).is_err() {
        if sshd.child.try_wait().unwrap().is_some() || Instant::now() > deadline {
            let log = std::fs::read_to_string(dir.join("sshd.log")).unwrap_or_default();
            eprintln!("left out: sshd does not start here: {log}");
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(sshd)
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[test]
fn a_command_on_a_node() {
    let cloud = Cloud::start();
    let Some(sshd) = sshd(cloud.dir.path(), "127.0.1.1") else { return };
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let (user, port) = (user.trim(), sshd.port.to_string());
    let ssh = |key: &str, words: &[&str]| {
        let mut line = vec!["ssh", "node01", "-l", user, "-p", &port, "-i", key];
        if !words.is_empty() {
            line.push("--");
            line.extend(words);
        }
        line.iter().map(ToString::to_string).collect::<Vec<String>>()
    };
    let call =
        |line: Vec<String>| cloud.command(&line.iter().map(String::as_str).collect::<Vec<_>>());

    // nothing is trusted because it was seen first
    let out = call(ssh("user", &["true"])).output().unwrap();
    let errors = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(255), "{errors}");
    assert!(errors.contains("PL-1020"), "{errors}");

    cloud.identify(1, &[("D1", &[])]);
    cloud.enrol(1, Some(&sshd.host_key));
    let out = call(ssh("user", &["echo", "hello", "$((1+1))"])).output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "hello 2\n", "{errors}");
    assert_eq!(out.status.code(), Some(0));
    let out = call(ssh("user", &["echo oops >&2; exit 7"])).output().unwrap();
    assert_eq!((out.status.code(), out.stderr.as_slice()), (Some(7), b"oops\n".as_slice()));
    assert_eq!(call(ssh("user", &["kill -9 $$"])).status().unwrap().code(), Some(255));

    // what is given goes in, whole, and its end is told
    let mut child = call(ssh("user", &["wc -c; cat /dev/zero | head -c 3000000"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(&[b'x'; 1_000_000]));
    let out = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(out.status.success());
    assert_eq!((&out.stdout[..8], out.stdout.len()), (b"1000000\n".as_slice(), 3_000_008));

    // a shell without a terminal reads its commands
    let mut child =
        call(ssh("user", &[])).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo from the shell; exit 3\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("from the shell"));
    assert_eq!(out.status.code(), Some(3));

    on_a_terminal(&cloud, &ssh("user", &[]));

    let out = call(ssh("stranger", &["true"])).output().unwrap();
    let errors = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(255));
    assert!(errors.contains("PL-1023") && errors.contains("stranger"), "{errors}");
}

/// A shell on a terminal: the node's side has one too, of the same size.
#[allow(clippy::print_stderr)] // what is left out, and why
fn on_a_terminal(cloud: &Cloud, line: &[String]) {
    if which("script").is_none() || which("stty").is_none() {
        eprintln!("left out: a shell on a terminal needs script and stty");
        return;
    }
    let quoted: Vec<String> = line.iter().map(|word| format!("'{word}'")).collect();
    let program = env!("CARGO_BIN_EXE_plasma");
    let inner = format!("stty rows 33 cols 111; '{program}' {}", quoted.join(" "));
    let mut command = Command::new("script");
    command.args(["-qec", &inner, "/dev/null"]);
    for (key, value) in cloud.command(&[]).get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.current_dir(cloud.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"tty; stty size; exit 4\n").unwrap();
    let out = child.wait_with_output().unwrap();
    drop(stdin);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("/dev/pts/") && text.contains("33 111"), "{text}");
    assert_eq!(out.status.code(), Some(4), "{text}");
}

#[test]
fn another_host_key_is_refused() {
    let cloud = Cloud::start();
    let Some(sshd) = sshd(cloud.dir.path(), "127.0.1.1") else { return };
    let other = std::fs::read_to_string(cloud.dir.path().join("stranger.pub")).unwrap();
    cloud.identify(1, &[("D1", &[])]);
    cloud.enrol(1, Some(other.trim()));
    let port = sshd.port.to_string();
    let line = ["ssh", "node01", "-p", &port, "-i", "user", "--", "true"];
    let errors = cloud.refused(&line, 255, "PL-1021");
    assert!(errors.contains("somebody else answers there"), "{errors}");
    cloud.good(&["node", "rescue", "node01", "--sticky"]);
    let errors = cloud.refused(&line, 255, "PL-1021");
    assert!(errors.contains("rescue system, whose host key"), "{errors}");
}

/// Lets the key in for one program, which answers instead of the node: it must never get what was
/// asked, for that is this machine's reboot.
fn answers(dir: &Path, on_reboot: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let program = dir.join("node.sh");
    let d = dir.display();
    let text = format!(
        "#!/bin/sh\ncase \"$SSH_ORIGINAL_COMMAND\" in\n*boot_id*) cat {d}/boot_id ;;\n\
         *reboot*) {on_reboot} ;;\nesac\n"
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let key = std::fs::read_to_string(dir.join("user.pub")).unwrap();
    std::fs::write(dir.join("authorized"), format!("command=\"{d}/node.sh\" {key}")).unwrap();
    std::fs::write(dir.join("boot_id"), "one\n").unwrap();
}

#[test]
fn a_reboot_into_a_new_install_is_recognized() {
    let cloud = Cloud::start();
    let dir = cloud.dir.path();
    let Some(old) = sshd(dir, "127.0.1.1") else { return };
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    cloud.identify(1, &[("D1", &[])]);
    cloud.enrol(1, Some(&old.host_key));
    let port = old.port.to_string();
    let reboot = |wait| {
        let line = ["node", "reboot", "node01", "-i", "user", "-l", user.trim(), "-p", &port];
        cloud.command(&[line.as_slice(), &["--wait", wait]].concat())
    };

    // what is refused is told at once
    answers(dir, "echo not for you >&2; echo no way; exit 4");
    let out = reboot("600").output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{errors}");
    assert!(errors.contains("PL-1025") && errors.contains("status 4): no way"), "{errors}");

    // one that does nothing is told with what was seen last
    answers(dir, "true");
    let out = reboot("1").output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(errors.contains("PL-1010") && errors.contains("the one before"), "{errors}");

    // the connection breaks, and the node comes back with another host key
    answers(dir, &format!("touch {}/ordered; kill -9 $PPID", dir.display()));
    cloud.good(&["node", "wipe", "node01", "--yes"]);
    let mut child = reboot("60").stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !dir.join("ordered").exists() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    let program = old.program;
    drop(old);
    std::fs::write(dir.join("boot_id"), "two\n").unwrap();
    let stranger = std::fs::read_to_string(dir.join("stranger.pub")).unwrap();
    std::fs::rename(dir.join("stranger"), dir.join("host")).unwrap();
    let again = Command::new(program)
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let host_key = stranger.trim().to_owned();
    let _new =
        Sshd { program, child: again, port: port.parse().unwrap(), host_key: host_key.clone() };
    cloud.identify(1, &[("D1", &[])]);
    cloud.enrol(1, Some(&host_key));
    let out = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && errors.contains("is back after"), "{errors}");
}

const INSIDE: &str = "PLASMA_TEST_INSIDE";

/// It has fixed ports, so the test runs itself again in a network namespace of its own.
#[test]
#[allow(clippy::print_stderr)] // what is left out, and why
fn a_boot_server_is_served_and_stopped() {
    if std::env::var_os(INSIDE).is_some() {
        return serve_and_stop();
    }
    if !Path::new(env!("CARGO_BIN_EXE_plasma")).with_file_name("bootserver").is_file() {
        eprintln!("left out: bootserver is not built; cargo build --workspace --bins");
        return;
    }
    let unshare = ["--user", "--map-root-user", "--net", "sh", "-c"];
    let up = |then: &str| format!("ip link set lo up && {then}");
    let able = Command::new("unshare").args(unshare).arg(up("true")).output();
    if !able.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: a network namespace needs unshare, ip and user namespaces");
        return;
    }
    let status = Command::new("unshare")
        .args(unshare)
        .arg(up("exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_boot_server_is_served_and_stopped", "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success(), "see above");
}

fn serve_and_stop() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a home");
    std::fs::write(dir.path().join("cluster.json"), INVENTORY).unwrap();
    let plasma = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plasma"));
        command.args(arguments).env("PLASMA_HOME", &home).current_dir(dir.path());
        command.env_remove("PLASMA_BOOTSERVER").env_remove("PLASMA_OPERATOR");
        command
    };
    let refused = plasma(&["serve", "cluster.json"]).output().unwrap();
    let errors = String::from_utf8(refused.stderr).unwrap();
    assert!(errors.contains("PL-1018") && errors.contains("netboot/lab/build"), "{errors}");
    // as the refusal says: images in the folder that is not there yet
    std::fs::create_dir(&home).unwrap();
    let images = images(&home);
    for round in 0..2 {
        let mut serve = plasma(&["serve"]);
        match round {
            0 => serve.arg("cluster.json"),
            // the inventory it finds in its folder
            _ => serve.arg("--images").arg(&images),
        };
        serve.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut serve = serve.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let nodes = loop {
            let output = plasma(&["node", "list", "-o", "json"]).output().unwrap();
            if output.status.success() {
                break serde_json::from_slice::<Value>(&output.stdout).unwrap();
            }
            if Instant::now() > deadline || serve.try_wait().unwrap().is_some() {
                let _ = serve.kill();
                let output = serve.wait_with_output().unwrap();
                panic!("it does not serve: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(nodes.as_array().unwrap().len(), 3);
        assert_eq!(nodes[0]["decision"], "install", "{nodes}");
        let taken = plasma(&["up", "--nodes", "1"]).output().unwrap();
        assert!(String::from_utf8_lossy(&taken.stderr).contains("PL-1002"));
        assert!(plasma(&["token", "new", "node01"]).status().unwrap().success());
        let wait = plasma(&["status", "--wait", "1"]).output().unwrap();
        assert_eq!(wait.status.code(), Some(1));
        let told = String::from_utf8(wait.stdout).unwrap();
        assert!(told.contains("not ready: node02 booted: its machine has not called"), "{told}");

        let pid = serve.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let output = serve.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        for part in ["serving cluster plasma", "handed to the machine", "stopped"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!plasma(&["node", "list"]).output().unwrap().status.success());
    }
    let up = plasma(&["up", "--nodes", "1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&up.stderr).contains("PL-1016"));
}
