//! Limits on parts of the key space, and who may ask: by the command that is typed, and as monitoring
//! shows them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::auth_client::AuthClient;
use api::etcdserverpb::*;
use chainfire_client::{Client, Credentials, Options};
use testkit::Cluster;
use testkit::net::http_get;

use super::{done, refused, text};

/// `chainfire quota` with these words, at a member by the operator's certificate.
fn asked<'w>(words: &[&'w str], endpoint: &'w str, tls: &'w str) -> Vec<&'w str> {
    [&["quota"], words, &["--endpoint", endpoint, "--tls", tls]].concat()
}

/// The value of a series.
async fn series(cluster: &Cluster, name: &str) -> Result<f64> {
    let [.., ops] = cluster.listeners(0);
    let (_, body) = http_get(ops, "/metrics", Duration::from_secs(60)).await?;
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name} in\n{body}"))?.parse()?)
}

#[tokio::test]
async fn quotas_by_command_and_in_monitoring() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    let (endpoint, tls) = (cluster.endpoint(0), cluster.operator().cert.clone());
    let tls = text(tls.parent().context("no folder")?);
    let run = |words: &[&'static str]| {
        let words: Vec<String> = asked(words, &endpoint, tls).iter().map(|w| (*w).into()).collect();
        async move { done(&words.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    client.put("team/a", "1").await?;
    let said = run(&["set", "team/", "--keys", "2", "--bytes", "1KiB"]).await?;
    ensure!(said.contains("1 of 2") && said.contains("7 of 1024") && said.contains("team/"));
    // what is not named stays
    run(&["set", "team/", "--requests-per-second", "1000"]).await?;
    run(&["set", "", "--keys", "100"]).await?;
    let listed = run(&["list", "-o", "json"]).await?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    ensure!(listed[0]["prefix"] == "" && listed[0]["keys_limit"] == 100, "{listed}");
    let team = &listed[1];
    ensure!(team["keys"] == 1 && team["keys_limit"] == 2 && team["bytes_limit"] == 1024, "{team}");
    ensure!(team["requests_per_second_limit"] == 1000, "{team}");

    client.put("team/b", "1").await?;
    ensure!(client.put("team/c", "1").await.is_err());
    ensure!(client.put("team/a", "x".repeat(2000)).await.is_err());
    for (name, expected) in [
        ("chainfire_namespace_keys{prefix=\"team/\"}", 2.0),
        ("chainfire_namespace_keys_limit{prefix=\"team/\"}", 2.0),
        ("chainfire_namespace_bytes{prefix=\"team/\"}", 14.0),
        ("chainfire_namespace_bytes_limit{prefix=\"team/\"}", 1024.0),
        ("chainfire_namespace_keys{prefix=\"\"}", 2.0),
        ("chainfire_quota_refusals_total{limit=\"keys\"}", 1.0),
        ("chainfire_quota_refusals_total{limit=\"bytes\"}", 1.0),
    ] {
        let found = series(&cluster, name).await?;
        ensure!(found == expected, "{name}: {found}");
    }
    run(&["set", "team/", "--requests-per-second", "1"]).await?;
    let mut reads = 0;
    while client.get("team/a").await.is_ok() {
        reads += 1;
        ensure!(reads < 1000, "nothing is refused");
    }
    ensure!(series(&cluster, "chainfire_quota_refusals_total{limit=\"requests\"}").await? >= 1.0);

    run(&["remove", "team/"]).await?;
    let missing = series(&cluster, "chainfire_namespace_keys_limit{prefix=\"team/\"}").await;
    ensure!(missing.is_err(), "a quota that is gone is shown");
    for (words, why) in [
        (&["remove", "team/"][..], "CF-1021"),
        (&["set", "team/"], "required"),
        (&["set", "team/", "--bytes", "1MB"], "KiB, MiB or GiB"),
    ] {
        let said = refused(&asked(words, &endpoint, tls)).await?;
        ensure!(said.contains(why), "{words:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn who_is_refused_is_counted() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let mut auth = AuthClient::new(cluster.channel(0)?);
    let root = || "root".to_owned();
    let password = "secret".to_owned();
    auth.user_add(AuthUserAddRequest { name: root(), password, ..Default::default() }).await?;
    auth.user_grant_role(AuthUserGrantRoleRequest { user: root(), role: root() }).await?;
    auth.role_add(AuthRoleAddRequest { name: "r".to_owned() }).await?;
    let (name, password) = ("u".to_owned(), "secret".to_owned());
    auth.user_add(AuthUserAddRequest { name, password, ..Default::default() }).await?;
    ensure!(series(&cluster, "chainfire_auth_enabled").await? == 0.0);
    auth.auth_enable(AuthEnableRequest {}).await?;

    let login = |name: &str, password: &str| {
        let credentials = Some(Credentials::new(name, password));
        let options = Options { credentials, ..Options::default() };
        Client::connect_with([cluster.endpoint(0)], cluster.tls()?, options)
            .map_err(anyhow::Error::from)
    };
    let denied = login("u", "secret")?;
    let permission = "chainfire_auth_refusals_total{reason=\"permission\"}";
    // the first call logs in, and may be refused once more before that
    ensure!(denied.get("a").await.is_err());
    let before = series(&cluster, permission).await?;
    ensure!(before >= 1.0);
    ensure!(denied.get("a").await.is_err() && denied.put("a", "1").await.is_err());
    ensure!(series(&cluster, permission).await? == before + 2.0);
    ensure!(login("u", "guess")?.get("a").await.is_err());
    for (name, expected) in [
        ("chainfire_auth_enabled", 1.0),
        ("chainfire_users", 2.0),
        ("chainfire_roles", 1.0),
        ("chainfire_auth_refusals_total{reason=\"login\"}", 1.0),
    ] {
        let found = series(&cluster, name).await?;
        ensure!(found == expected, "{name}: {found}");
    }
    let revision = series(&cluster, "chainfire_auth_revision").await?;
    ensure!(revision == series(&cluster, "etcd_debugging_auth_revision").await? && revision > 1.0);

    // the command asks as the user that it is told to be
    let endpoint = cluster.endpoint(0);
    let tls = cluster.operator().cert.clone();
    let tls = text(tls.parent().context("no folder")?);
    let file = cluster.folder(0).join("password");
    std::fs::write(&file, "secret\n")?;
    #[cfg(unix)]
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let file = text(&file);
    let words = asked(&["list", "--password-file", file, "--user"], &endpoint, tls);
    let by = |name: &'static str| {
        let mut words = words.clone();
        words.insert(5, name);
        words
    };
    done(&by("root")).await?;
    let said = refused(&by("u")).await?;
    ensure!(said.contains("permission denied"), "{said}");
    Ok(())
}
