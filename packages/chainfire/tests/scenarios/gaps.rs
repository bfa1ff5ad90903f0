//! What this platform's first attempt lacked, by name. Others stand beside what they are about:
//! leases, read consistency, gossip, authentication, authorization, quotas, metrics, health, backup.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::request_op::Request as Ask;
use api::etcdserverpb::response_op::Response as Answer;
use api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use bytes::Bytes;
use chainfire_client::{Error, Expect, Op, OpResult, Swap, Watch, prefix_end};
use engine::{Batch, Engine, FjallOptions, LossyMemory, Memory, Order};
use testkit::Cluster;
use testkit::workload::plain;
use tonic::Code;

use super::LONG;

/// A range, with its limit, among the operations of a transaction: it sees the writes before it and
/// not those after it.
#[tokio::test]
async fn gap_ranges_in_transactions() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    for key in ["r/a", "r/c", "s/x"] {
        client.put(key, "before").await?;
    }
    let done = client
        .txn()
        .then(Op::prefix("r/"))
        .then(Op::put("r/b", "within"))
        .then(Op::prefix("r/"))
        .then(Op::delete("r/a"))
        .then(Op::prefix("r/"))
        .then(Op::get("s/x"))
        .commit()
        .await?;
    let keys = |result: &OpResult| match result {
        OpResult::Range(kvs) => {
            kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
        }
        other => vec![format!("{other:?}")],
    };
    let seen: Vec<Vec<String>> = done.results.iter().map(keys).collect();
    ensure!(seen[0] == ["r/a", "r/c"] && seen[2] == ["r/a", "r/b", "r/c"], "{seen:?}");
    ensure!(seen[4] == ["r/b", "r/c"] && seen[5] == ["s/x"], "{seen:?}");
    ensure!(done.results[3] == OpResult::Deleted(1), "{done:?}");

    // A compare over a range decides: it holds only if it holds for every key.
    for number in 0..3 {
        client.put(format!("v/{number}"), "old").await?;
    }
    let mut kv = KvClient::new(cluster.channel(0)?);
    let all_old = Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Value as i32,
        key: "v/".into(),
        range_end: prefix_end(b"v/"),
        target_union: Some(TargetUnion::Value("old".into())),
    };
    let range = RangeRequest {
        key: "v/".into(),
        range_end: prefix_end(b"v/"),
        limit: 2,
        ..RangeRequest::default()
    };
    let txn = TxnRequest {
        compare: vec![all_old],
        success: ops([Ask::RequestRange(range)]),
        ..TxnRequest::default()
    };
    let first = kv.txn(txn.clone()).await?.into_inner();
    let Some(Answer::ResponseRange(page)) = answers(&first).next() else {
        anyhow::bail!("{first:?}")
    };
    ensure!(first.succeeded && (page.kvs.len(), page.count, page.more) == (2, 3, true), "{page:?}");
    client.put("v/1", "new").await?;
    ensure!(!kv.txn(txn).await?.into_inner().succeeded);
    Ok(())
}

fn ops<const N: usize>(asked: [Ask; N]) -> Vec<RequestOp> {
    asked.map(|op| RequestOp { request: Some(op) }).to_vec()
}

fn answers(response: &TxnResponse) -> impl Iterator<Item = &Answer> {
    response.responses.iter().filter_map(|op| op.response.as_ref())
}

