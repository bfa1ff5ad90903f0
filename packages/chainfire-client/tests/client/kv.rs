//! Keys, swaps and transactions.

use crate::world::{World, scenario};
use anyhow::Result;
use chainfire_client::{Compare, Error, Expect, Op, OpResult, Swap, codes};

scenario!(reads_and_writes, 1);
async fn reads_and_writes(world: World) -> Result<()> {
    let client = world.client()?;
    assert_eq!(client.get("a").await?, None);
    let first = client.put("a", "1").await?;
    let second = client.put("a", "2").await?;
    assert_eq!(second, first + 1);
    let kv = client.get("a").await?.expect("was put");
    assert_eq!((&kv.value[..], kv.version, kv.mod_revision), (&b"2"[..], 2, second));
    assert_eq!(client.get_serializable("a").await?, Some(kv));
    assert_eq!(&client.get_at("a", first).await?.expect("was put").value[..], b"1");
    assert_eq!(client.revision().await?, second);

    assert_eq!(client.delete("a").await?.count, 1);
    assert_eq!(client.delete("a").await?.count, 0);

    // More keys than a page holds, all of one revision.
    for batch in 0..12 {
        let mut txn = client.txn();
        for number in 0..100 {
            txn = txn.then(Op::put(format!("many/{:04}", batch * 100 + number), "x"));
        }
        assert!(txn.commit().await?.succeeded);
    }
    let listing = client.prefix("many/").await?;
    assert_eq!(listing.kvs.len(), 1200);
    assert!(listing.kvs.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert_eq!(listing.revision, client.revision().await?);
    assert_eq!(client.delete_prefix("many/").await?.count, 1200);
    assert_eq!(client.prefix("").await?.kvs, []);

    // History goes, and says so.
    client.compact(second).await?;
    assert!(matches!(client.get_at("a", first).await, Err(Error::Compacted { .. })));
    Ok(())
}

scenario!(swaps_tell_their_outcome, 1);
async fn swaps_tell_their_outcome(world: World) -> Result<()> {
    let client = world.client()?;
    let Swap::Swapped { revision } = client.cas("k", Expect::Absent, "1").await? else {
        panic!("the key did not exist")
    };
    let conflict = client.cas("k", Expect::Absent, "2").await?;
    let current = client.get("k").await?;
    assert_eq!(conflict, Swap::Conflict { current });
    let swapped = client.cas("k", Expect::Revision(revision), "2").await?;
    assert!(matches!(swapped, Swap::Swapped { revision: later } if later > revision));
    assert!(matches!(
        client.cas("k", Expect::Revision(revision), "3").await?,
        Swap::Conflict { current: Some(kv) } if kv.value == "2"
    ));
    let swapped = client.cas("k", Expect::Value("2".into()), "3").await?;
    assert!(matches!(swapped, Swap::Swapped { .. }));
    assert_eq!(
        client.cas("none", Expect::Value("x".into()), "y").await?,
        Swap::Conflict { current: None }
    );
    Ok(())
}

scenario!(transactions_answer_each_operation, 1);
async fn transactions_answer_each_operation(world: World) -> Result<()> {
    let client = world.client()?;
    client.put("a", "1").await?;
    let done = client
        .txn()
        .when(Compare::exists("a"))
        .when(Compare::version("a", 1))
        .then(Op::put("b", "2"))
        .then(Op::get("b"))
        .then(Op::delete("a"))
        .then(Op::prefix("a"))
        .commit()
        .await?;
    assert!(done.succeeded);
    let [OpResult::Put, OpResult::Range(read), OpResult::Deleted(1), OpResult::Range(gone)] =
        &done.results[..]
    else {
        panic!("{:?}", done.results)
    };
    assert_eq!((&read[0].value[..], read[0].mod_revision), (&b"2"[..], done.revision));
    assert!(gone.is_empty());
    let done = client.txn().when(Compare::exists("a")).otherwise(Op::get("b")).commit().await?;
    assert!(!done.succeeded);
    Ok(())
}

scenario!(refusals_are_typed, 1);
async fn refusals_are_typed(world: World) -> Result<()> {
    let client = world.client()?;
    let error = client.put("", "x").await.expect_err("an empty key");
    let Error::Refused { status, message, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*status, tonic::Code::InvalidArgument);
    assert_eq!(message, "etcdserver: key is not provided");
    assert!(!error.fate_unknown());

    let error = client.put_with_lease("a", "x", 4711).await.expect_err("no such lease");
    let Error::Refused { status, message, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*status, tonic::Code::NotFound);
    assert_eq!(message, "etcdserver: requested lease not found");

    let none = chainfire_client::Client::connect(Vec::<String>::new(), None);
    assert_eq!(none.expect_err("no endpoints").code(), codes::INVALID);
    assert!(chainfire_client::Client::connect(["not a url"], None).is_err());
    Ok(())
}
