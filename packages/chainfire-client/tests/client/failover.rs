//! Members die and sleep; calls go on, or say exactly what is known of them.

use crate::world::{World, scenario};
use anyhow::Result;
use chainfire_client::{Client, Error, Options};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

scenario!(writes_are_never_doubled, 3);
async fn writes_are_never_doubled(mut world: World) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let acked: Vec<Arc<AtomicI64>> = (0..4).map(|_| Arc::default()).collect();
    let mut writers = Vec::new();
    for (number, acked) in acked.iter().cloned().enumerate() {
        let (client, stop) = (world.client()?, stop.clone());
        writers.push(tokio::spawn(async move {
            let key = format!("writer/{number}");
            let mut unknown = 0;
            while !stop.load(Ordering::Relaxed) {
                match client.put(key.clone(), "again").await {
                    Ok(_) => _ = acked.fetch_add(1, Ordering::Relaxed),
                    Err(error) if error.fate_unknown() => unknown += 1,
                    Err(_) => {}
                }
            }
            (key, unknown)
        }));
    }
    for place in 0..3 {
        // Kill in the midst of work.
        let so_far = |acked: &Arc<AtomicI64>| acked.load(Ordering::Relaxed);
        let before: Vec<i64> = acked.iter().map(so_far).collect();
        testkit::eventually("every writer goes on", Duration::from_secs(60), || async {
            let now: Vec<i64> = acked.iter().map(so_far).collect();
            anyhow::ensure!(before.iter().zip(&now).all(|(b, n)| n > b), "{before:?} {now:?}");
            Ok(())
        })
        .await?;
        world.kill(place);
        world.serving().await?;
        world.restart(place)?;
        world.serving().await?;
    }
    stop.store(true, Ordering::Relaxed);
    let client = world.client()?;
    for (writer, acked) in writers.into_iter().zip(acked) {
        let (key, unknown) = writer.await?;
        let acked = acked.load(Ordering::Relaxed);
        let version = client.get(key.clone()).await?.map_or(0, |kv| kv.version);
        assert!(
            (acked..=acked + unknown).contains(&version),
            "{key}: {acked} acknowledged, {unknown} unknown, but written {version} times"
        );
    }
    Ok(())
}

scenario!(a_silent_member_leaves_a_write_unknown, 1);
async fn a_silent_member_leaves_a_write_unknown(mut world: World) -> Result<()> {
    let options = Options { deadline: Duration::from_secs(1), ..Options::default() };
    let client = Client::connect_with(world.endpoints(), world.tls()?, options)?;
    // the deadline is for the silence below; a busy machine may need longer for the first write
    testkit::eventually("a write", Duration::from_secs(60), || async {
        client.put("k", "before").await?;
        Ok(())
    })
    .await?;
    world.pause(0)?;
    let error = client.put("k", "during").await.expect_err("nobody answers");
    assert!(error.fate_unknown(), "{error}");
    let error = client.get("k").await.expect_err("nobody answers");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    world.resume(0)?;
    testkit::eventually("a write again", Duration::from_secs(60), || async {
        client.put("k", "after").await?;
        Ok(())
    })
    .await
}

scenario!(a_dead_cluster_surely_did_nothing, 1);
async fn a_dead_cluster_surely_did_nothing(mut world: World) -> Result<()> {
    let options = Options { deadline: Duration::from_secs(1), ..Options::default() };
    world.kill(0);
    let client = Client::connect_with(world.endpoints(), world.tls()?, options)?;
    let error = client.put("k", "v").await.expect_err("nobody listens");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    world.restart(0)?;
    world.serving().await?;
    assert_eq!(client.get("k").await?, None);
    Ok(())
}

scenario!(members_and_status_are_told, 3);
async fn members_and_status_are_told(world: World) -> Result<()> {
    let client = world.client()?;
    let members = client.members().await?;
    assert_eq!(members.len(), 3);
    let status = client.status().await;
    let known: Vec<_> = status.iter().filter_map(|(_, status)| status.as_ref().ok()).collect();
    assert_eq!(known.len(), 3, "{status:?}");
    let leader = known[0].leader;
    assert!(members.iter().any(|member| member.id == leader));
    assert!(known.iter().all(|status| status.leader == leader));

    let place = known.iter().position(|status| status.member == leader).expect("leader");
    let other = members.iter().find(|member| member.id != leader).expect("another");
    client.move_leader(place, other.id).await?;
    testkit::eventually("another leads", Duration::from_secs(10), || async {
        let status = client.status().await;
        let moved = status.iter().flat_map(|(_, status)| status).all(|s| s.leader == other.id);
        anyhow::ensure!(moved, "{status:?}");
        Ok(())
    })
    .await
}
