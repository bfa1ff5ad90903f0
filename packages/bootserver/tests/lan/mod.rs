//! A small network: the boot server in one namespace, the clients in another, and where a test asks
//! for it a foreign DHCP server in a third; one bridge joins them.

mod packet;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use packet::{Answer, Ask, Kind, OPTION_VENDOR};

/// Set in the process that runs inside the clients' namespace.
const INSIDE: &str = "DHCP_TEST_LAN";
const LOADERS: &str = "/usr/lib/ipxe";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
/// The clients' own address, for what is no DHCP.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 250);
const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
const PROBE: &str = "plasma-dhcp-probe";
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs the scenario of the test `name` in a network of its own.
pub(crate) fn in_a_lan(name: &str, scenario: fn(&Lan)) {
    if let Ok(id) = std::env::var(INSIDE) {
        let dir = tempfile::tempdir().unwrap();
        scenario(&Lan::new(id, dir.path()));
        return;
    }
    if let Some(missing) = missing() {
        eprintln!("left out: {name}: {missing}");
        return;
    }
    let spaces = Namespaces::make();
    let output = Command::new("ip")
        .args(["netns", "exec", &spaces.name('c')])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, &spaces.id)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What this machine lacks.
fn missing() -> Option<String> {
    for program in ["ip", "dnsmasq"] {
        let version = Command::new(program).arg("-V").arg("--version").output();
        if version.is_err() {
            return Some(format!("{program} is not installed"));
        }
    }
    for loader in ["undionly.kpxe", "ipxe.efi"] {
        if !Path::new(LOADERS).join(loader).exists() {
            return Some(format!("{LOADERS}/{loader} is not installed"));
        }
    }
    let probe = Command::new("ip").args(["netns", "add", PROBE]).output().unwrap();
    let words = String::from_utf8_lossy(&probe.stderr).into_owned();
    let _ = Command::new("ip").args(["netns", "delete", PROBE]).output();
    // another test may be probing, too
    (!probe.status.success() && !words.contains("File exists"))
        .then(|| format!("no network namespace: {}", words.trim()))
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {words}", args.join(" "));
}

/// Three namespaces: server, client, foreign server; gone at the end.
struct Namespaces {
    id: String,
}

impl Namespaces {
    fn make() -> Namespaces {
        // tests of one process have their own, too
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let spaces = Namespaces { id: format!("{}-{number}", std::process::id()) };
        for which in ['s', 'c', 'f'] {
            ip(&["netns", "add", &spaces.name(which)]);
            ip(&["-n", &spaces.name(which), "link", "set", "lo", "up"]);
        }
        let server = spaces.name('s');
        let server_ip = |args: &[&str]| ip(&[&["-n", &server], args].concat());
        server_ip(&["link", "add", "br0", "type", "bridge", "forward_delay", "0"]);
        server_ip(&["addr", "add", "10.20.0.1/24", "dev", "br0"]);
        server_ip(&["link", "set", "br0", "up"]);
        for (which, address) in [('c', CLIENT), ('f', FOREIGN)] {
            let address = format!("{address}/24");
            let (port, other) = (format!("port-{which}"), spaces.name(which));
            server_ip(&[
                "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &other,
            ]);
            server_ip(&["link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", &other, "addr", "add", &address, "dev", "eth0"]);
            ip(&["-n", &other, "link", "set", "eth0", "up"]);
            ip(&["-n", &other, "route", "add", "255.255.255.255/32", "dev", "eth0"]);
        }
        spaces
    }

    fn name(&self, which: char) -> String {
        namespace(&self.id, which)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for which in ['s', 'c', 'f'] {
            let _ = Command::new("ip").args(["netns", "delete", &self.name(which)]).output();
        }
    }
}

fn namespace(id: &str, which: char) -> String {
    format!("plasma-dhcp-{id}-{which}")
}

/// A process of the test, ended with it.
pub(crate) struct Process(Child);

