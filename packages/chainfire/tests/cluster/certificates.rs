//! Certificates that are missing, unreadable, foreign or too old.

use crate::bad_input::refuses;
use anyhow::{Result, ensure};
use chainfire_client::Client;
use identity::TlsFiles;
use std::path::PathBuf;
use testkit::Cluster;
use testkit::certificates::Certificates;

/// The member's own files, and copies to put back.
struct Files {
    files: TlsFiles,
    good: [(PathBuf, Vec<u8>); 3],
}

impl Files {
    fn of(cluster: &Cluster) -> Result<Files> {
        let files = TlsFiles::in_dir(cluster.folder(0).join("tls"));
        let copy = |path: &PathBuf| anyhow::Ok((path.clone(), std::fs::read(path)?));
        let good = [copy(&files.cert)?, copy(&files.key)?, copy(&files.ca)?];
        Ok(Files { files, good })
    }

    fn restore(&self) -> Result<()> {
        for (path, bytes) in &self.good {
            std::fs::write(path, bytes)?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_bad_certificate_stops_the_start_and_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    client.put("k", "kept").await?;
    cluster.kill(0);
    let files = Files::of(&cluster)?;
    let address = match cluster.listeners(0)[0].ip() {
        std::net::IpAddr::V4(address) => address,
        std::net::IpAddr::V6(_) => unreachable!("testkit gives out IPv4"),
    };
    let scratch = cluster.folder(0).join("other");
    let foreign = Certificates::create("test", &scratch.join("ca"))?.service(
        "chainfire",
        cluster.name(0),
        address,
        &scratch.join("foreign"),
    )?;
    let expired = cluster.certificates().expired(
        "chainfire",
        cluster.name(0),
        address,
        &scratch.join("expired"),
    )?;

    type Spoil<'a> = Box<dyn Fn() -> Result<()> + 'a>;
    let over = |from: &PathBuf, to: &PathBuf| anyhow::Ok(std::fs::copy(from, to).map(|_| ())?);
    let spoils: [(&str, &str, Spoil<'_>); 6] = [
        ("no certificate", "cert.pem", Box::new(|| Ok(std::fs::remove_file(&files.files.cert)?))),
        (
            "a certificate that is none",
            "cert.pem",
            Box::new(|| Ok(std::fs::write(&files.files.cert, "x")?)),
        ),
        ("no key", "key.pem", Box::new(|| Ok(std::fs::remove_file(&files.files.key)?))),
        ("a key of another", "key", Box::new(|| over(&foreign.key, &files.files.key))),
        (
            "an expired certificate",
            "expired",
            Box::new(|| {
                over(&expired.cert, &files.files.cert)?;
                over(&expired.key, &files.files.key)
            }),
        ),
        (
            "a certificate of another CA",
            "CA",
            Box::new(|| {
                over(&foreign.cert, &files.files.cert)?;
                over(&foreign.key, &files.files.key)
            }),
        ),
    ];
    for (name, word, spoil) in &spoils {
        spoil()?;
        let said = refuses(&cluster, cluster.command(0)).await?;
        ensure!(said.contains("RPC-") || said.contains("ID-"), "{name}: no code in: {said}");
        ensure!(
            said.to_lowercase().contains(&word.to_lowercase()),
            "{name}: no {word:?} in: {said}"
        );
        files.restore()?;
    }
    cluster.spawn(0)?;
    cluster.ready(0).await?;
    ensure!(client.get("k").await?.is_some());
    Ok(())
}

/// Clients without a certificate of the cluster's CA get nothing.
#[tokio::test]
async fn strangers_get_nothing() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    cluster.client()?.put("k", "v").await?;
    let scratch = cluster.folder(0).join("other");
    let strangers = Certificates::create("test", &scratch.join("ca"))?;
    let mut files = strangers.operator("admin", &scratch.join("operator"))?;
    // It trusts the server, so that it is the server that refuses.
    files.ca = TlsFiles::in_dir(cluster.folder(0).join("tls")).ca;
    let options = chainfire_client::Options {
        deadline: std::time::Duration::from_secs(2),
        ..chainfire_client::Options::default()
    };
    if let Ok(tls) = rpc::Tls::load(&files) {
        let stranger = Client::connect_with([cluster.endpoint(0)], Some(tls), options.clone())?;
        let got = stranger.get("k").await;
        ensure!(got.is_err(), "a stranger read {got:?}");
    }
    let plain = cluster.endpoint(0).replace("https", "http");
    let got = Client::connect_with([plain], None, options)?.get("k").await;
    ensure!(got.is_err(), "read without TLS: {got:?}");
    cluster.client()?.get("k").await?;
    Ok(())
}
