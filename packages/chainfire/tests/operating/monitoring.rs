//! What monitoring reads: metrics, probes, gRPC health. And that the dashboard, the alerts and the
//! operator's page name nothing that is not there.

use anyhow::{Context, Result, bail, ensure};
use chainfire_client::{Quota, Watch};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::net::http_get;
use testkit::{Cluster, Options, eventually};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const PATIENCE: Duration = Duration::from_secs(60);

/// What is exported: metric to its label names.
type Exported = BTreeMap<String, BTreeSet<String>>;

/// Reads Prometheus' text; a line that is none fails.
fn read(text: &str, into: &mut Exported) -> Result<()> {
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, rest) = match line.split_once('{') {
            Some((name, rest)) => (name, rest.split_once('}').context(line.to_owned())?.0),
            None => (line.split_once(' ').context(line.to_owned())?.0, ""),
        };
        let value = line.rsplit(' ').next().unwrap_or_default();
        ensure!(value.parse::<f64>().is_ok(), "{line}");
        let labels = into.entry(name.to_owned()).or_default();
        for label in rest.split(',').filter_map(|pair| pair.split_once('=')) {
            labels.insert(label.0.to_owned());
        }
    }
    Ok(())
}

async fn scrape(cluster: &Cluster, place: usize) -> Result<String> {
    let [.., ops] = cluster.listeners(place);
    let (status, body) = http_get(ops, "/metrics", PATIENCE).await?;
    ensure!(status == 200, "{status}");
    Ok(body)
}

/// The value of a metric, over all its labels.
fn value(text: &str, name: &str) -> Option<f64> {
    let of = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    };
    let values: Vec<f64> =
        text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// The folder of the docs, found where the test runs.
fn docs() -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    let found = here
        .ancestors()
        .map(|folder| folder.join("docs"))
        .find(|docs| docs.join("monitoring/chainfire.json").is_file());
    found.context("docs/monitoring is not above the test's folder")
}

const PREFIXES: [&str; 7] =
    ["chainfire_", "consensus_", "etcd_", "journal_", "plasma_", "process_", "rpc_"];

/// Words of a text that are metrics by their prefix, each with the labels that its braces name.
fn named(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find(word) {
        rest = &rest[begin..];
        let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with('_') {
            continue;
        }
        let mut labels = BTreeSet::new();
        if let Some(braces) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            for pair in braces.0.split(',') {
                let label = pair.trim_start().split(|c| !word(c)).next().unwrap_or_default();
                labels.insert(label.to_owned());
            }
        }
        found.push((name.to_owned(), labels));
    }
    found
}

/// The labels that an expression groups by.
fn grouped(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in expression.split(" by (").skip(1) {
        let list = part.split_once(')').map_or("", |(list, _)| list);
        found.extend(list.split(',').map(|label| label.trim().to_owned()));
    }
    found
}

/// What Prometheus itself adds to what it scrapes.
const TARGET: [&str; 2] = ["instance", "job"];

fn check(exported: &Exported, expression: &str, whence: &str) -> Result<usize> {
    let all = named(expression);
    let mut known: BTreeSet<&str> = TARGET.into();
    for (name, labels) in &all {
        let Some(there) = exported.get(name) else { bail!("{whence}: no member exports {name}") };
        known.extend(there.iter().map(String::as_str));
        for label in labels.iter().filter(|label| !TARGET.contains(&label.as_str())) {
            ensure!(there.contains(label), "{whence}: {name} has no label {label}: {there:?}");
        }
    }
    for label in grouped(expression) {
        ensure!(known.contains(&*label), "{whence}: nothing of {expression} has a label {label}");
    }
    Ok(all.len())
}

/// All expressions of a dashboard.
fn expressions(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "query" => into.push(text.to_owned()),
                    _ => expressions(value, into),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| expressions(item, into)),
        _ => {}
    }
}

