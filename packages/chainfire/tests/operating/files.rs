//! Files that are cut, flipped or not what they seem.

use super::{done, refused, text};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use testkit::{Cluster, Options};

/// Places to damage: the beginning, the end, and many between.
fn places(len: usize) -> impl Iterator<Item = usize> {
    let step = (len / 97).max(1);
    (0..80.min(len)).chain((80..len).step_by(step)).chain(len.saturating_sub(80)..len)
}

fn is_refused(path: &Path) -> Result<()> {
    match chainfire::backup::inspect(path, false) {
        Ok(found) => anyhow::bail!("taken for whole: {found:?}"),
        Err(fault) => {
            ensure!(["CF-6002", "CF-6003"].contains(&fault.code.0), "{fault}");
            ensure!(!fault.hint.is_empty());
            Ok(())
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_never_half_used() -> Result<()> {
    let cluster = Cluster::start_with(Options { members: 1, tls: false, ..Options::default() });
    let cluster = cluster.await?;
    let client = cluster.client()?;
    for n in 0..300 {
        client.put(format!("key{n}"), vec![n as u8; 300]).await?;
    }
    let lease = client.lease(std::time::Duration::from_secs(600)).await?;
    client.put_with_lease("leased", "1", lease.id()).await?;
    // Plaintext, and the settings tell the endpoint.
    let (file, settings) = (cluster.folder(0).join("a.backup"), cluster.settings(0));
    let said = done(&["backup", "save", "--config", text(&settings), text(&file)]).await?;
    ensure!(said.contains("sha256"), "{said}");
    let said = refused(&["backup", "save", "--config", text(&settings), text(&file)]).await?;
    ensure!(said.contains("CF-6001") && said.contains("exists"), "{said}");
    // And what etcd's client saves, which may be restored, too.
    let etcds = cluster.folder(0).join("etcdctl.db");
    let mut both = vec![file];
    let saved = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &cluster.endpoint(0), "snapshot", "save", text(&etcds)])
        .output();
    match saved {
        Ok(saved) => {
            ensure!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
            both.push(etcds);
        }
        Err(error) => println!("etcdctl is not installed ({error}): its file is not tried"),
    }
    let shown = |path: &Path| chainfire::backup::inspect(path, false);
    let damaged = cluster.folder(0).join("damaged");
    for path in &both {
        ensure!(shown(path)?.summary == shown(&both[0])?.summary, "{}", path.display());
        let bytes = std::fs::read(path)?;
        for at in places(bytes.len()) {
            let mut other = bytes.clone();
            other[at] ^= 1 << (at % 8);
            std::fs::write(&damaged, &other)?;
            is_refused(&damaged).with_context(|| format!("flipped at {at}"))?;
            std::fs::write(&damaged, &bytes[..at])?;
            is_refused(&damaged).with_context(|| format!("cut at {at}"))?;
        }
        std::fs::write(&damaged, [&bytes[..], b"more"].concat())?;
        is_refused(&damaged)?;
    }
    // By the commands: nothing is made of it.
    let said = refused(&["backup", "verify", text(&damaged)]).await?;
    ensure!(said.contains("CF-600"), "{said}");
    let mut new = Cluster::prepare(Options { members: 1, ..Options::default() })?;
    new.configure().await?;
    let settings = new.settings(0);
    refused(&["restore", "--config", text(&settings), text(&damaged)]).await?;
    ensure!(!new.data(0).join("member.json").exists());
    done(&["restore", "--config", text(&settings), text(&both[0])]).await?;
    Ok(())
}
