//! Reading, writing, transactions, compaction, and namespaces.

use anyhow::{Context, Result, ensure};
use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue,
    KvClientPrefix, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use etcd_client_tests::{World, refusal};

fn names(kvs: &[KeyValue]) -> Vec<&str> {
    kvs.iter().map(|kv| kv.key_str().unwrap_or("not text")).collect()
}

/// Writes each name as its own value; the revision of the last.
async fn fill(client: &mut Client, names: &[&str]) -> Result<i64> {
    let mut revision = 0;
    for name in names {
        let answer = client.put(*name, *name, None).await?;
        revision = answer.header().context("no header")?.revision();
    }
    Ok(revision)
}

#[tokio::test]
async fn put_and_its_options() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let first = client.put("k", "1", None).await?;
    ensure!(first.prev_key().is_none());
    let header = first.header().context("no header")?;
    ensure!(header.cluster_id() != 0 && header.member_id() != 0 && header.raft_term() > 0);
    let second = client.put("k", "2", Some(PutOptions::new().with_prev_key())).await?;
    let before = second.prev_key().context("no previous")?;
    ensure!((before.key(), before.value(), before.version()) == (&b"k"[..], &b"1"[..], 1));
    ensure!(before.mod_revision() == header.revision());

    let lease = client.lease_grant(60, None).await?.id();
    client.put("k", "3", Some(PutOptions::new().with_lease(lease))).await?;
    client.put("k", "4", Some(PutOptions::new().with_ignore_lease())).await?;
    client.put("k", "", Some(PutOptions::new().with_ignore_value().with_ignore_lease())).await?;
    let kept = client.get("k", None).await?;
    let kept = kept.kvs().first().context("gone")?;
    ensure!((kept.value(), kept.lease(), kept.version()) == (&b"4"[..], lease, 5), "{kept:?}");

    let unknown = client.put("k", "5", Some(PutOptions::new().with_lease(4711))).await;
    ensure!(refusal(unknown)? == (5, "etcdserver: requested lease not found".into()));
    let empty = client.put("", "5", None).await;
    ensure!(refusal(empty)? == (3, "etcdserver: key is not provided".into()));
    let given = client.put("k", "5", Some(PutOptions::new().with_ignore_value())).await;
    ensure!(refusal(given)? == (3, "etcdserver: value is provided".into()));
    let absent = client.put("new", "", Some(PutOptions::new().with_ignore_value())).await;
    ensure!(refusal(absent)? == (3, "etcdserver: key not found".into()));
    Ok(())
}

#[tokio::test]
async fn get_and_its_options() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let last = fill(&mut client, &["a", "b/1", "b/2", "b/3", "c"]).await?;
    ensure!(client.get("b", None).await?.kvs().is_empty());
    let all = client.get("", Some(GetOptions::new().with_all_keys())).await?;
    ensure!(names(all.kvs()) == ["a", "b/1", "b/2", "b/3", "c"]);
    let range = client.get("b/2", Some(GetOptions::new().with_range("c"))).await?;
    ensure!(names(range.kvs()) == ["b/2", "b/3"]);
    let from = client.get("b/3", Some(GetOptions::new().with_from_key())).await?;
    ensure!(names(from.kvs()) == ["b/3", "c"]);

    let prefix = || GetOptions::new().with_prefix();
    let some = client.get("b/", Some(prefix().with_limit(2))).await?;
    ensure!(names(some.kvs()) == ["b/1", "b/2"] && some.more() && some.count() == 3);
    let down = prefix().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(1);
    ensure!(names(client.get("b/", Some(down)).await?.kvs()) == ["b/3"]);
    let newest = prefix().with_sort(SortTarget::Mod, SortOrder::Descend);
    ensure!(names(client.get("b/", Some(newest)).await?.kvs()) == ["b/3", "b/2", "b/1"]);
    let counted = client.get("b/", Some(prefix().with_count_only())).await?;
    ensure!(counted.count() == 3 && counted.kvs().is_empty());
    let bare = client.get("b/", Some(prefix().with_keys_only().with_serializable())).await?;
    ensure!(bare.kvs().len() == 3 && bare.kvs().iter().all(|kv| kv.value().is_empty()));
    let since = prefix().with_min_mod_revision(last - 2).with_max_create_revision(last - 2);
    ensure!(names(client.get("b/", Some(since)).await?.kvs()) == ["b/2"]);

    let then = client.get("b/", Some(prefix().with_revision(last - 2))).await?;
    ensure!(names(then.kvs()) == ["b/1", "b/2"]);
    let future = client.get("a", Some(GetOptions::new().with_revision(last + 1))).await;
    let words = "etcdserver: mvcc: required revision is a future revision";
    ensure!(refusal(future)? == (11, words.into()));
    Ok(())
}

/// A call of etcd 3.7.
#[tokio::test]
async fn get_in_pieces() -> Result<()> {
    let (world, mut client) = World::one().await?;
    let big = "x".repeat(100_000);
    for number in 0..40 {
        client.put(format!("s/{number:02}"), big.as_str(), None).await?;
    }
    let options = GetOptions::new().with_prefix();
    let stream = client.kv_client().get_stream("s/", Some(options.clone())).await;
    if let (true, Err(_)) = (world.is_etcd(), &stream) {
        return Ok(()); // up to 3.6
    }
    let (mut stream, mut kvs, mut pieces, mut count) = (stream?, Vec::new(), 0, 0);
    while let Some(mut piece) = stream.message().await? {
        pieces += 1;
        count = piece.count();
        kvs.extend(piece.take_kvs());
    }
    ensure!(pieces > 1 && count == 40, "{count} in {pieces} pieces");
    let whole = client.kv_client().max_decoding_message_size(1 << 24);
    let whole = whole.clone().get("s/", Some(options)).await?;
    ensure!(names(&kvs) == names(whole.kvs()));
    Ok(())
}

