//! Damage and want on the disk.

use crate::bad_input::refuses;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::workload::serves_again;
use testkit::{Cluster, Options};

/// The journal's segments, in order.
fn segments(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "segment") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The segment that was written last, its bytes, and where its data ends.
fn tail(dir: &Path) -> Result<(PathBuf, Vec<u8>, usize)> {
    for path in segments(dir)?.into_iter().rev() {
        let bytes = fs::read(&path)?;
        // The header page alone is no data.
        match bytes.iter().rposition(|byte| *byte != 0) {
            Some(last) if last >= 4096 => return Ok((path, bytes, last + 1)),
            _ => {}
        }
    }
    anyhow::bail!("no journal with data under {}", dir.display())
}

/// What a power cut in the middle of a write leaves: half a frame. It was never acknowledged.
#[tokio::test]
async fn a_torn_tail_is_cut() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    for number in 0..100 {
        client.put(format!("k{number}"), "kept").await?;
    }
    cluster.kill(0);
    let (path, mut bytes, end) = tail(cluster.data(0))?;
    // The beginning of the last frame again, where the next one would stand, then nothing.
    let next = end.next_multiple_of(16);
    let piece: Vec<u8> = bytes[next - 48..next].to_vec();
    ensure!(next + 48 < bytes.len(), "the segment is full to the brim");
    bytes[next..next + 48].copy_from_slice(&piece);
    fs::write(&path, &bytes)?;
    cluster.spawn(0)?;
    cluster.ready(0).await?;
    ensure!(client.prefix("k").await?.kvs.len() == 100);
    client.put("after", "v").await?;
    Ok(())
}

/// Damage amid what was acknowledged is no torn tail: it is told, never cut.
#[tokio::test]
async fn a_damaged_journal_is_told_and_not_cut() -> Result<()> {
    let mut cluster = Cluster::start_with(Options { members: 1, ..Options::default() }).await?;
    let client = cluster.client()?;
    for number in 0..100 {
        client.put(format!("k{number}"), vec![b'v'; 500]).await?;
    }
    cluster.kill(0);
    let (path, bytes, end) = tail(cluster.data(0))?;
    let mut damaged = bytes.clone();
    damaged[4096 + (end - 4096) / 2] ^= 0x10;
    fs::write(&path, &damaged)?;
    let said = refuses(&cluster, cluster.command(0)).await?;
    ensure!(said.contains("JR-") || said.contains("CF-4006"), "no code: {said}");
    let name = path.file_name().and_then(|name| name.to_str()).context("name")?;
    ensure!(said.contains(name), "the file is not named: {said}");

    fs::write(&path, &bytes)?;
    cluster.spawn(0)?;
    cluster.ready(0).await?;
    ensure!(client.prefix("k").await?.kvs.len() == 100);
    Ok(())
}

/// A small file system of its own, unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(dir: &Path, mib: u32) -> Option<Tmpfs> {
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "plasma-test"]).arg(dir);
        let done = mount.output().is_ok_and(|output| output.status.success());
        done.then(|| Tmpfs(dir.to_owned()))
    }

    fn grow(&self, mib: u32) -> Result<()> {
        let size = format!("remount,size={mib}m");
        let grown = Command::new("mount").args(["-o", &size]).arg(&self.0).status()?;
        ensure!(grown.success(), "remount");
        Ok(())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A disk that fills up: writes end with an error, what was acknowledged stays, and with more room
/// the member goes on.
#[tokio::test]
async fn a_full_disk_loses_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(tmpfs) = Tmpfs::mount(dir.path(), 320) else {
        println!("skipped: a small file system can be mounted only by root");
        return Ok(());
    };
    let mut cluster = Cluster::start_with(Options {
        members: 1,
        data: Some(dir.path().to_owned()),
        ..Options::default()
    })
    .await?;
    // That the disk is full is an error someone must act on.
    cluster.expect_error("");
    let client = cluster.client()?;
    let mut acked = Vec::new();
    let refused = loop {
        let key = format!("k{:05}", acked.len());
        ensure!(acked.len() < 5000, "5000 values of 256 KiB fit into 320 MiB");
        // Values that do not compress.
        let mut value = vec![0u8; 256 << 10];
        let mut seed = acked.len() as u64 + 1;
        for chunk in value.chunks_mut(8) {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&seed.to_le_bytes()[..chunk.len()]);
        }
        match client.put(key.clone(), value).await {
            Ok(revision) => acked.push((key, revision)),
            Err(error) => break error,
        }
    };
    println!("after {} values of 256 KiB: {refused}", acked.len());
    // It says so once it has noticed, with a code, and stops or goes on; it does not panic.
    testkit::eventually("the log says that the disk is full", Duration::from_secs(30), || async {
        let log = fs::read_to_string(cluster.log(0))?;
        ensure!(!log.contains("panicked"), "{log}");
        let said = log.lines().find(|line| {
            ["JR-", "EN-"].iter().any(|code| line.contains(code)) && line.contains("no space left")
        });
        println!("{}", said.context("no code and reason in the log")?);
        Ok(())
    })
    .await?;

    // Whether it went on without writing or stopped: with more room, all is there.
    tmpfs.grow(2048)?;
    cluster.kill(0);
    cluster.spawn(0)?;
    cluster.ready(0).await?;
    {
        let there = client.prefix("k").await?;
        for (key, revision) in &acked {
            let kv = there.kvs.iter().find(|kv| kv.key == key.as_bytes());
            ensure!(kv.is_some_and(|kv| kv.mod_revision == *revision), "lost: {key}");
        }
    }
    tokio::time::timeout(Duration::from_secs(60), serves_again(&client)).await??;
    drop(cluster);
    drop(tmpfs);
    Ok(())
}
