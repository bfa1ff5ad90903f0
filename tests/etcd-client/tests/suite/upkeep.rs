//! What an operator asks a member for.

use anyhow::{Context, Result, ensure};
use etcd_client::{AlarmAction, AlarmType, DowngradeOptions};
use etcd_client_tests::{World, refusal};

#[tokio::test]
async fn alarms_are_raised_listed_and_cleared() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    ensure!(client.alarm(AlarmAction::Get, AlarmType::None, None).await?.alarms().is_empty());
    let raised = client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await?;
    ensure!(raised.alarms().len() == 1, "{raised:?}");
    let listed = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    ensure!(listed.alarms().iter().all(|alarm| alarm.alarm() == AlarmType::Nospace));
    let full = client.put("k", "v", None).await;
    let full = refusal(full)?;
    ensure!(full == (8, "etcdserver: mvcc: database space exceeded".into()), "{full:?}");
    client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await?;
    client.put("k", "v", None).await?;
    Ok(())
}

#[tokio::test]
async fn status_hashes_defragmentation_and_snapshot() -> Result<()> {
    let (_world, mut client) = World::one().await?;
    let put = client.put("k", "v".repeat(100_000), None).await?;
    let revision = put.header().context("no header")?.revision();
    let status = client.status().await?;
    ensure!(status.version().starts_with("3.") && status.db_size() > 0, "{status:?}");
    ensure!(status.leader() == status.header().context("no header")?.member_id());
    ensure!(status.raft_index() >= status.raft_applied_index() && status.raft_term() > 0);
    ensure!(status.raft_used_db_size() > 0 && !status.is_learner() && status.errors().is_empty());

    let hash = client.hash().await?.hash();
    ensure!(hash == client.hash().await?.hash() && hash != 0);
    let at = client.hash_kv(revision).await?;
    ensure!(at.hash() == client.hash_kv(revision).await?.hash());
    client.put("k", "w", None).await?;
    ensure!(at.hash() == client.hash_kv(revision).await?.hash());
    ensure!(at.hash() != client.hash_kv(0).await?.hash());
    client.defragment().await?;
    let nothing = client.maintenance_client().downgrade(DowngradeOptions::Cancel).await;
    ensure!(refusal(nothing)? == (9, "etcdserver: no inflight downgrade job".into()));

    let (mut stream, mut bytes) = (client.snapshot().await?, 0);
    let mut left = 1;
    while let Some(piece) = stream.message().await? {
        bytes += piece.blob().len();
        left = piece.remaining_bytes();
    }
    ensure!(bytes > 1000 && left == 0, "{bytes} bytes, {left} left");
    Ok(())
}