impl Process {
    /// As `kill -9`.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// As its supervisor would: it must end by itself and well.
    pub(crate) fn stop(mut self) {
        drop(self.0.stdin.take());
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The network as a test sees it, from the clients' side.
pub(crate) struct Lan {
    id: String,
    dir: PathBuf,
    client: packet::Client,
}

impl Lan {
    fn new(id: String, dir: &Path) -> Lan {
        let lan = Lan { id, dir: dir.to_owned(), client: packet::Client::open() };
        std::fs::create_dir(dir.join("images")).unwrap();
        std::fs::write(lan.inventory(), inventory::Inventory::built_in()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_bootserver"))
            .arg("init")
            .arg("--dir")
            .arg(lan.state())
            .arg("--inventory")
            .arg(lan.inventory())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lan
    }

    /// The boot server's state folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where the boot loaders come from.
    pub(crate) fn loaders(&self) -> &Path {
        Path::new(LOADERS)
    }

    fn inventory(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// Gives a node another card.
    pub(crate) fn change_inventory(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.inventory()).unwrap();
        assert!(text.contains(from));
        std::fs::write(self.inventory(), text.replace(from, to)).unwrap();
    }

    /// A settings file; `more` replaces lines of the table `[dhcp]`.
    pub(crate) fn settings(&self, mode: &str, more: &str) -> PathBuf {
        let path = self.dir.join("bootserver.toml");
        let keys: Vec<&str> = more.lines().filter_map(|l| Some(l.split_once(" =")?.0)).collect();
        let table: String =
            ["interface = \"br0\"\n", "range = [\"10.20.0.100\", \"10.20.0.199\"]\n"]
                .into_iter()
                .filter(|line| !keys.iter().any(|key| line.starts_with(key)))
                .collect();
        let text = format!(
            "state_dir = {:?}\ninventory = {:?}\nlisten = \"10.20.0.1:8443\"\n\
             [ops]\nlisten = \"10.20.0.1:9080\"\n\
             [boot]\nlisten = \"10.20.0.1:8080\"\nimages = {:?}\nloaders = {LOADERS:?}\n\
             [dhcp]\nmode = {mode:?}\n{table}{more}",
            self.state(),
            self.inventory(),
            self.dir.join("images"),
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    fn in_space(&self, which: char, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace(&self.id, which), program]);
        command
    }

    fn server_command(&self, settings: &Path) -> Command {
        let mut command = self.in_space('s', env!("CARGO_BIN_EXE_bootserver"));
        command.arg("--config").arg(settings).arg("--lifeline").stdin(Stdio::piped());
        command
    }

    /// A boot server, which may not be ready yet.
    pub(crate) fn start(&self, settings: &Path) -> Process {
        Process(self.server_command(settings).spawn().unwrap())
    }

    /// A boot server that is ready.
    pub(crate) fn boot_server(&self, mode: &str, more: &str) -> Process {
        let server = self.start(&self.settings(mode, more));
        self.until("the boot server", || self.is_ready());
        server
    }

    /// A boot server that is ready, and finds no program but dnsmasq.
    pub(crate) fn boot_server_without_setpriv(&self) -> Process {
        let output = Command::new("sh").args(["-c", "command -v dnsmasq"]).output().unwrap();
        let dnsmasq = String::from_utf8(output.stdout).unwrap();
        let settings = self.settings("full", &format!("dnsmasq = {:?}\n", dnsmasq.trim()));
        // ip is found before it has this path
        let mut command = self.in_space('s', "env");
        command.args(["PATH=/nonexistent", env!("CARGO_BIN_EXE_bootserver"), "--config"]);
        command.arg(settings).arg("--lifeline").stdin(Stdio::piped());
        let server = Process(command.spawn().unwrap());
        self.until("the boot server", || self.is_ready());
        server
    }

    /// What a boot server that does not start says.
    pub(crate) fn refused(&self, mode: &str, more: &str) -> String {
        let settings = self.settings(mode, more);
        let mut server = self.server_command(&settings).stderr(Stdio::piped()).spawn().unwrap();
        let _lifeline = server.stdin.take();
        let output = server.wait_with_output().unwrap();
        assert!(!output.status.success(), "it started with {more}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A foreign DHCP server without any word about booting.
    pub(crate) fn foreign_dhcp(&self) -> Process {
        let mut dnsmasq = self.in_space('f', "dnsmasq");
        dnsmasq
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"])
            .args(["--interface=eth0", "--bind-interfaces", "--log-facility=-"])
            .args(["--dhcp-range=10.20.0.50,10.20.0.60,255.255.255.0,600"])
            .arg(format!("--dhcp-leasefile={}", self.dir.join("foreign").display()))
            .arg("--pid-file")
            .stderr(Stdio::null());
        let server = dnsmasq.spawn().unwrap();
        let guard = Killed(Some(server));
        self.until("the foreign server", || {
            !self.client.offers(&Ask::new("52:54:00:99:77:01", Kind::System), 1, 1).is_empty()
        });
        guard.into()
    }

    /// Runs `ip` in the boot server's namespace.
    pub(crate) fn server_ip(&self, args: &[&str]) {
        ip(&[&["-n", &namespace(&self.id, 's')], args].concat());
    }

    /// Waits for a condition.
    pub(crate) fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition() {
            assert!(Instant::now() < deadline, "{what} did not come in {DEADLINE:?}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// The whole answer of `/readyz`, or nothing.
    pub(crate) fn readyz(&self) -> String {
        let ask = || -> std::io::Result<String> {
            let to = SocketAddr::from((SERVER, 9080));
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        ask().unwrap_or_default()
    }

    /// Whether every gate is open.
    pub(crate) fn is_ready(&self) -> bool {
        self.readyz().starts_with("HTTP/1.1 200")
    }

    /// The running dnsmasq of the boot server, or 0.
    pub(crate) fn dnsmasq_pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.state().join("dhcp/pid")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Whether the process runs; one that has ended and is not yet waited for does not.
    pub(crate) fn is_alive(&self, pid: i32) -> bool {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
    }

    /// As `kill -9`.
    pub(crate) fn kill(&self, pid: i32) {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// The first offer.
    pub(crate) fn discover(&self, ask: &Ask) -> Answer {
        self.offers(ask, 1).remove(0)
    }

    /// The offers of this many servers.
    pub(crate) fn offers(&self, ask: &Ask, servers: usize) -> Vec<Answer> {
        let offers = self.client.offers(ask, servers, 20);
        assert_eq!(offers.len(), servers, "{ask:?}: {offers:?}");
        offers
    }

    /// The offers to `ask` up to the boot server's answer to a later question.
    pub(crate) fn offers_before(&self, ask: &Ask, later: &Ask) -> Vec<Answer> {
        self.client.offers_before(ask, later, SERVER)
    }

    /// Takes an offer.
    pub(crate) fn request(&self, ask: &Ask, offer: &Answer) -> Answer {
        self.client.request(ask, offer)
    }

    /// Asks the boot server's own port what to load, as firmware does after a proxy's offer.
    pub(crate) fn ask_boot_server(&self, ask: &Ask, server: Ipv4Addr) -> Answer {
        self.client.ask_boot_server(ask, CLIENT, server)
    }

    /// Reads a file by TFTP (RFC 1350, with the block size of RFC 2348).
    pub(crate) fn tftp(
        &self,
        server: Ipv4Addr,
        name: &str,
        block_size: usize,
    ) -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let ask = format!("\0\u{1}{name}\0octet\0blksize\0{block_size}\0");
        socket.send_to(ask.as_bytes(), (server, 69)).unwrap();
        let (mut file, mut next) = (Vec::new(), 1u16);
        loop {
            let mut packet = vec![0; block_size + 4];
            let (length, from) = socket.recv_from(&mut packet)?;
            let acknowledge = |block: u16| {
                let [high, low] = block.to_be_bytes();
                socket.send_to(&[0, 4, high, low], from).unwrap();
            };
            match packet[1] {
                3 if packet[2..4] == next.to_be_bytes() => {
                    file.extend_from_slice(&packet[4..length]);
                    acknowledge(next);
                    if length < block_size + 4 {
                        return Ok(file);
                    }
                    next = next.wrapping_add(1);
                }
                6 => acknowledge(0),
                5 => {
                    let words = String::from_utf8_lossy(&packet[4..length]);
                    return Err(std::io::Error::other(words.into_owned()));
                }
                _ => {}
            }
        }
    }
}

/// A process without a lifeline, killed at the end; it becomes a [`Process`].
struct Killed(Option<Child>);

impl From<Killed> for Process {
    fn from(mut killed: Killed) -> Process {
        Process(killed.0.take().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