#[tokio::test]
async fn delete_and_its_options() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    fill(&mut client, &["a", "b/1", "b/2", "b/3", "c", "d", "e"]).await?;
    let one = client.delete("a", Some(DeleteOptions::new().with_prev_key())).await?;
    ensure!(one.deleted() == 1 && names(one.prev_kvs()) == ["a"]);
    let none = client.delete("a", Some(DeleteOptions::new().with_prev_key())).await?;
    ensure!(none.deleted() == 0 && none.prev_kvs().is_empty());
    ensure!(client.delete("b/", Some(DeleteOptions::new().with_prefix())).await?.deleted() == 3);
    let range = DeleteOptions::new().with_range("d");
    ensure!(client.delete("c", Some(range)).await?.deleted() == 1);
    let from = DeleteOptions::new().with_from_key();
    ensure!(client.delete("e", Some(from)).await?.deleted() == 1);
    let rest = DeleteOptions::new().with_all_keys().with_prev_key();
    ensure!(names(client.delete("", Some(rest)).await?.prev_kvs()) == ["d"]);
    Ok(())
}

#[tokio::test]
async fn compaction() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let last = fill(&mut client, &["k", "k", "k", "k"]).await?;
    client.compact(last - 1, None).await?;
    let words = || "etcdserver: mvcc: required revision has been compacted".to_owned();
    let past = client.get("k", Some(GetOptions::new().with_revision(last - 2))).await;
    ensure!(refusal(past)? == (11, words()));
    client.get("k", Some(GetOptions::new().with_revision(last - 1))).await?;
    ensure!(refusal(client.compact(last - 1, None).await)? == (11, words()));
    let future = client.compact(last + 1, None).await;
    let ahead = "etcdserver: mvcc: required revision is a future revision";
    ensure!(refusal(future)? == (11, ahead.into()));
    client.compact(last, Some(CompactionOptions::new().with_physical())).await?;
    Ok(())
}

#[tokio::test]
async fn transactions() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let revision = fill(&mut client, &["t/a", "t/b"]).await?;
    // every kind of compare, and every kind of operation, one in another
    let inner = Txn::new()
        .when([Compare::version("t/none", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("t/inner", "1", None), TxnOp::delete("t/a", None)]);
    let all = Txn::new()
        .when([
            Compare::value("t/a", CompareOp::Equal, "t/a"),
            Compare::version("t/a", CompareOp::Less, 2),
            Compare::create_revision("t/b", CompareOp::Equal, revision),
            Compare::mod_revision("t/b", CompareOp::Greater, revision - 1),
            Compare::lease("t/", CompareOp::Equal, 0).with_prefix(),
            Compare::value("t/a", CompareOp::NotEqual, "x").with_range("t/c"),
        ])
        .and_then([
            TxnOp::get("t/", Some(GetOptions::new().with_prefix())),
            TxnOp::put("t/c", "new", Some(PutOptions::new().with_prev_key())),
            TxnOp::txn(inner),
        ])
        .or_else([TxnOp::get("t/a", None)]);
    let answer = client.txn(all.clone()).await?;
    ensure!(answer.succeeded());
    let responses = answer.op_responses();
    let [TxnOpResponse::Get(get), TxnOpResponse::Put(put), TxnOpResponse::Txn(nested)] =
        &responses[..]
    else {
        anyhow::bail!("{responses:?}")
    };
    ensure!(names(get.kvs()) == ["t/a", "t/b"] && put.prev_key().is_none());
    ensure!(nested.succeeded() && nested.op_responses().len() == 2);
    let TxnOpResponse::Delete(deleted) = &nested.op_responses()[1] else {
        anyhow::bail!("{nested:?}")
    };
    ensure!(deleted.deleted() == 1);
    // one revision for all of it
    let kvs = client.get("t/", Some(GetOptions::new().with_prefix())).await?;
    ensure!(names(kvs.kvs()) == ["t/b", "t/c", "t/inner"]);
    ensure!(kvs.kvs()[1..].iter().all(|kv| kv.mod_revision() == revision + 1));

    let again = client.txn(all).await?;
    ensure!(!again.succeeded());
    let [TxnOpResponse::Get(other)] = &again.op_responses()[..] else { anyhow::bail!("{again:?}") };
    ensure!(other.kvs().is_empty());
    let twice = Txn::new().and_then([TxnOp::put("k", "1", None), TxnOp::put("k", "2", None)]);
    let twice = client.txn(twice).await;
    ensure!(refusal(twice)? == (3, "etcdserver: duplicate key given in txn request".into()));
    Ok(())
}

#[tokio::test]
async fn namespaces() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let mut space = KvClientPrefix::new(client.kv_client(), "team/".into());
    space.put("a", "1", None).await?;
    client.put("a", "outside", None).await?;
    ensure!(client.get("team/a", None).await?.kvs().len() == 1);
    let seen = space.get("", Some(GetOptions::new().with_prefix())).await?;
    ensure!(names(seen.kvs()) == ["a"] && seen.kvs()[0].value() == b"1");
    let swap = Txn::new()
        .when([Compare::value("a", CompareOp::Equal, "1")])
        .and_then([TxnOp::put("b", "2", None), TxnOp::get("a", None)]);
    let swapped = space.txn(swap).await?;
    ensure!(swapped.succeeded() && swapped.op_responses().len() == 2);
    let all = DeleteOptions::new().with_prefix().with_prev_key();
    let deleted = space.delete("", Some(all)).await?;
    ensure!(names(deleted.prev_kvs()) == ["a", "b"]);
    ensure!(client.get("a", None).await?.kvs().len() == 1, "what is outside stays");
    Ok(())
}
