//! The levels of reading: what each needs, and what each promises.

use anyhow::{Context, Result, ensure};
use chainfire_client::{Client, Consistency, Error, Options};
use std::time::Duration;
use testkit::Cluster;

use Consistency::{Linearizable, Local, Serializable};

const PATIENCE: Duration = Duration::from_secs(60);

/// A client that does not wait long, of these members.
fn hasty(cluster: &Cluster, places: &[usize]) -> Result<Client> {
    let options = Options { deadline: Duration::from_secs(3), ..Options::default() };
    cluster.client_with(places.iter().copied(), options)
}

async fn value(client: &Client, level: Consistency) -> Result<Option<String>, Error> {
    let pair = client.get_with("k", level).await?;
    Ok(pair.map(|pair| String::from_utf8_lossy(&pair.value).into_owned()))
}

fn range() -> api::etcdserverpb::RangeRequest {
    api::etcdserverpb::RangeRequest { key: "k".into(), ..Default::default() }
}

/// A member that is cut off serves its past to those who ask for that, and nobody else; a reader
/// that names a revision gets it or is refused; and only a serializable read goes elsewhere.
#[tokio::test]
async fn gap_read_consistency_levels() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    let old = client.put("k", "old").await?;
    for level in [Linearizable, Serializable] {
        testkit::eventually("all members serve", PATIENCE, || async {
            for place in 0..3 {
                let read = value(&cluster.client_of(place)?, level).await?;
                ensure!(read.as_deref() == Some("old"), "{read:?} from {place}");
            }
            Ok(())
        })
        .await?;
    }
    // who names the revision of his write reads it, on any member, at once
    for place in 0..3 {
        let one = cluster.client_of(place)?;
        let read = one.local_range(range(), old).await?;
        ensure!(read.range.kvs.first().context("no key")?.value == "old");
        ensure!(read.range.header.context("no header")?.revision >= old);
    }

    let leader = cluster.leader().await?;
    let cut = (0..3).find(|place| *place != leader).context("no follower")?;
    cluster.links().isolate(cut, 3);
    let alone = hasty(&cluster, &[cut])?;
    let new = testkit::eventually("the others write", PATIENCE, || async {
        Ok(cluster.client_of_others(cut)?.put("k", "new").await?)
    })
    .await?;

    ensure!(value(&alone, Linearizable).await.is_err(), "linearizable without a majority");
    ensure!(value(&alone, Serializable).await?.as_deref() == Some("old"));
    ensure!(value(&alone, Local).await?.as_deref() == Some("old"));
    let refused = alone.local_range(range(), new).await;
    ensure!(refused.is_err(), "it has not applied that: {refused:?}");
    testkit::eventually("it says that it is alone", PATIENCE, || async {
        ensure!(!alone.local_range(range(), 0).await?.in_quorum);
        Ok(())
    })
    .await?;

    // stopped: serializable goes to the next member, local does not
    cluster.process(cut)?.pause()?;
    let both = [cut, leader];
    let read = value(&hasty(&cluster, &both)?, Local).await;
    ensure!(read.is_err(), "a local read was answered by another: {read:?}");
    let patient = cluster.client_of_these(both)?;
    ensure!(value(&patient, Serializable).await?.as_deref() == Some("new"));
    ensure!(value(&patient, Linearizable).await?.as_deref() == Some("new"));

    cluster.process(cut)?.resume()?;
    cluster.links().heal();
    cluster.ready(cut).await?;
    testkit::eventually("it has caught up", PATIENCE, || async {
        let read = cluster.client_of(cut)?.local_range(range(), new).await?;
        ensure!(read.range.kvs.first().context("no key")?.value == "new");
        ensure!(read.in_quorum);
        Ok(())
    })
    .await
}
