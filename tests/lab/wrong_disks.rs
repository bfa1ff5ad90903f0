//! A machine whose disks are not what the inventory says touches none of them. `./scripts/test --lab`

mod world;

use anyhow::{Context, Result, ensure};
use lab::{Disk, Lab, joined};
use serde_json::json;
use world::{PATIENCE, test};

/// Stops with `code` at its disk, is still stopped when asked again, and no disk has changed.
async fn stops(lab: &mut Lab, code: &str) -> Result<()> {
    let sums = sums(lab)?;
    lab.machines[0].power_on()?;
    // the unit starts the agent again, whose ledger goes on counting
    let mut generation = 0;
    for time in ["it stops", "it is stopped still"] {
        let what = format!("{time} with {code}");
        let status = lab
            .wait(1, &what, PATIENCE, |status, _| {
                status.report.as_ref().is_some_and(|report| {
                    report.progress.generation > generation
                        && report.progress.state == "failed"
                        && report.progress.detail.contains(code)
                })
            })
            .await?;
        generation = status.report.context("no report")?.progress.generation;
    }
    lab.machines[0].power_cut();
    ensure!(sums == self::sums(lab)?, "a disk has changed");
    Ok(())
}

fn sums(lab: &Lab) -> Result<Vec<String>> {
    lab.machines[0].spec.disks.iter().map(Disk::checksum).collect()
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn none_matches() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            lab.machines[0].spec.disks[0].serial = "ANOTHER".to_owned();
            stops(lab, "FB-2001").await
        },
    )
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn two_match() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            let dir = lab.dir().join("second");
            std::fs::create_dir_all(&dir)?;
            let second = Disk::blank(&dir, "PLASMA-DISK01", 8)?;
            lab.machines[0].spec.disks.push(second);
            stops(lab, "FB-2002").await
        },
    )
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn a_foreign_disk_needs_consent_by_serial() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            let disk = lab.machines[0].spec.disks[0].clone();
            // an ext4 that somebody made
            let made =
                std::process::Command::new("mkfs.ext4").arg("-q").arg(&disk.path).output()?;
            ensure!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
            stops(lab, "FB-2003").await.context("without consent")?;

            let node = &mut lab.inventory["nodes"]["node01"];
            node["disk"]["consentToErase"] = json!(["PLASMA-DISK01"]);
            lab.server.kill();
            lab.server.write_inventory(&lab.inventory)?;
            lab.server.start().await?;
            lab.machines[0].power_on()?;
            lab.wait(1, "it has joined with consent", PATIENCE, joined).await?;
            lab.prove(1).await.map(drop)
        },
    )
}
