//! Addresses that no other test has, and the little HTTP that readiness needs.

use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Some 250 loopback addresses, `127.A.B.1` and on, that are this holder's alone: with them every
/// member can have the standard ports, and keep them over restarts.
#[derive(Debug)]
pub struct Block {
    prefix: (u8, u8),
    /// Held as long as the block is: binding it is what claims the block among all processes.
    _claim: TcpListener,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Block {
    /// Claims a block.
    pub fn claim() -> Result<Block> {
        for _ in 0..4096 {
            let count = NEXT.fetch_add(1, Ordering::Relaxed);
            let place = std::process::id().wrapping_mul(97).wrapping_add(count);
            let [low, high, ..] = place.to_le_bytes();
            let prefix = (64 + high % 64, low);
            let address = Ipv4Addr::new(127, prefix.0, prefix.1, 254);
            if let Ok(claim) = TcpListener::bind((address, 2379)) {
                return Ok(Block { prefix, _claim: claim });
            }
        }
        bail!("no free block of loopback addresses")
    }

    /// The address with this number, from 1 to 250.
    pub fn address(&self, number: u8) -> Ipv4Addr {
        assert!((1..=250).contains(&number), "addresses go from 1 to 250");
        Ipv4Addr::new(127, self.prefix.0, self.prefix.1, number)
    }
}

/// GET over plain HTTP/1.1: status and body.
pub async fn http_get(address: SocketAddr, path: &str, limit: Duration) -> Result<(u16, String)> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(16 << 20).read_to_end(&mut answer).await?;
        let text = String::from_utf8_lossy(&answer);
        let status = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status.context("not an HTTP answer")?, body.to_owned()))
    };
    tokio::time::timeout(limit, talk).await.with_context(|| format!("GET {address}{path}"))?
}
