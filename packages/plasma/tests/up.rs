//! `plasma up` with real processes: from nothing to a cluster, down, up again, a node lost, the
//! supervisor killed. The cloud has fixed ports, so the test runs itself again in a network
//! namespace of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use chainfire_client::Client;
use identity::TlsFiles;
use rpc::Tls;
use serde_json::Value;

const INSIDE: &str = "PLASMA_TEST_INSIDE";
const PLASMA: &str = env!("CARGO_BIN_EXE_plasma");

#[test]
#[allow(clippy::print_stderr)] // what is left out, and why
fn a_cloud_from_nothing_to_nothing() {
    if std::env::var_os(INSIDE).is_some() {
        return Cloud::new().scenario();
    }
    let bin = Path::new(PLASMA).parent().unwrap();
    for program in ["bootserver", "firstboot", "chainfire"] {
        if !bin.join(program).is_file() {
            eprintln!("skipped: {program} is not built; cargo build --workspace --bins");
            return;
        }
    }
    let mut namespace = Command::new("unshare");
    namespace.args(["--user", "--map-root-user", "--net", "sh", "-c"]);
    namespace.arg("ip link set lo up && exec \"$0\" \"$@\"");
    let able = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "ip", "link", "set", "lo", "up"])
        .output();
    if !able.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a network namespace needs unshare, ip and user namespaces");
        return;
    }
    let status = namespace
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_cloud_from_nothing_to_nothing", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "see above");
}

struct Cloud {
    _dir: tempfile::TempDir,
    home: PathBuf,
}

/// Whatever happens, no process of the test stays.
impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.plasma(&["down"]);
    }
}

impl Cloud {
    fn new() -> Cloud {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("a cloud");
        Cloud { _dir: dir, home }
    }

    fn plasma(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PLASMA);
        command.args(arguments).env("PLASMA_HOME", &self.home);
        command.output().unwrap()
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

    #[track_caller]
    fn status(&self) -> Value {
        serde_json::from_str(&self.good(&["status", "--wait", "60", "-o", "json"])).unwrap()
    }

    /// Processes whose command line names a file of this cloud.
    fn processes(&self) -> Vec<String> {
        let home = format!("{}/", self.home.display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        commands
            .map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
            .filter(|command| command.contains(&home))
            .collect()
    }

    fn client<T>(&self, work: impl AsyncFn(Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let files = TlsFiles::in_dir(self.home.join("bootserver/operator"));
            let tls = Tls::load(&files).unwrap();
            let endpoints = (1..=3).map(|n| format!("https://127.0.1.{n}:2379"));
            work(Client::connect(endpoints, Some(tls)).unwrap()).await
        })
    }

    #[track_caller]
    fn has_value(&self) {
        let value = self.client(async |client| client.get("greeting").await.unwrap());
        assert_eq!(value.expect("the value is there").value, "hello");
    }

    /// Until Ctrl-C, which stops all in order.
    fn in_the_foreground(&self) {
        let mut command = Command::new(PLASMA);
        command.arg("up").env("PLASMA_HOME", &self.home);
        let mut up = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // it takes the folder a moment after it was started
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.plasma(&["status", "--wait", "60"]).status.success() {
            assert!(Instant::now() < deadline, "it does not start");
        }
        self.has_value();
        // a status from outside may know it a moment before `up` says it
        let (mut lines, mut said) = (BufReader::new(up.stdout.take().unwrap()), String::new());
        while !said.contains("ETCDCTL_API=3 etcdctl") {
            assert!(lines.read_line(&mut said).unwrap() > 0, "it ended: {said}");
        }
        let pid = up.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let output = up.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && errors.contains("stopped"), "{errors}");
        assert_eq!(self.processes(), Vec::<String>::new());
    }

    fn scenario(&self) {
        self.refused(&["status"], 1, "PL-1001");
        self.refused(&["down"], 1, "PL-1001");
        let taken = std::net::TcpListener::bind("127.0.1.2:2380").unwrap();
        let errors = self.refused(&["up", "--detach"], 1, "PL-1003");
        assert!(errors.contains("127.0.1.2:2380 is in use by up-"), "{errors}");
        drop(taken);

        // three nodes come up by the path that a booted machine takes
        let out = self.good(&["up", "--nodes", "1", "--nodes", "3", "--detach"]);
        assert!(out.contains("ETCDCTL_API=3 etcdctl --endpoints=https://127.0.1.1:2379,"), "{out}");
        let status = self.status();
        assert_eq!((&status["voters"], &status["ready"]), (&3.into(), &true.into()), "{status}");
        self.client(async |client| client.put("greeting", "hello").await.unwrap());
        self.refused(&["up"], 1, "PL-1002");
        self.refused(&["destroy", "--yes"], 1, "PL-1002");
        self.refused(&["logs", "node09"], 1, "PL-1012");
        assert!(self.good(&["logs", "node01"]).contains("blessed"));
        let tokens: Value =
            serde_json::from_str(&self.good(&["token", "list", "-o", "json"])).unwrap();
        assert!(tokens.as_array().unwrap().iter().all(|t| t["state"] == "used"), "{tokens}");

        // down leaves nothing but the data; a node that lost all it had comes back by itself
        self.good(&["down"]);
        assert_eq!(self.processes(), Vec::<String>::new());
        self.good(&["down"]);
        std::fs::remove_dir_all(self.home.join("nodes/node02/state")).unwrap();
        self.good(&["up", "--detach"]);
        let status = self.status();
        assert_eq!((&status["voters"], &status["learners"]), (&3.into(), &0.into()), "{status}");
        self.has_value();

        self.good(&["down"]);
        self.in_the_foreground();
        self.good(&["up", "--detach"]);

        // a supervisor that is killed takes its children along, and can be started again
        let text = std::fs::read(self.home.join("supervisor.json")).unwrap();
        let supervisor: Value = serde_json::from_slice(&text).unwrap();
        let pid = supervisor["pid"].to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "left behind: {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.good(&["up", "--detach"]);
        self.has_value();

        self.good(&["down"]);
        self.refused(&["up", "--nodes", "2"], 1, "PL-1005");
        self.refused(&["destroy"], 2, "PL-1011");
        self.good(&["destroy", "--yes"]);
        assert!(!self.home.exists());
    }
}
