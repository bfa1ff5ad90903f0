//! Compaction: the revision never goes back, the deletion at the compacted revision is still told,
//! and what a transaction reads of the past is the same on all members.

use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::request_op::Request as Op;
use api::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse};
use chainfire_client::{Client, Error, EventKind, Watch, Watcher};
use testkit::workload::{kill_and_restart, same_everywhere, serves_again};
use testkit::{Cluster, Options};
use tonic::{Code, Status};

use super::LONG;

async fn restart_all(cluster: &mut Cluster) -> Result<()> {
    for place in 0..cluster.len() {
        cluster.kill(place);
    }
    for place in 0..cluster.len() {
        cluster.spawn(place)?;
    }
    for place in 0..cluster.len() {
        cluster.ready(place).await?;
    }
    Ok(())
}

/// All are killed right after, or in the midst of, a compaction at the newest revision, which is a
/// deletion: after it nothing in the store is as new as the store itself.
#[tokio::test]
async fn bug_17780_revisions_do_not_go_back_over_a_compaction() -> Result<()> {
    let rounds = if testkit::soak() { 30 } else { 3 };
    let mut cluster = Cluster::start_with(Options {
        set: vec!["storage.persist_seconds=1".into()],
        ..Options::default()
    })
    .await?;
    let client = cluster.client()?;
    for round in 0..rounds {
        for number in 0..30 {
            client.put(format!("c/{}", number % 5), format!("{round}.{number}")).await?;
        }
        let last = client.delete_prefix("c/").await?.revision;
        client.compact(last).await?;
        restart_all(&mut cluster).await?;
        for member in cluster.client_of_each()? {
            let now = member.revision().await?;
            ensure!(now == last, "round {round}: the revision went from {last} to {now}");
            let old = member.get_at("c/2", last - 1).await;
            ensure!(matches!(old, Err(Error::Compacted { .. })), "{old:?}");
        }
        let next = client.put("c/next", "x").await?;
        ensure!(next == last + 1, "after {last} came {next}");
    }
    same_everywhere(&cluster, "c/").await
}

/// The first changes of a watch are these deletions.
async fn tells_deletions(watcher: &mut Watcher, revision: i64, keys: &[String]) -> Result<()> {
    let first = tokio::time::timeout(LONG, watcher.next()).await.context("silent")??;
    let told: Vec<_> = first
        .events
        .iter()
        .map(|event| (event.kind, String::from_utf8_lossy(&event.kv.key).into_owned()))
        .collect();
    let wanted: Vec<_> = keys.iter().map(|key| (EventKind::Delete, key.clone())).collect();
    ensure!(first.revision == revision && told == wanted, "at {revision}: {first:?}");
    Ok(())
}

/// A watch that begins at the revision to which history was compacted gets the deletions that
/// happened at it: it was answered that this revision is still there.
#[tokio::test]
async fn bug_18089_deletions_at_the_compacted_revision_are_told() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    for round in 0..3 {
        let keys: Vec<String> = (0..4).map(|number| format!("c/{round}/{number}")).collect();
        for key in &keys {
            client.put(key.clone(), "x").await?;
        }
        let gone = client.delete_prefix(format!("c/{round}/")).await?;
        ensure!(gone.count == 4);
        let after = client.put(format!("c/{round}/0"), "again").await?;
        client.compact(gone.revision).await?;
        if round == 2 {
            // From the disk, nothing of it in memory.
            restart_all(&mut cluster).await?;
        }
        for member in cluster.client_of_each()? {
            let from = gone.revision;
            let mut watcher = member.watch(Watch::prefix(format!("c/{round}/")).from(from)).await?;
            tells_deletions(&mut watcher, from, &keys).await?;
            let next = tokio::time::timeout(LONG, watcher.next()).await??;
            ensure!(next.revision == after && next.events.len() == 1, "{next:?}");
        }
    }
    Ok(())
}

/// The same while the compaction is on its way: a watch gets the deletion or is told that it comes
/// too late, never a stream that silently begins after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_19179_a_watch_opened_while_its_revision_is_compacted() -> Result<()> {
    let rounds = if testkit::soak() { 500 } else { 60 };
    let cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let members = cluster.client_of_each()?;
    for round in 0..rounds {
        let keys = vec![format!("c/{round}")];
        client.put(keys[0].clone(), "x").await?;
        let gone = client.delete(keys[0].clone()).await?.revision;
        // Every other time the deletion is not the newest.
        if round % 2 == 0 {
            client.put(format!("other/{round}"), "x").await?;
        }
        let member = members[round % 3].clone();
        let (key, compactor) = (keys[0].clone(), client.clone());
        let compaction = tokio::spawn(async move { compactor.compact(gone).await });
        let mut watcher = member.watch(Watch::key(key).from(gone)).await?;
        tells_deletions(&mut watcher, gone, &keys).await?;
        compaction.await??;
    }
    Ok(())
}

