//! The few words of QEMU's machine protocol that the lab needs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

const LIMIT: Duration = Duration::from_secs(10);

/// One command, and what it returns.
pub(crate) async fn call(socket: &Path, command: &str) -> Result<Value> {
    let talk = async {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        answer(&mut stream).await?;
        for execute in ["qmp_capabilities", command] {
            let line = format!("{}\n", json!({ "execute": execute }));
            stream.get_mut().write_all(line.as_bytes()).await?;
            let value = loop {
                let value = answer(&mut stream).await?;
                // events come in between
                if value.get("return").is_some() || value.get("error").is_some() {
                    break value;
                }
            };
            if let Some(error) = value.get("error") {
                bail!("{execute}: {error}");
            }
            if execute == command {
                return Ok(value["return"].clone());
            }
        }
        bail!("no answer to {command}")
    };
    tokio::time::timeout(LIMIT, talk)
        .await
        .with_context(|| format!("{command} was not answered"))?
        .with_context(|| format!("{command} over {}", socket.display()))
}

async fn answer(stream: &mut BufReader<UnixStream>) -> Result<Value> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        bail!("the machine has gone");
    }
    Ok(serde_json::from_str(&line)?)
}