/// CF-15: members export what happens in them, and whatever the dashboard, the alerts and the page
/// for operators name is exported, with these labels.
#[tokio::test]
async fn gap_metrics() -> Result<()> {
    let options = Options { members: 3, tls: false, ..Options::default() };
    let mut cluster = Cluster::start_with(options).await?;
    let leader = cluster.leader().await?;
    let client = cluster.client_of(leader)?;
    let mut watch = client.watch(Watch::prefix("k")).await?;
    let lease = client.lease(Duration::from_secs(600)).await?;
    client.put_with_lease("k", "1", lease.id()).await?;
    watch.next().await?;
    client.set_quota(Quota { keys: 10, bytes: 1000, ..Quota::default() }).await?;
    let (mut exported, mut text) = (Exported::new(), String::new());
    let seen = eventually("the figures are what happened", PATIENCE, || async {
        let text = scrape(&cluster, leader).await?;
        let is = |name: &str| value(&text, name).with_context(|| name.to_owned());
        ensure!(is("chainfire_has_leader")? == 1.0 && is("chainfire_is_leader")? == 1.0);
        ensure!(is("chainfire_has_quorum")? == 1.0 && is("chainfire_alarms")? == 0.0);
        ensure!(is("chainfire_members")? == 3.0 && is("chainfire_learners")? == 0.0);
        ensure!(is("chainfire_keys")? == 1.0 && is("chainfire_leases")? == 1.0);
        ensure!(is("chainfire_watches")? == 1.0 && is("chainfire_watch_streams_slow")? == 0.0);
        ensure!(is("chainfire_journal_sync_seconds_count")? >= 2.0);
        ensure!(is("chainfire_journal_sync_seconds_sum")? > 0.0);
        ensure!(is("consensus_apply_seconds_count")? >= 2.0);
        ensure!(is("consensus_peer_round_trip_seconds_count")? >= 2.0);
        ensure!(is("consensus_persist_seconds_count")? >= 1.0);
        ensure!(is("etcd_server_has_leader")? == 1.0);
        ensure!(
            is("etcd_disk_wal_fsync_duration_seconds_count")?
                == is("chainfire_journal_sync_seconds_count")?
        );
        Ok(text)
    })
    .await?;
    read(&seen, &mut exported)?;
    for place in 0..3 {
        text = scrape(&cluster, place).await?;
        read(&text, &mut exported)?;
    }
    ensure!(!text.is_empty());

    // Prometheus makes this one of the scrape.
    exported.entry("up".into()).or_default();
    let docs = docs()?;
    let mut all = Vec::new();
    let dashboard = std::fs::read_to_string(docs.join("monitoring/chainfire.json"))?;
    expressions(&serde_json::from_str(&dashboard)?, &mut all);
    let mut checked = 0;
    for expression in &all {
        checked += check(&exported, expression, "the dashboard")?;
    }
    ensure!(all.len() > 30 && checked > 30, "the dashboard asks for too little to be one");
    let rules = std::fs::read_to_string(docs.join("monitoring/chainfire.rules.yml"))?;
    let rules: Vec<&str> = rules.lines().filter_map(|l| l.trim().strip_prefix("expr: ")).collect();
    for expression in &rules {
        ensure!(check(&exported, expression, "the alerts")? > 0 || expression.starts_with("up{"));
    }
    ensure!(rules.len() > 12, "{rules:?}");
    for page in ["chainfire.md", "monitoring/chainfire.rules.yml"] {
        let page = docs.join(page);
        for (name, _) in named(&std::fs::read_to_string(&page)?) {
            let histogram = exported.contains_key(&format!("{name}_bucket"));
            let excused = page.extension().is_some_and(|kind| kind == "md");
            let excused = excused && is_no_metric(&page, &name);
            let known = exported.contains_key(&name) || histogram || excused;
            ensure!(known, "{}: no member exports {name}", page.display());
        }
    }

    // What changes is counted: another leader, and a write that nobody takes.
    let before = value(&seen, "consensus_leader_changes_total").context("leader changes")?;
    cluster.kill(leader);
    let other = (leader + 1) % 3;
    eventually("the change of the leader is counted", PATIENCE, || async {
        let text = scrape(&cluster, other).await?;
        let now = value(&text, "consensus_leader_changes_total").context("leader changes")?;
        ensure!(now > before && value(&text, "chainfire_has_quorum") == Some(1.0), "{now}");
        Ok(())
    })
    .await?;
    cluster.kill((leader + 2) % 3);
    let client = cluster.client_of(other)?;
    ensure!(client.put("k", "2").await.is_err());
    eventually("the failed write is counted", PATIENCE, || async {
        let text = scrape(&cluster, other).await?;
        ensure!(value(&text, "consensus_proposals_failed_total").is_some_and(|n| n > 0.0));
        ensure!(value(&text, "chainfire_has_quorum") == Some(0.0));
        Ok(())
    })
    .await
}

