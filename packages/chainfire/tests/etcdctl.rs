//! Debian's own etcdctl against one member over mutual TLS.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use chainfire::{Member, Settings};
use identity::TlsFiles;
use testkit::certificates::Certificates;
use tokio_util::sync::CancellationToken;

const ETCDCTL: &str = "etcdctl";

struct Secure {
    member: Member,
    operator: TlsFiles,
    dir: tempfile::TempDir,
}

impl Secure {
    async fn start() -> Result<Secure> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let authority = Certificates::create("test", &at("ca"))?;
        let local = std::net::Ipv4Addr::LOCALHOST;
        let service = authority.service("chainfire", "one", local, &at("service"))?;
        let operator = authority.operator("admin", &at("operator"))?;
        let text = format!(
            r#"
            name = "one"
            data_dir = "{}"
            cluster_id = "018f0000-0000-7000-8000-000000000001"
            initial = "form"
            [client]
            listen = "127.0.0.1:0"
            [peer]
            listen = "127.0.0.1:0"
            [tls]
            cert = "{}"
            key = "{}"
            ca = "{}"
            "#,
            at("data").display(),
            service.cert.display(),
            service.key.display(),
            service.ca.display(),
        );
        let settings: Settings = settings::parse(Path::new("test.toml"), &text)?;
        let member = chainfire::start(settings, CancellationToken::new()).await?;
        Ok(Secure { member, operator, dir })
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let address = self.member.endpoints().client.clone().context("no client listener")?;
        let mut command = Command::new(ETCDCTL);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=https://{address}"))
            .arg(format!("--cacert={}", self.operator.ca.display()))
            .arg(format!("--cert={}", self.operator.cert.display()))
            .arg(format!("--key={}", self.operator.key.display()))
            .args(words);
        Ok(command)
    }

    async fn output(&self, words: &[&str], input: &str) -> Result<Output> {
        use std::io::Write;
        let mut command = self.command(words)?;
        let input = input.to_owned();
        let run = move || -> Result<Output> {
            let mut child = command
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()?;
            child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
            Ok(child.wait_with_output()?)
        };
        tokio::task::spawn_blocking(run).await?
    }

    /// What it prints, both streams; it must succeed.
    async fn ctl(&self, words: &[&str]) -> Result<String> {
        self.ctl_with(words, "").await
    }

    async fn ctl_with(&self, words: &[&str], input: &str) -> Result<String> {
        let output = self.output(words, input).await?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        if !output.status.success() {
            bail!("etcdctl {words:?}: {}\n{out}{err}", output.status);
        }
        Ok(out + &err)
    }
}

