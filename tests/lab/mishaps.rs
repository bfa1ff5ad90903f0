//! What goes wrong around an install. `./scripts/test --lab`

mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bootserver::wire::NodeOrder;
use lab::{Lab, Machine, joined};
use world::{PATIENCE, test};

/// Waits until the first machine has told the boot server that it is at this step, or past it.
async fn at(lab: &mut Lab, number: usize, step: &str) -> Result<()> {
    lab.wait(number, &format!("it is at {step}"), PATIENCE, |status, machine| {
        status.report.as_ref().is_some_and(|report| {
            report.received > machine.powered_unix()
                && (report.progress.step == step || report.progress.phases.contains_key(step))
        })
    })
    .await
    .map(drop)
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn a_clock_ten_years_off() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            lab.machines[0].spec.clock = Some("2016-01-01".to_owned());
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            lab.prove(1).await.map(drop)
        },
    )
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn the_boot_server_is_killed_midway() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            lab.power_on()?;
            at(lab, 1, "disk").await?;
            lab.server.kill();
            tokio::time::sleep(Duration::from_secs(5)).await;
            lab.server.start().await?;
            lab.wait_joined(PATIENCE).await?;
            lab.prove(1).await.map(drop)
        },
    )
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn the_join_token_expires_midway() -> Result<()> {
    test(
        |options| {
            options.nodes = vec![1];
            options.server.token_seconds = Some(5);
        },
        async |lab| {
            lab.power_on()?;
            let operator = lab.server.operator()?;
            let first = testkit::eventually("a token is handed out", PATIENCE, async || {
                let tokens = operator.tokens().await?.tokens;
                tokens.into_iter().find(|token| token.node == "node01").context("there is none")
            })
            .await?;
            // it comes and goes while nobody is there to take it
            lab.server.kill();
            tokio::time::sleep(Duration::from_secs(7)).await;
            lab.server.start().await?;
            let state = states(lab).await?.remove(&first.id);
            ensure!(state.as_deref() == Some("expired"), "the first token is {state:?}");
            lab.wait_joined(PATIENCE).await?;
            let states = states(lab).await?;
            let used = states.iter().any(|(id, state)| *id != first.id && state == "used");
            ensure!(used, "no other token was used: {states:?}");
            lab.prove(1).await.map(drop)
        },
    )
}

/// How the tokens are, by id.
async fn states(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let tokens = lab.server.operator()?.tokens().await?.tokens;
    Ok(tokens.into_iter().map(|token| (token.id, token.state)).collect())
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn a_second_machine_with_the_same_uuid_changes_nothing() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            // the same UUID, and nothing else: by its serial number it would be another case
            let first = lab.machines[0].spec.clone();
            let mut spec = first.clone();
            spec.name = "twin".to_owned();
            spec.serial = "PLASMA-TWIN".to_owned();
            spec.mac = "52:54:00:20:00:99".to_owned();
            spec.tap = "tap99".to_owned();
            let dir = lab.dir().join("twin");
            std::fs::create_dir_all(&dir)?;
            spec.disks = vec![lab::Disk::blank(&dir, "PLASMA-DISK01", 8)?];
            lab.network().tap("tap99")?;
            let mut twin = Machine::new(&dir, spec)?;
            let sum = twin.spec.disks[0].checksum()?;
            twin.power_on()?;
            seen(lab, "52:54:00:20:00:99").await?;
            let begun = Instant::now();
            while !twin.console.text().contains("its UUID is the one of node01") {
                let said = twin.console.tail(20);
                ensure!(begun.elapsed() < PATIENCE, "it is told another reason:\n{said}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                twin.console.poll();
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
            twin.power_cut();
            ensure!(twin.spec.disks[0].checksum()? == sum, "the second machine's disk was touched");
            lab.prove(1).await.context("the first one goes on").map(drop)
        },
    )
}

async fn seen(lab: &mut Lab, mac: &str) -> Result<()> {
    testkit::eventually("the boot server has seen it", PATIENCE, || {
        let operator = lab.server.operator();
        async move {
            let machines = operator?.machines().await?;
            let known = machines.machines.iter().any(|seen| seen.mac == mac);
            ensure!(known, "not among {} machines", machines.machines.len());
            Ok(())
        }
    })
    .await
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn a_node_is_replaced_by_a_new_machine_with_an_empty_disk() -> Result<()> {
    test(
        |_| {},
        async |lab| {
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            lab.client()?.put("lab/kept", "by the others").await?;
            lab.machines[2].power_cut();
            lab.machines[2].spec.disks[0].replace_by_blank()?;
            lab.machines[2].spec.uuid = "00000000-0000-4000-8000-0000000000ff".to_owned();
            lab.server.operator()?.order("node03", NodeOrder::Replace, false).await?;
            lab.machines[2].power_on()?;
            lab.wait(3, "the new machine has joined", PATIENCE, joined).await?;
            let kept = lab.client()?.get("lab/kept").await?;
            ensure!(kept.is_some_and(|pair| pair.value == "by the others"), "data is lost");
            lab.prove(3).await.map(drop)
        },
    )
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn the_former_dies_while_it_forms() -> Result<()> {
    test(
        |_| {},
        async |lab| {
            lab.power_on()?;
            at(lab, 1, "join").await?;
            lab.machines[0].power_cut();
            tokio::time::sleep(Duration::from_secs(10)).await;
            lab.machines[0].power_on()?;
            lab.wait_joined(PATIENCE).await?;
            lab.prove(3).await.map(drop)
        },
    )
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn dhcp_hands_out_another_address_after_the_install() -> Result<()> {
    test(
        |options| {
            options.nodes = vec![1];
            options.proxy_dhcp = true;
        },
        async |lab| {
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            lab.power_cut();
            lab.foreign_dhcp(&[("52:54:00:20:00:11", "10.20.0.77")])?;
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            // at the inventory's address, whatever DHCP says
            lab.prove(1).await.map(drop)
        },
    )
}
