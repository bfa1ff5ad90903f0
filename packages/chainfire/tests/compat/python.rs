//! Python's `etcd3` (gRPC) and `etcd3gw` (the JSON gateway), as their documentation shows them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::ctl::{cache, skipped};
use crate::one::One;

async fn run(script: &str) -> Result<()> {
    let python = cache().map(|cache| cache.join("python-etcd/bin/python"));
    let Some(python) = python.filter(|python| python.exists()) else {
        return skipped("Python with etcd3 and etcd3gw");
    };
    let one = One::start().await?;
    let address = one.address()?;
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
    let root = std::env::var_os("CARGO_MANIFEST_DIR").context("run by cargo")?;
    let script = Path::new(&root).join("tests/compat").join(script);
    let mut command = Command::new(python);
    command
        .arg(script)
        .args([host, port])
        .args([&one.operator.ca, &one.operator.cert, &one.operator.key])
        // what the environment names goes before the CA that the script names
        .env_remove("REQUESTS_CA_BUNDLE")
        .env_remove("CURL_CA_BUNDLE")
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // what the library's generated code needs under a newer protobuf
        .env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    ensure!(said(&output.stdout).ends_with("done\n"), "{}", said(&output.stdout));
    one.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_etcd3() -> Result<()> {
    run("etcd3_client.py").await
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_etcd3gw() -> Result<()> {
    run("etcd3gw_client.py").await
}
