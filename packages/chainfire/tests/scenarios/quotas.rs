//! Limits on namespaces, with real processes.

use anyhow::{Result, ensure};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::kv_client::KvClient;
use api::v3electionpb::LeaderRequest;
use api::v3electionpb::election_client::ElectionClient;
use chainfire_client::{Client, Error, Op, Quota};
use futures::StreamExt;
use testkit::workload::same_history;
use testkit::{Cluster, eventually};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::LONG;

/// What a refusal says; anything else is a failure of the test.
fn refusal<T: std::fmt::Debug>(outcome: Result<T, Error>) -> Result<String> {
    match outcome {
        Err(Error::Refused { status: Code::ResourceExhausted, message, .. }) => Ok(message),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gap_quotas() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let client = cluster.client()?;
    client.put("team/0", "there already").await?;
    let quota = Quota { prefix: "team/".into(), keys: 5, bytes: 200, ..Quota::default() };
    let usage = client.set_quota(quota.clone()).await?;
    ensure!((usage.keys, usage.bytes) == (1, 19), "{usage:?}");

    // by keys, whichever member is asked
    for n in 1..5 {
        cluster.client_of(n % 3)?.put(format!("team/{n}"), "v").await?;
    }
    for place in 0..3 {
        let said = refusal(cluster.client_of(place)?.put("team/5", "v").await)?;
        ensure!(said.contains("\"team/\"") && said.contains("5 of 5 keys"), "{said}");
    }
    client.put("other/5", "v").await?;
    let swap = client.txn().then(Op::delete("team/4")).then(Op::put("team/5", "v")).commit();
    ensure!(swap.await?.succeeded);
    let both = client.txn().then(Op::put("other/6", "v")).then(Op::put("team/6", "v")).commit();
    refusal(both.await)?;
    ensure!(client.get("other/6").await?.is_none(), "the transaction is refused whole");

    // by bytes
    let said = refusal(client.put("team/1", "x".repeat(200)).await)?;
    ensure!(said.contains("bytes"), "{said}");
    client.put("team/1", "x".repeat(100)).await?;

    // members hold the same, also one that starts anew
    cluster.kill(1);
    eventually("it is deleted", LONG, || async { Ok(client.delete("team/2").await?) }).await?;
    cluster.spawn(1)?;
    cluster.ready(1).await?;
    let now = client.quota("team/").await?;
    ensure!(now.keys == 4, "{now:?}");
    for place in 0..3 {
        let found = cluster.client_of(place)?.quotas().await?;
        ensure!(found == [now.clone()], "member {place}: {found:?}");
    }
    same_history(&client).await?;

    client.delete_quota("team/").await?;
    for n in 0..20 {
        client.put(format!("team/{n}"), "v").await?;
    }
    ensure!(client.quotas().await?.is_empty());
    let gone = client.quota("team/").await;
    ensure!(matches!(&gone, Err(Error::Refused { status: Code::NotFound, .. })), "{gone:?}");
    rate(&cluster.client_of(0)?, cluster.channel(0)?).await
}

/// By requests: one member counts for itself.
async fn rate(client: &Client, channel: Channel) -> Result<()> {
    let quota = Quota { prefix: "busy/".into(), requests_per_second: 1, ..Quota::default() };
    client.set_quota(quota).await?;
    let said =
        eventually("a request is too many", LONG, || async { refusal(client.get("busy/1").await) })
            .await?;
    ensure!(said.contains("\"busy/\"") && said.contains("1 requests a second"), "{said}");
    client.get("idle/1").await?;
    // whichever call it comes by
    let refused = |status: Status| {
        let meant = status.code() == Code::ResourceExhausted && status.message().contains("busy/");
        if meant { Ok(()) } else { Err(anyhow::Error::from(status)) }
    };
    eventually("a streamed range is too many", LONG, || async {
        let range = RangeRequest { key: "busy/".into(), ..RangeRequest::default() };
        match KvClient::new(channel.clone()).range_stream(range).await {
            Err(status) => refused(status),
            Ok(answers) => {
                answers.into_inner().collect::<Vec<_>>().await;
                anyhow::bail!("it was streamed")
            }
        }
    })
    .await?;
    eventually("an election's question is too many", LONG, || async {
        let who = LeaderRequest { name: "busy".into() };
        match ElectionClient::new(channel.clone()).leader(who).await {
            Err(status) => refused(status),
            Ok(leader) => anyhow::bail!("{leader:?}"),
        }
    })
    .await?;
    eventually("an operation of a transaction is too many", LONG, || async {
        let txn = client.txn().then(Op::put("idle/1", "v")).then(Op::get("busy/1"));
        refusal(txn.commit().await)
    })
    .await?;
    eventually("there are requests again", LONG, || async {
        Ok(client.put("busy/1", "v").await.map(drop)?)
    })
    .await
}
