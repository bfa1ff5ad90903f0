//! Power is cut while a machine installs itself. It always ends up joined. `./scripts/test --lab`
#![allow(clippy::print_stderr, reason = "a long run says how far it is")]

mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::timing::STEPS;
use lab::{Disk, Lab, joined};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use world::{PATIENCE, test};

/// How many random moments; each takes an install of its own.
fn moments() -> u32 {
    number("PLASMA_LAB_CUTS", 20)
}

/// At which steps; `PLASMA_LAB_STEPS=gates,bless` names some of them.
fn steps() -> Vec<&'static str> {
    let chosen = std::env::var("PLASMA_LAB_STEPS").ok();
    let is_chosen = |step: &str| {
        chosen.as_ref().is_none_or(|chosen| chosen.split(',').any(|chosen| chosen == step))
    };
    STEPS.into_iter().filter(|step| is_chosen(step)).collect()
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A disk that belongs to nobody in the inventory, with something on it.
fn beside(lab: &mut Lab) -> Result<(Disk, String)> {
    let disk = Disk::blank(lab.dir(), "SOMEBODYS-DISK", 1)?;
    disk.write(1 << 20, &[0xa5; 4096])?;
    lab.machines[0].spec.disks.push(disk.clone());
    let sum = disk.checksum()?;
    Ok((disk, sum))
}

async fn goes_on_to_join(lab: &mut Lab) -> Result<()> {
    lab.machines[0].power_on()?;
    lab.wait(1, "it has joined after the cut", PATIENCE, joined).await?;
    lab.prove(1).await.map(drop)
}

/// A machine as new: blank disk, and the boot server has never heard of it.
async fn start_over(lab: &mut Lab) -> Result<()> {
    lab.machines[0].power_cut();
    lab.machines[0].spec.disks[0].replace_by_blank()?;
    lab.server.forget().await
}

/// Waits until emulating the machine has taken so much processor time, which says how far it is
/// however busy the host is; or until it is as far as it gets.
async fn has_worked(lab: &mut Lab, moment: Duration) -> Result<()> {
    let begun = Instant::now();
    while lab.machines[0].cpu() < moment && begun.elapsed() < PATIENCE {
        lab.look()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// At which step the boot server knows it to be.
async fn step(lab: &Lab) -> String {
    let status = lab.server.status().await.unwrap_or_default();
    let report = status.nodes.get("node01").and_then(|node| node.report.as_ref());
    report.map_or("before its first report".to_owned(), |report| {
        format!("{} {}", report.progress.step, report.progress.state)
    })
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn cut_at_every_step_it_still_joins() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            let (other, sum) = beside(lab)?;
            let steps = steps();
            ensure!(!steps.is_empty(), "PLASMA_LAB_STEPS names no step of {STEPS:?}");
            for step in steps {
                start_over(lab).await?;
                lab.machines[0].power_on()?;
                lab.wait(1, &format!("it is at {step}"), PATIENCE, |status, machine| {
                    status.report.as_ref().is_some_and(|report| {
                        report.received > machine.powered_unix()
                            && (report.progress.step == step
                                || report.progress.phases.contains_key(step))
                    })
                })
                .await?;
                lab.machines[0].power_cut();
                goes_on_to_join(lab).await.with_context(|| format!("after a cut at {step}"))?;
                ensure!(other.checksum()? == sum, "another disk changed after a cut at {step}");
                eprintln!("cut at {step}: joined after {:.0?}", lab.machines[0].uptime());
            }
            Ok(())
        },
    )
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn cut_at_random_moments_it_still_joins() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            let (other, sum) = beside(lab)?;
            let seed = number("PLASMA_LAB_SEED", 1);
            let mut random = SmallRng::seed_from_u64(seed.into());
            lab.machines[0].power_on()?;
            lab.wait(1, "it has joined", PATIENCE, joined).await?;
            let whole = lab.machines[0].cpu();
            for round in 1..=moments() {
                start_over(lab).await?;
                lab.machines[0].power_on()?;
                // from the kernel's start on; firmware writes nothing
                let part = random.random_range(0.3..1.0);
                has_worked(lab, whole.mul_f64(part)).await?;
                let step = step(lab).await;
                lab.machines[0].power_cut();
                let moment = format!("seed {seed}, round {round}: cut at {part:.3}, {step}");
                goes_on_to_join(lab).await.with_context(|| moment.clone())?;
                ensure!(other.checksum()? == sum, "another disk changed: {moment}");
                eprintln!("{moment}, joined {:.0?} after power-on", lab.machines[0].uptime());
            }
            Ok(())
        },
    )
}
