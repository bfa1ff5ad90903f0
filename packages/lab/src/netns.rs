//! A network of the lab's own: a namespace with a bridge, and a tap device for each machine.
//!
//! What must stay true: whatever ends the lab, nothing of it outlives the next one's start. A
//! namespace belongs to the process that holds the lock of its name; a namespace whose lock is free
//! is a leftover, and every process in it was started by a lab.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use fault::{Fault, Kind};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::codes;

const PREFIX: &str = "plasma-lab-";
const LOCKS: &str = "/run/plasma-lab";
const NAMESPACES: &str = "/run/netns";
/// The name of the bridge inside each namespace.
pub const BRIDGE: &str = "br0";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with a bridge. Dropping it kills what runs inside, and removes it.
#[derive(Debug)]
pub struct Network {
    name: String,
    lock: PathBuf,
    _held: File,
}

impl Network {
    /// Makes one; `address` (`10.20.0.1/24`) is this host's on its bridge.
    pub fn create(address: &str) -> Result<Network> {
        sweep();
        fs::create_dir_all(LOCKS).with_context(|| format!("make {LOCKS}"))?;
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let lock = Path::new(LOCKS).join(&name);
        let held = open(&lock)?;
        held.try_lock().with_context(|| format!("lock {}", lock.display()))?;
        ip(&["netns", "add", &name])?;
        let network = Network { name, lock, _held: held };
        network.ip(&["link", "set", "lo", "up"])?;
        network.ip(&["link", "add", BRIDGE, "type", "bridge", "forward_delay", "0"])?;
        network.ip(&["address", "add", address, "dev", BRIDGE])?;
        network.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(network)
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes this thread into the network; the threads and processes it starts follow.
    pub fn enter(&self) -> Result<()> {
        let path = Path::new(NAMESPACES).join(&self.name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter {}", self.name))
    }

    /// A tap device on the bridge.
    pub fn tap(&self, name: &str) -> Result<()> {
        self.ip(&["tuntap", "add", "dev", name, "mode", "tap"])?;
        self.ip(&["link", "set", name, "master", BRIDGE])?;
        self.ip(&["link", "set", name, "up"])
    }

    /// Joins another network's bridge to this one's, as a cable between two switches.
    pub fn cable(&self, other: &Network) -> Result<()> {
        self.ip(&["link", "add", "cable", "type", "veth", "peer", "cable", "netns", &other.name])?;
        for side in [self, other] {
            side.ip(&["link", "set", "cable", "master", BRIDGE])?;
            side.ip(&["link", "set", "cable", "up"])?;
        }
        Ok(())
    }

    fn ip(&self, args: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(args);
        ip(&all)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
        let _ = fs::remove_file(&self.lock);
    }
}

/// Removes what labs that have ended left behind.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let lock = Path::new(LOCKS).join(&name);
        let _ = fs::create_dir_all(LOCKS);
        // held while it is removed, so that two sweeps do not meet
        if let Ok(file) = open(&lock)
            && file.try_lock().is_ok()
        {
            remove(&name);
            let _ = fs::remove_file(&lock);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

fn remove(name: &str) {
    // a process may start another one while it is being killed
    for _ in 0..10 {
        let others = inside(name);
        if others.is_empty() {
            break;
        }
        for pid in others {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let _ = ip(&["netns", "delete", name]);
}

/// The processes inside, but this one.
fn inside(name: &str) -> Vec<Pid> {
    let Ok(out) = Command::new("ip").args(["netns", "pids", name]).output() else {
        return Vec::new();
    };
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .filter_map(|word| word.parse::<i32>().ok())
        .filter(|&pid| pid != me && !is_dead(pid))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Ended, and only not yet waited for.
fn is_dead(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output();
    let out = out.map_err(|error| network(format!("run ip: {error}"), "install iproute2"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let what = format!("ip {}: {}", args.join(" "), said.trim());
    Err(network(what, "a network namespace needs root and a kernel with bridges and tap devices"))
}

fn network(what: String, hint: &str) -> anyhow::Error {
    Fault::new(codes::NETWORK, Kind::Unavailable, what, hint).into()
}

/// Why no network can be made here; none when one can.
pub fn lacking() -> Option<String> {
    if !Path::new("/dev/net/tun").exists() {
        return Some("/dev/net/tun is not there".to_owned());
    }
    match Network::create("10.255.255.1/24").and_then(|network| network.tap("try0")) {
        Ok(()) => None,
        Err(error) => Some(format!("no network namespace with a tap device: {error:#}")),
    }
}
