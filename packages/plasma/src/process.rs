//! Processes of this machine, from /proc, and signals that cannot hit the wrong one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// In clock ticks since boot.
    pub(crate) started: u64,
    pub(crate) arguments: Vec<String>,
}

impl Process {
    /// The live process of this id; one that has ended and waits for its parent is not alive.
    pub(crate) fn of(pid: u32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the name in parentheses may hold anything, parentheses too
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        let started = fields.nth(18)?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = command
            .split(|b| *b == 0)
            .filter(|a| !a.is_empty())
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        Some(Process { pid, started, arguments })
    }

    /// Its program's name.
    pub(crate) fn name(&self) -> &str {
        let path = self.arguments.first().map_or("?", String::as_str);
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Sends a signal to exactly this process; false when it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // the handle names one process for ever; now see whether it is the one that was meant
        let same = Process::of(self.pid).is_some_and(|now| now.started == self.started);
        same && pidfd_send_signal(&handle, signal).is_ok()
    }

    /// Whether it still runs.
    pub(crate) fn lives(&self) -> bool {
        Process::of(self.pid).is_some_and(|now| now.started == self.started)
    }
}

/// All processes that can be seen.
pub(crate) fn all() -> impl Iterator<Item = Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?))
}

/// Waits until none of them lives; those that still do at the deadline come back.
pub(crate) async fn wait_gone(mut processes: Vec<Process>, patience: Duration) -> Vec<Process> {
    let deadline = Instant::now() + patience;
    loop {
        processes.retain(Process::lives);
        if processes.is_empty() || Instant::now() >= deadline {
            return processes;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Who listens on an address, when /proc tells: only for processes of the same user, or root.
pub(crate) fn holder(address: SocketAddr) -> Option<Process> {
    let sockets: Vec<String> = listening_inodes(address);
    if sockets.is_empty() {
        return None;
    }
    all().find(|process| {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", process.pid));
        fds.into_iter().flatten().flatten().any(|fd| {
            let target = std::fs::read_link(fd.path()).unwrap_or_default();
            target.to_str().is_some_and(|t| sockets.iter().any(|s| s == t))
        })
    })
}

/// `socket:[…]` of each listener that has this address, or all addresses of its port.
fn listening_inodes(address: SocketAddr) -> Vec<String> {
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let lines = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let mut inodes = Vec::new();
    for table in lines {
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&state), Some(inode)) =
                (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            if state == LISTEN && is_local(local, address) {
                inodes.push(format!("socket:[{inode}]"));
            }
        }
    }
    inodes
}

/// `0100007F:1F90` against an address; the kernel prints IPv4 as a little-endian number here.
fn is_local(field: &str, address: SocketAddr) -> bool {
    let Some((host, port)) = field.split_once(':') else { return false };
    if u16::from_str_radix(port, 16) != Ok(address.port()) {
        return false;
    }
    if host.bytes().all(|b| b == b'0') {
        return true;
    }
    match address {
        SocketAddr::V4(v4) => {
            let number = u32::from_ne_bytes(v4.ip().octets());
            host.ends_with(&format!("{number:08X}"))
        }
        SocketAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_and_holds_its_ports() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.lives() && !me.arguments.is_empty() && me.started > 0);
        assert_eq!(holder(address).map(|p| p.pid), Some(me.pid));
        drop(listener);
        assert!(holder(address).is_none());
    }

    #[test]
    fn a_recycled_id_is_never_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let seen = Process::of(child.id()).unwrap();
        let other = Process { started: seen.started + 1, ..seen.clone() };
        assert!(!other.signal(Signal::KILL) && seen.lives());
        assert!(seen.signal(Signal::KILL));
        child.wait().unwrap();
        assert!(!seen.lives() && !seen.signal(Signal::KILL));
    }
}