/// A transaction answers every operation, in order, with what that operation would answer alone, in
/// the branch that was taken, nested ones too; and says which branch that was.
#[tokio::test]
async fn gap_transaction_responses() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let mut kv = KvClient::new(cluster.channel(0)?);
    let put = |key: &str, value: &str| {
        Ask::RequestPut(PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            prev_kv: true,
            ..PutRequest::default()
        })
    };
    let get = |key: &str| {
        Ask::RequestRange(RangeRequest { key: key.to_owned().into(), ..Default::default() })
    };
    let delete = |key: &str| {
        let key = key.to_owned().into();
        Ask::RequestDeleteRange(DeleteRangeRequest { key, prev_kv: true, ..Default::default() })
    };
    let exists = |key: &str| Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Version as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Compare::default()
    };
    let txn = TxnRequest {
        compare: vec![exists("a")],
        success: ops([
            delete("a"),
            get("a"),
            Ask::RequestTxn(TxnRequest {
                compare: vec![exists("b")],
                success: ops([put("c", "1")]),
                failure: ops([get("b"), put("d", "1")]),
            }),
        ]),
        failure: ops([put("a", "1"), get("a")]),
    };
    let first = kv.txn(txn.clone()).await?.into_inner();
    let revision = first.header.as_ref().context("header")?.revision;
    ensure!(!first.succeeded && first.responses.len() == 2, "{first:?}");
    let mut each = answers(&first);
    let Some(Answer::ResponsePut(done)) = each.next() else { anyhow::bail!("{first:?}") };
    ensure!(
        done.prev_kv.is_none() && done.header.is_some_and(|header| header.revision == revision)
    );
    let Some(Answer::ResponseRange(seen)) = each.next() else { anyhow::bail!("{first:?}") };
    ensure!(seen.count == 1 && seen.kvs[0].mod_revision == revision, "{seen:?}");

    let second = kv.txn(txn).await?.into_inner();
    ensure!(second.succeeded && second.responses.len() == 3, "{second:?}");
    let mut each = answers(&second);
    let Some(Answer::ResponseDeleteRange(gone)) = each.next() else { anyhow::bail!("{second:?}") };
    ensure!(gone.deleted == 1 && gone.prev_kvs[0].value == "1", "{gone:?}");
    let Some(Answer::ResponseRange(seen)) = each.next() else { anyhow::bail!("{second:?}") };
    ensure!(seen.count == 0 && seen.kvs.is_empty(), "{seen:?}");
    let Some(Answer::ResponseTxn(nested)) = each.next() else { anyhow::bail!("{second:?}") };
    ensure!(!nested.succeeded && nested.responses.len() == 2, "{nested:?}");
    let kinds: Vec<bool> =
        answers(nested).map(|answer| matches!(answer, Answer::ResponsePut(_))).collect();
    ensure!(kinds == [false, true], "{nested:?}");

    // The client's own form of it.
    let client = cluster.client()?;
    let swapped = client.cas("d", Expect::Value("1".into()), "2").await?;
    ensure!(matches!(swapped, Swap::Swapped { .. }), "{swapped:?}");
    let conflict = client.cas("d", Expect::Value("1".into()), "3").await?;
    let Swap::Conflict { current: Some(current) } = conflict else { anyhow::bail!("{conflict:?}") };
    ensure!(current.value == "2", "{current:?}");
    Ok(())
}

/// Every revision stays readable until it is compacted, also after a restart; what is too old or yet
/// to come is refused in etcd's words.
#[tokio::test]
async fn gap_reads_at_a_revision() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let client = cluster.client()?;
    let mut wrote = Vec::new();
    for number in 0..20 {
        wrote.push((client.put("k", format!("{number}")).await?, format!("{number}")));
    }
    let gone = client.delete("k").await?.revision;
    let again = client.put("k", "again").await?;
    for restart in [false, true] {
        if restart {
            cluster.kill(0);
            cluster.spawn(0)?;
            cluster.ready(0).await?;
        }
        for (revision, value) in &wrote {
            let kv = client.get_at("k", *revision).await?.context("a key")?;
            ensure!(kv.value == value.as_bytes() && kv.mod_revision == *revision, "{kv:?}");
        }
        ensure!(client.get_at("k", gone).await?.is_none());
        let kv = client.get_at("k", again).await?.context("a key")?;
        ensure!((kv.create_revision, kv.version) == (again, 1), "{kv:?}");
    }
    let future = client.get_at("k", again + 1).await;
    let Err(Error::Refused { status: Code::OutOfRange, message, .. }) = &future else {
        anyhow::bail!("{future:?}")
    };
    ensure!(message == "etcdserver: mvcc: required revision is a future revision", "{message}");
    let floor = wrote[10].0;
    client.compact(floor).await?;
    let old = client.get_at("k", floor - 1).await;
    ensure!(matches!(old, Err(Error::Compacted { .. })), "{old:?}");
    let kept = client.get_at("k", floor).await?.context("a key")?;
    ensure!(kept.value == wrote[10].1.as_bytes(), "{kept:?}");
    Ok(())
}

