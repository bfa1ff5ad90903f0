//! The network between members, with faults.
//!
//! A member advertises the address of a proxy that this process owns, so all its peers reach it
//! through here. Who dialled is read from /proc: the socket's inode is looked for among the open
//! files of the known processes. A connection carries bytes both ways, so cutting `a → b` holds
//! back what `a` sends on connections it made to `b`, and what it answers on those `b` made to it.
//!
//! Bytes of a cut link are held, not lost: they arrive late, after healing, as from a network that
//! sends again. New connections over a cut link hang.

use anyhow::{Context, Result};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a new connection hangs before the dialler is let go.
const HANGS: Duration = Duration::from_secs(20);

/// What is wrong with the network, by direction.
#[derive(Debug, Default, Clone)]
struct Faults {
    cut: HashSet<(usize, usize)>,
    slow: HashMap<(usize, usize), Duration>,
}

/// All links between the members of a cluster. Dropping it closes every connection through it.
#[derive(Debug)]
pub struct Links {
    faults: watch::Sender<Faults>,
    pids: Arc<Mutex<HashMap<u32, usize>>>,
    proxies: JoinSet<()>,
}

impl Default for Links {
    fn default() -> Links {
        let (faults, _) = watch::channel(Faults::default());
        Links { faults, pids: Arc::default(), proxies: JoinSet::new() }
    }
}

impl Links {
    /// Tells which process a member is now.
    pub fn is_process(&self, member: usize, pid: u32) {
        let mut pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        pids.retain(|_, known| *known != member);
        pids.insert(pid, member);
    }

    /// Opens the way to a member: `listen` is what it advertises, `target` where it listens.
    pub async fn open(&mut self, to: usize, listen: SocketAddr, target: SocketAddr) -> Result<()> {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("proxy on {listen}"))?;
        let (faults, pids) = (self.faults.subscribe(), self.pids.clone());
        self.proxies.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((inbound, dialler)) = listener.accept().await {
                let link = Link { to, faults: faults.clone() };
                connections.spawn(link.serve(inbound, dialler, target, pids.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(())
    }

    /// Cuts one direction.
    pub fn cut(&self, from: usize, to: usize) {
        self.faults.send_modify(|faults| {
            faults.cut.insert((from, to));
        });
    }

    /// Slows one direction down: each piece of at most 64 KiB arrives so much later, and the next
    /// one after it.
    pub fn slow(&self, from: usize, to: usize, by: Duration) {
        self.faults.send_modify(|faults| {
            faults.slow.insert((from, to), by);
        });
    }

    /// Cuts a member off from all others, both ways.
    pub fn isolate(&self, member: usize, members: usize) {
        self.faults.send_modify(|faults| {
            for other in (0..members).filter(|other| *other != member) {
                faults.cut.insert((member, other));
                faults.cut.insert((other, member));
            }
        });
    }

    /// Heals everything.
    pub fn heal(&self) {
        self.faults.send_modify(|faults| *faults = Faults::default());
    }
}

struct Link {
    to: usize,
    faults: watch::Receiver<Faults>,
}

impl Link {
    async fn serve(
        self,
        inbound: TcpStream,
        dialler: SocketAddr,
        target: SocketAddr,
        pids: Arc<Mutex<HashMap<u32, usize>>>,
    ) {
        let known = pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let from = who_dialled(dialler, &known);
        let mut faults = self.faults.clone();
        if tokio::time::timeout(HANGS, whole(&mut faults, from, Some(self.to))).await.is_err() {
            return;
        }
        let Ok(outbound) = TcpStream::connect(target).await else { return };
        let _ = inbound.set_nodelay(true);
        let _ = outbound.set_nodelay(true);
        let (from_dialler, to_dialler) = inbound.into_split();
        let (from_target, to_target) = outbound.into_split();
        tokio::select! {
            () = pump(from_dialler, to_target, self.faults.clone(), from, Some(self.to)) => {}
            () = pump(from_target, to_dialler, self.faults.clone(), Some(self.to), from) => {}
        }
    }
}

/// Returns when the direction is not cut. A dialler that is no member is never cut off.
async fn whole(faults: &mut watch::Receiver<Faults>, from: Option<usize>, to: Option<usize>) {
    let (Some(from), Some(to)) = (from, to) else { return };
    // An error means that the links are gone; their tasks are being ended.
    let _ = faults.wait_for(|faults| !faults.cut.contains(&(from, to))).await;
}

async fn pump(
    mut source: impl AsyncRead + Unpin,
    mut sink: impl AsyncWrite + Unpin,
    mut faults: watch::Receiver<Faults>,
    from: Option<usize>,
    to: Option<usize>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match source.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let by = from.zip(to).and_then(|way| faults.borrow().slow.get(&way).copied());
        if let Some(by) = by {
            tokio::time::sleep(by).await;
        }
        whole(&mut faults, from, to).await;
        if sink.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Which of the known processes owns the socket with this local address.
fn who_dialled(dialler: SocketAddr, pids: &HashMap<u32, usize>) -> Option<usize> {
    let SocketAddr::V4(address) = dialler else { return None };
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let inode = table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.nth(1)? == local).then(|| fields.nth(7)).flatten()
    })?;
    let socket = format!("socket:[{inode}]");
    pids.iter().find_map(|(pid, member)| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let owns = |file: std::fs::DirEntry| {
            std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
        };
        files.flatten().any(owns).then_some(*member)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_cut_link_holds_bytes_until_it_heals_and_a_slow_one_delays_them() {
        let target = echo().await;
        let mut links = Links::default();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        links.open(1, listen, target).await.unwrap();
        links.is_process(0, std::process::id()); // this process plays member 0

        let mut stream = TcpStream::connect(listen).await.unwrap();
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();

        for (from, to) in [(0, 1), (1, 0)] {
            links.cut(from, to);
            stream.write_all(b"held").await.unwrap();
            let wait = Duration::from_millis(100);
            let early = tokio::time::timeout(wait, stream.read_exact(&mut answer)).await;
            assert!(early.is_err(), "bytes came through a cut link {from} to {to}");
            links.heal();
            tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer))
                .await
                .expect("bytes come after healing")
                .unwrap();
            assert_eq!(&answer, b"held");
        }

        let by = Duration::from_millis(50);
        links.slow(0, 1, by);
        let begun = std::time::Instant::now();
        stream.write_all(b"late").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert!(begun.elapsed() >= by && &answer == b"late");
    }
}