/// Words with a metric's prefix that are none: names of settings, of the command, of the unit.
fn is_no_metric(page: &Path, name: &str) -> bool {
    let text = std::fs::read_to_string(page).unwrap_or_default();
    // A page calls them by their full path, or in capitals.
    name.chars().any(|c| c.is_ascii_uppercase()) || !text.contains(&format!("`{name}"))
}

/// CF-15: `/healthz` says whether the process lives, `/readyz` and gRPC's health whether it serves,
/// and why not.
#[tokio::test]
async fn gap_health() -> Result<()> {
    let options = Options { members: 3, tls: false, ..Options::default() };
    let mut cluster = Cluster::start_with(options).await?;
    let [.., ops] = cluster.listeners(0);
    let health = rpc::channel(&cluster.endpoint(0), None)?;
    let serves = |status: ServingStatus| {
        let client = HealthClient::new(health.clone());
        async move {
            eventually("gRPC's health says so", PATIENCE, || {
                let mut client = client.clone();
                async move {
                    let request = HealthCheckRequest { service: String::new() };
                    let answer = client.check(request).await?.into_inner();
                    ensure!(answer.status() == status, "{answer:?}");
                    Ok(())
                }
            })
            .await
        }
    };
    ensure!(http_get(ops, "/healthz", PATIENCE).await?.0 == 200);
    ensure!(http_get(ops, "/readyz", PATIENCE).await?.0 == 200);
    serves(ServingStatus::Serving).await?;
    for place in [1, 2] {
        cluster.kill(place);
    }
    eventually("the lone member is not ready, and says why", PATIENCE, || async {
        let (status, body) = http_get(ops, "/readyz", PATIENCE).await?;
        let why = body.contains("no leader") || body.contains("no quorum");
        ensure!(status == 503 && why, "{status} {body}");
        Ok(())
    })
    .await?;
    // It lives: a supervisor must not restart it for this.
    ensure!(http_get(ops, "/healthz", PATIENCE).await?.0 == 200);
    serves(ServingStatus::NotServing).await?;
    cluster.spawn(1)?;
    cluster.ready(1).await?;
    cluster.ready(0).await?;
    serves(ServingStatus::Serving).await
}

/// The page lists each key of the sections that are all defaults, with its default.
#[test]
fn the_page_of_settings_says_what_the_program_does() -> Result<()> {
    let page = std::fs::read_to_string(docs()?.join("chainfire.md"))?;
    let text = "name = \"a\"\ndata_dir = \"/x\"\npeer.listen = \"127.0.0.1:0\"\n\
        cluster_id = \"018f0000-0000-7000-8000-000000000001\"\n";
    let own: chainfire::Settings = settings::parse(Path::new("test.toml"), text)?;
    let sections = [
        ("storage", format!("{:?}", own.storage)),
        ("raft", format!("{:?}", own.raft)),
        ("limits", format!("{:?}", own.limits)),
        ("auth", format!("{:?}", own.auth)),
    ];
    for (section, shown) in sections {
        let fields = shown.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        for field in fields.context("no section")?.0.split(',') {
            let (name, default) = field.trim().split_once(": ").context(field.to_owned())?;
            let row = format!("| `{section}.{name}` | `{default}` |");
            ensure!(page.contains(&row), "docs/chainfire.md has no {row}");
        }
    }
    Ok(())
}
