//! Members die and sleep; calls go on, or say exactly what is known of them.

use crate::world::{World, scenario};
use anyhow::Result;
use chainfire_client::{Client, Error, Options};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

scenario!(writes_are_never_doubled, 3);
async fn writes_are_never_doubled(mut world: World) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for number in 0..4 {
        let (client, stop) = (world.client()?, stop.clone());
        writers.push(tokio::spawn(async move {
            let key = format!("writer/{number}");
            let (mut acked, mut unknown) = (0i64, 0i64);
            while !stop.load(Ordering::Relaxed) {
                match client.put(key.clone(), format!("{acked}")).await {
                    Ok(_) => acked += 1,
                    Err(error) if error.fate_unknown() => unknown += 1,
                    Err(_) => {}
                }
            }
            (key, acked, unknown)
        }));
    }
    for place in 0..3 {
        world.kill(place);
        world.serving().await?;
        world.restart(place)?;
        world.serving().await?;
    }
    stop.store(true, Ordering::Relaxed);
    let client = world.client()?;
    for writer in writers {
        let (key, acked, unknown) = writer.await?;
        let version = client.get(key.clone()).await?.map_or(0, |kv| kv.version);
        assert!(
            (acked..=acked + unknown).contains(&version),
            "{key}: {acked} acknowledged, {unknown} unknown, but written {version} times"
        );
        assert!(acked > 0, "{key}: nothing was written");
    }
    Ok(())
}

scenario!(a_silent_member_leaves_a_write_unknown, 1);
async fn a_silent_member_leaves_a_write_unknown(mut world: World) -> Result<()> {
    let options = Options { deadline: Duration::from_secs(1), ..Options::default() };
    let client = Client::connect_with(world.endpoints(), world.tls()?, options)?;
    client.put("k", "before").await?;
    world.pause(0)?;
    let error = client.put("k", "during").await.expect_err("nobody answers");
    assert!(error.fate_unknown(), "{error}");
    let error = client.get("k").await.expect_err("nobody answers");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    world.resume(0)?;
    world.serving().await?;
    client.put("k", "after").await?;
    Ok(())
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
