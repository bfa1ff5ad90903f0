//! Blank machines boot from the network and become a cluster. Runs with every test run.

mod world;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{Firmware, Lab, joined};
use world::{PATIENCE, test};

/// The operator gets in everywhere, by the key in the inventory, and by no other host key than the
/// one that was enrolled.
async fn log_in(lab: &Lab) -> Result<()> {
    let status = lab.server.status().await?;
    for name in lab.machines.iter().map(|machine| &machine.spec.name) {
        let node = status.nodes.get(name).context("no such node")?;
        let host_key = node.host_key.as_ref().context("it enrolled without a host key")?;
        let known = lab.dir().join("known_hosts");
        std::fs::write(&known, format!("{} {host_key}\n", node.address))?;
        let options = [
            format!("UserKnownHostsFile={}", known.display()),
            "StrictHostKeyChecking=yes".to_owned(),
            "BatchMode=yes".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "ConnectTimeout=60".to_owned(),
        ];
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-i"]).arg(lab.dir().join("ssh_key"));
        ssh.args(options.iter().flat_map(|option| ["-o", option]));
        let out = ssh.args(["-l", "root", &node.address, "cat /proc/sys/kernel/hostname"]).output();
        let out = out.context("run ssh: install openssh-client")?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{name} lets nobody in: {said}");
        ensure!(String::from_utf8_lossy(&out.stdout).trim() == name, "{name} is somebody else");
    }
    Ok(())
}

#[test]
fn three_blank_machines_form_a_cluster_and_form_it_again_from_their_disks() -> Result<()> {
    test(
        |_| {},
        async |lab| {
            lab.power_on()?;
            lab.wait_joined(PATIENCE).await?;
            lab.prove(3).await?;
            log_in(lab).await?;
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
            lab.prove(3).await?;
            log_in(lab).await
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
            lab.prove(1).await?;
            log_in(lab).await
        },
    )
}
