//! Blank machines boot from the network and become a cluster. Runs with every test run.

#[path = "world/ssh.rs"]
mod ssh;
mod world;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{Firmware, Lab, joined};
use ssh::{said, ssh};
use world::{PATIENCE, test};

/// The operator gets in everywhere, by the key in the inventory, and by no other host key than the
/// one that was enrolled. Nobody else gets in, and sshd takes nothing but keys.
async fn log_in(lab: &Lab) -> Result<()> {
    let status = lab.server.status().await?;
    for machine in &lab.machines {
        let name = &machine.spec.name;
        let node = status.nodes.get(name).context("no such node")?;
        let host_key = node.host_key.as_ref().context("it enrolled without a host key")?;
        let log_in = |key: &str, command: &str| {
            let key = lab.dir().join(key);
            ssh(lab, &node.address, &key, Some(host_key), command)
        };
        let out = log_in("ssh_key", "cat /proc/sys/kernel/hostname")?;
        let hostname = said(&out).with_context(|| format!("{name} lets nobody in"))?;
        ensure!(hostname == *name, "{name} is {hostname}");
        make_key(lab, "strangers_key")?;
        let out = log_in("strangers_key", "true")?;
        let errors = String::from_utf8_lossy(&out.stderr);
        ensure!(!out.status.success(), "{name} lets a stranger in");
        ensure!(errors.contains("Permission denied (publickey)."), "{name} takes more: {errors}");
    }
    Ok(())
}

fn make_key(lab: &Lab, name: &str) -> Result<()> {
    let key = lab.dir().join(name);
    if !key.exists() {
        let mut ssh_keygen = Command::new("ssh-keygen");
        said(&ssh_keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).output()?)?;
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