/// The store's engine is behind a trait: the same work on memory, on the double that loses what was
/// not persisted, and on the disk shows the same. (`engine` holds all three against a model, with
/// crashes.)
#[test]
fn gap_storage_trait() -> Result<()> {
    const SPACES: [&str; 2] = ["one", "two"];
    let dir = tempfile::tempdir()?;
    let lossy = Arc::new(LossyMemory::new(&SPACES, 7));
    let engines: [(&str, Engine); 3] = [
        ("memory", Arc::new(Memory::new(&SPACES))),
        ("lossy", lossy.clone()),
        ("disk", engine::open_fjall(dir.path(), &SPACES, FjallOptions::default())?),
    ];
    let read = |engine: &Engine| -> Result<Vec<(Bytes, Bytes)>> {
        let mut all = Vec::new();
        for space in SPACES {
            for pair in engine.iter(space, engine::all(), Order::Descending) {
                all.push(pair?);
            }
        }
        Ok(all)
    };
    let mut shown = Vec::new();
    for (name, engine) in &engines {
        for round in 0..20u8 {
            let mut batch = Batch::new();
            batch.put("one", vec![round % 7], vec![round; 10]);
            batch.put("two", vec![round], Bytes::new());
            batch.delete("two", vec![round.wrapping_sub(3)]);
            engine.write(batch)?;
        }
        let before = engine.snapshot()?;
        engine.persist()?;
        let mut batch = Batch::new();
        batch.put("one", "after", "x");
        engine.write(batch)?;
        ensure!(before.get("one", b"after")?.is_none(), "{name}: a snapshot sees what came later");
        ensure!(engine.get("one", b"after")?.is_some(), "{name}");
        shown.push(read(engine)?);
        engine.drop_space("two")?;
        ensure!(engine.iter("two", engine::all(), Order::Ascending).next().is_none(), "{name}");
    }
    ensure!(shown[0].len() == 7 + 1 + 3 && shown.iter().all(|one| *one == shown[0]), "{shown:?}");
    Ok(())
}

/// A watch from a past revision is told all of it, then goes on with the present; on a member that
/// was restarted too, and where history is compacted it says so.
#[tokio::test]
async fn gap_watch_replay() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let mut wrote = Vec::new();
    for number in 0..100 {
        let done = client
            .txn()
            .then(Op::put("w/a", format!("{number}")))
            .then(Op::put(format!("w/{number}"), "x"))
            .commit()
            .await?;
        wrote.push((done.revision, number));
        client.put("other", "x").await?;
    }
    cluster.kill(1);
    cluster.spawn(1)?;
    cluster.ready(1).await?;
    for place in 0..3 {
        let member = cluster.client_of(place)?;
        let from = wrote[30].0;
        let mut watcher = member.watch(Watch::prefix("w/").from(from)).await?;
        let last = client.delete("w/a").await?.revision;
        for (revision, number) in &wrote[30..] {
            let told = tokio::time::timeout(LONG, watcher.next()).await??;
            let (at, changes) = plain(told);
            let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
            ensure!(
                at == *revision && keys == ["w/a", &format!("w/{number}")],
                "{at}: {changes:?}"
            );
        }
        // Earlier rounds' present is this one's past.
        loop {
            let (at, changes) = plain(tokio::time::timeout(LONG, watcher.next()).await??);
            ensure!(at <= last && changes.len() == 1, "{at}: {changes:?}");
            if at == last {
                break;
            }
        }
        client.put("w/a", "again").await?;
    }
    client.compact(wrote[50].0).await?;
    let mut late = client.watch(Watch::prefix("w/").from(wrote[30].0)).await?;
    let told = tokio::time::timeout(LONG, late.next()).await?;
    ensure!(matches!(told, Err(Error::Compacted { .. })), "{told:?}");
    Ok(())
}