fn installed() -> bool {
    Command::new(ETCDCTL).arg("version").env("ETCDCTL_API", "3").output().is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_does_its_work() -> Result<()> {
    if !installed() {
        tracing::warn!("etcdctl is not installed: install etcd-client");
        return Ok(());
    }
    let secure = Secure::start().await?;
    ensure!(secure.ctl(&["put", "a", "1"]).await? == "OK\n");
    ensure!(secure.ctl(&["get", "a"]).await? == "a\n1\n");
    ensure!(secure.ctl(&["put", "a", "2", "--prev-kv"]).await?.contains("a\n1\n"));
    ensure!(secure.ctl(&["get", "a", "--rev=2"]).await? == "a\n1\n");
    secure.ctl(&["put", "b", "3"]).await?;
    ensure!(secure.ctl(&["get", "", "--prefix", "--keys-only"]).await? == "a\n\nb\n\n");
    let txn = "mod(\"a\") = \"3\"\n\nput a 5\nget a\n\nget b\n\n";
    let said = secure.ctl_with(&["txn"], txn).await?;
    ensure!(said.starts_with("SUCCESS\n\nOK\n\na\n5\n"), "{said:?}");
    ensure!(secure.ctl(&["del", "b"]).await? == "1\n");

    let granted = secure.ctl(&["lease", "grant", "60"]).await?;
    let lease = granted.split_whitespace().nth(1).context("a lease")?.to_owned();
    secure.ctl(&["put", "leased", "1", &format!("--lease={lease}")]).await?;
    let left = secure.ctl(&["lease", "timetolive", &lease, "--keys"]).await?;
    ensure!(left.contains("TTL(60s)") && left.contains("leased"), "{left}");
    ensure!(secure.ctl(&["lease", "list"]).await?.contains(&lease));
    ensure!(secure.ctl(&["lease", "keep-alive", "--once", &lease]).await?.contains("TTL(60)"));
    secure.ctl(&["lease", "revoke", &lease]).await?;
    ensure!(secure.ctl(&["get", "leased"]).await?.is_empty());

    let members = secure.ctl(&["member", "list", "-w", "table"]).await?;
    ensure!(members.contains("started") && members.contains("one"), "{members}");
    ensure!(secure.ctl(&["endpoint", "health"]).await?.contains("is healthy"));
    let status = secure.ctl(&["endpoint", "status", "-w", "table"]).await?;
    ensure!(status.contains("true") && status.contains("3.6.0"), "{status}");
    ensure!(secure.ctl(&["endpoint", "hashkv"]).await?.contains("127.0.0.1"));
    ensure!(secure.ctl(&["alarm", "list"]).await?.is_empty());
    ensure!(secure.ctl(&["compaction", "4"]).await?.contains("compacted revision 4"));
    let refused = secure.output(&["get", "a", "--rev=2"], "").await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.contains("required revision has been compacted"), "{said}");
    ensure!(secure.ctl(&["defrag"]).await?.contains("Finished defragmenting"));
    let file = secure.dir.path().join("backup");
    let file = file.to_str().context("path")?;
    ensure!(secure.ctl(&["snapshot", "save", file]).await?.contains("Snapshot saved"));
    ensure!(std::fs::metadata(file)?.len() % 512 == 32, "blocks and a checksum");
    secure.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_history_and_what_comes() -> Result<()> {
    if !installed() {
        return Ok(());
    }
    let secure = Secure::start().await?;
    secure.ctl(&["put", "w", "1"]).await?;
    let mut child = secure
        .command(&["watch", "w", "--rev=2", "--prev-kv"])?
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("stdout")?;
    let lines = tokio::task::spawn_blocking(move || {
        use std::io::BufRead;
        let lines = std::io::BufReader::new(out).lines();
        lines.take(8).collect::<Result<Vec<_>, _>>()
    });
    secure.ctl(&["put", "w", "2"]).await?;
    let lines = tokio::time::timeout(std::time::Duration::from_secs(20), lines).await;
    child.kill()?;
    child.wait()?;
    let lines = lines???;
    ensure!(lines == ["PUT", "w", "1", "PUT", "w", "1", "w", "2"], "{lines:?}");
    secure.member.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nobody_comes_in() -> Result<()> {
    if !installed() {
        return Ok(());
    }
    let secure = Secure::start().await?;
    let address = secure.member.endpoints().client.clone().context("no client listener")?;
    let run = move |ca: Option<std::path::PathBuf>| {
        let mut command = Command::new(ETCDCTL);
        command
            .env("ETCDCTL_API", "3")
            .args(["--command-timeout=1s", "--dial-timeout=1s"])
            .arg(format!("--endpoints=https://{address}"))
            .args(ca.map(|ca| format!("--cacert={}", ca.display())))
            .args(["get", "a"])
            .output()
    };
    let ca = secure.operator.ca.clone();
    let with_ca = tokio::task::spawn_blocking(move || run(Some(ca))).await??;
    ensure!(!with_ca.status.success(), "{with_ca:?}");
    ensure!(secure.ctl(&["put", "a", "1"]).await? == "OK\n");
    secure.member.stop().await;
    Ok(())
}
