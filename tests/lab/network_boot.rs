//! Blank machines boot from the network and become a cluster. Runs with every test run.

mod world;

use anyhow::{Result, ensure};
use lab::{Firmware, joined};
use world::{PATIENCE, test};

#[test]
fn three_blank_machines_form_a_cluster_and_form_it_again_from_their_disks() -> Result<()> {
    test(
        |_| {},
        async |lab| {
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            lab.prove(3).await?;
            lab.client()?.put("lab/kept", "over the power cut").await?;

            lab.power_cut();
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            for machine in &lab.machines {
                let said = machine.console.text();
                ensure!(
                    said.contains("plasma.disk="),
                    "{} did not boot its disk",
                    machine.spec.name
                );
            }
            let kept = lab.client()?.get("lab/kept").await?;
            ensure!(kept.is_some_and(|pair| pair.value == "over the power cut"), "data is lost");
            lab.prove(3).await.map(drop)
        },
    )
}

#[test]
fn a_blank_machine_with_uefi_joins_and_boots_its_disk() -> Result<()> {
    test(
        |options| {
            options.nodes = vec![1];
            options.firmware = Firmware::Uefi;
        },
        async |lab| {
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            lab.prove(1).await?;

            lab.power_cut();
            lab.power_on()?;
            lab.wait(1, "it has joined from its disk", PATIENCE, joined).await?;
            let said = lab.machines[0].console.text();
            ensure!(said.contains("plasma.disk="), "it did not boot its disk");
            lab.prove(1).await.map(drop)
        },
    )
}