/// Writes a key of its own and reads `c` as it was at a revision, in one transaction.
async fn write_and_read_past(
    kv: &mut KvClient<tonic::transport::Channel>,
    key: &str,
    revision: i64,
) -> Result<TxnResponse, Status> {
    let put = PutRequest { key: key.to_owned().into(), ..PutRequest::default() };
    let range = RangeRequest { key: "c".into(), revision, ..RangeRequest::default() };
    let ops = [Op::RequestPut(put), Op::RequestRange(range)];
    let success = ops.map(|op| RequestOp { request: Some(op) }).to_vec();
    Ok(kv.txn(TxnRequest { success, ..TxnRequest::default() }).await?.into_inner())
}

/// What members have of the past differs while they compact, and after one was restarted; what a
/// transaction decides by it must not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_18667_ranges_at_compacted_revisions_in_transactions() -> Result<()> {
    let rounds = if testkit::soak() { 400 } else { 60 };
    let mut cluster = Cluster::start_with(Options {
        set: vec!["storage.persist_seconds=1".into()],
        ..Options::default()
    })
    .await?;
    let client = cluster.client()?;
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let place = round % 3;
        for value in 0..3 {
            client.put("c", format!("{round}.{value}")).await?;
        }
        let now = client.revision().await?;
        let floor = now - 1;
        let compactor = client.clone();
        let compaction = tokio::spawn(async move { compactor.compact(floor).await });
        let mut kv = KvClient::new(cluster.channel(place)?);
        for (number, revision) in [floor - 1, floor, now, now + 1000].into_iter().enumerate() {
            let key = format!("t/{round:03}.{number}");
            let answer = write_and_read_past(&mut kv, &key, revision).await;
            match (answer, revision) {
                (Ok(answer), _) if answer.responses.len() == 2 => {
                    ensure!(revision <= now, "the future was read: {answer:?}");
                    done.push(key);
                }
                (Err(status), _) if status.code() == Code::OutOfRange => {
                    let compacted = status.message().ends_with("has been compacted");
                    let future = status.message().ends_with("is a future revision");
                    ensure!(if revision > now { future } else { compacted }, "{status:?}");
                    ensure!(
                        revision < floor || revision > now,
                        "{revision} is refused: {status:?}"
                    );
                    refused.push(key);
                }
                // The leader went while a member was killed: neither is known.
                (Err(status), _) if status.code() == Code::Unavailable => {}
                (other, _) => bail!("at {revision}: {other:?}"),
            }
        }
        compaction.await?.or_else(|error| match error.fate_unknown() {
            true => Ok(()),
            false => Err(error),
        })?;
        // Past the compaction there is one answer only.
        let late = write_and_read_past(&mut kv, "t/late", floor - 1).await;
        ensure!(late.is_err(), "{late:?}");
        if round % 20 == 10 {
            // It applies again what it had applied, on an engine that has compacted since.
            kill_and_restart(&mut cluster, place).await?;
        }
    }
    serves_again(&cluster.quick_client()?).await?;
    let there = client.prefix("t/").await?;
    let has = |key: &String| there.kvs.iter().any(|kv| kv.key == key.as_bytes());
    if let Some(lost) = done.iter().find(|key| !has(key)) {
        bail!("{lost} was answered as written and is not there");
    }
    if let Some(half) = refused.iter().find(|key| has(key)) {
        bail!("{half} is there though its transaction was refused");
    }
    println!("{} transactions done, {} refused", done.len(), refused.len());
    ensure!(!done.is_empty() && !refused.is_empty());
    same_everywhere(&cluster, "t/").await
}

/// As [`bug_17780_revisions_do_not_go_back_over_a_compaction`], with life after the compacted
/// revision: what follows it is whole on every member that was killed.
#[tokio::test]
async fn bug_17780_what_follows_a_compaction_outlives_kills() -> Result<()> {
    let rounds = if testkit::soak() { 30 } else { 3 };
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    for round in 0..rounds {
        for number in 0..30 {
            client.put(format!("c/{}", number % 5), format!("{round}.{number}")).await?;
        }
        let floor = client.delete("c/0").await?.revision;
        let after = client.delete("c/1").await?.revision;
        client.compact(floor).await?;
        restart_all(&mut cluster).await?;
        for member in cluster.client_of_each()? {
            ensure!(member.get_at("c/2", floor).await?.is_some());
            ensure!(member.get_at("c/1", floor).await?.is_some());
            let mut watcher = member.watch(Watch::prefix("c/").from(floor + 1)).await?;
            tells_deletions(&mut watcher, after, &["c/1".to_owned()]).await?;
        }
    }
    let leader = cluster.leader().await?;
    let rest: Client = cluster.client_of_others(leader)?;
    cluster.kill(leader);
    serves_again(&rest).await?;
    cluster.spawn(leader)?;
    cluster.ready(leader).await?;
    same_everywhere(&cluster, "c/").await
}
