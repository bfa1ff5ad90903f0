//! Disks on which md, LVM and LUKS left their traces, made by the real tools in a rescue system:
//! untouched without consent, taken down and installed on with it. `./scripts/test --lab`
#![allow(clippy::print_stderr, reason = "a long run says how far it is")]

#[path = "world/ssh.rs"]
mod ssh;
mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bootserver::wire::NodeOrder;
use lab::{Disk, Lab, joined};
use serde_json::{Value, json};
use ssh::said;
use world::{PATIENCE, test};

const STACK: &str = "REMAINS-STACK";
const OTHER: &str = "REMAINS-OTHER";
/// A disk, and what is found on it.
const COLD: [(&str, &str); 3] = [
    ("REMAINS-MD", "linux_raid_member"),
    ("REMAINS-LVM", "LVM2_member"),
    ("REMAINS-LUKS", "crypto_LUKS"),
];

/// Sets `D` to the disk with a serial number.
const FIND: &str = r#"set -eu
disk() { lsblk -dnpo NAME,SERIAL | sed -n "s/ *$1\$//p"; }
key() { printf secret | cryptsetup --batch-mode --key-file - "$@"; }
luks() { key luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$1"; }
"#;

/// Whole disks, each put to rest again: a superblock at the disk's end with a filesystem before it,
/// a volume group, an encrypted filesystem.
const MAKE_COLD: &str = r#"
D=$(disk REMAINS-MD)
mdadm --create /dev/md/cold --run --metadata=1.0 --level=1 --raid-devices=2 "$D" missing
mkfs.ext4 -q /dev/md/cold
mdadm --stop /dev/md/cold
D=$(disk REMAINS-LVM)
pvcreate -q "$D"
vgcreate -q cold "$D"
lvcreate -q -y -n data -L 1G cold
mkfs.ext4 -q /dev/cold/data
vgchange -q -an cold
D=$(disk REMAINS-LUKS)
luks "$D"
key open "$D" cold
mkfs.ext4 -q /dev/mapper/cold
cryptsetup close cold
sync
"#;

/// A stack that runs: partitions, md, LUKS, LVM, a filesystem that is mounted, swap; and an array
/// that reaches over to another disk.
const MAKE_STACK: &str = r#"
D=$(disk REMAINS-STACK)
sgdisk --clear --new=1:0:+256M --new=2:0:+4G --new=3:0:+1G "$D"
udevadm settle
mkswap "${D}1"
swapon "${D}1"
mdadm --create /dev/md/stack --run --metadata=1.2 --level=1 --raid-devices=2 "${D}2" missing
luks /dev/md/stack
key open /dev/md/stack opened
pvcreate -q /dev/mapper/opened
vgcreate -q stack /dev/mapper/opened
lvcreate -q -y -n data -L 1G stack
mkfs.ext4 -q /dev/stack/data
mount /dev/stack/data /mnt
echo precious >/mnt/file
mdadm --create /dev/md/span --run --metadata=1.2 --level=1 --raid-devices=2 --assume-clean "${D}3" "$(disk REMAINS-OTHER)"
sync
lsblk -npo TYPE "$D"
"#;

/// The rescue system becomes the installer, with all that runs in it. Its arguments are read once:
/// from then on they are the file that they were written to.
const INSTALL: &str = r#"
[ -e /run/cmdline ] || {
  sed 's/plasma.rescue=1//' /proc/cmdline >/run/cmdline
  mount --bind /run/cmdline /proc/cmdline
}
systemctl restart firstboot
"#;

/// In the rescue system, whose host key nobody knows.
fn run(lab: &Lab, script: &str) -> Result<String> {
    let key = lab.dir().join("ssh_key");
    let script = format!("{FIND}{script}");
    let out = ssh::ssh(lab, &lab.machines[0].spec.address, &key, None, &script)?;
    said(&out)
}

async fn lets_in(lab: &mut Lab) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = run(lab, "true") {
        lab.look()?;
        let said = || lab.machines[0].console.tail(40);
        ensure!(begun.elapsed() < PATIENCE, "the rescue lets nobody in: {error:#}\n{}", said());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// The boot server starts with another disk in the inventory, and consent or none.
async fn want(lab: &mut Lab, serial: &str, consents: &[&str]) -> Result<()> {
    let disk: &mut Value = &mut lab.inventory["nodes"]["node01"]["disk"];
    disk["match"] = json!({ "serial": serial });
    disk["consentToErase"] = json!(consents);
    lab.server.kill();
    lab.server.write_inventory(&lab.inventory)?;
    lab.server.start().await
}

/// Says which disk it stopped for, from now on.
async fn stops(lab: &mut Lab, code: &str) -> Result<String> {
    let report = lab.server.status().await?.nodes.remove("node01").and_then(|node| node.report);
    let before = report.map(|report| report.received).unwrap_or_default();
    let status = lab
        .wait(1, &format!("it stops with {code}"), PATIENCE, |status, machine| {
            let report = status.report.as_ref();
            report.is_some_and(|report| {
                report.received > before.max(machine.powered_unix())
                    && report.progress.state == "failed"
                    && report.progress.detail.contains(code)
            })
        })
        .await?;
    Ok(status.report.map(|report| report.progress.detail).unwrap_or_default())
}

fn sums(lab: &Lab) -> Result<Vec<(String, String)>> {
    let of = |disk: &Disk| Ok((disk.serial.clone(), disk.checksum()?));
    lab.machines[0].spec.disks.iter().map(of).collect()
}

/// Those that differ.
fn changed(lab: &Lab, before: &[(String, String)]) -> Result<Vec<String>> {
    let now = sums(lab)?;
    let differ = before.iter().zip(now).filter(|(old, new)| **old != *new);
    Ok(differ.map(|(old, _)| old.0.clone()).collect())
}

#[test]
#[ignore = "long: ./scripts/test --lab"]
fn md_lvm_and_luks_are_taken_down_with_consent_and_stay_without() -> Result<()> {
    test(
        |options| options.nodes = vec![1],
        async |lab| {
            let serials = COLD.iter().map(|(serial, _)| *serial).chain([STACK, OTHER]);
            let dir = lab.machines[0].spec.disks[0].path.parent().context("a folder")?.to_owned();
            let disks: Result<Vec<Disk>> = serials.map(|s| Disk::blank(&dir, s, 8)).collect();
            lab.machines[0].spec.disks = disks?;
            lab.server.operator()?.order("node01", NodeOrder::Rescue, false).await?;
            lab.machines[0].power_on()?;
            lets_in(lab).await?;
            run(lab, MAKE_COLD).context("make disks with remains")?;
            let made = run(lab, MAKE_STACK).context("make a stack that runs")?;
            for kind in ["part", "raid1", "crypt", "lvm"] {
                ensure!(made.lines().any(|line| line.trim() == kind), "no {kind} in {made}");
            }
            running(lab).await.context("what runs")?;
            eprintln!("a stack that ran: joined after {:.0?}", lab.machines[0].uptime());
            lab.machines[0].power_cut();

            for (serial, trace) in COLD {
                at_rest(lab, serial, trace).await.with_context(|| serial.to_owned())?;
                eprintln!("{serial}: joined after {:.0?}", lab.machines[0].uptime());
            }
            // nothing of what was there comes back at the disk's own boot
            lab.machines[0].power_cut();
            lab.machines[0].spec.disks.retain(|disk| disk.serial == COLD[2].0);
            lab.machines[0].power_on()?;
            lab.wait(1, "it has joined from its disk", PATIENCE, joined).await?;
            let said = lab.machines[0].console.text();
            ensure!(said.contains("plasma.disk="), "it did not boot its disk");
            lab.prove(1).await.map(drop)
        },
    )
}

/// Everything on the disk is in use: mounted, swapped to, mapped, and part of an array.
async fn running(lab: &mut Lab) -> Result<()> {
    let edge =
        r#"dd if="$(disk REMAINS-STACK)" bs=1M count=1 iflag=direct 2>/dev/null | sha256sum"#;
    let before = run(lab, edge)?;
    want(lab, STACK, &[STACK]).await?;
    run(lab, INSTALL)?;
    // the one disk's consent is not the other's
    let why = stops(lab, "FB-2005").await?;
    ensure!(why.contains(OTHER), "it names no other disk: {why}");
    ensure!(run(lab, edge)? == before, "the disk was written to");
    ensure!(run(lab, "cat /mnt/file")? == "precious", "something was taken down");
    // put to rest it is no less the other's
    run(lab, "mdadm --stop /dev/md/span; sync")?;
    run(lab, INSTALL)?;
    let why = stops(lab, "FB-2005").await?;
    ensure!(why.contains(OTHER), "it names no other disk: {why}");
    ensure!(run(lab, "cat /mnt/file")? == "precious", "something was taken down");
    run(lab, "mdadm --zero-superblock \"$(disk REMAINS-OTHER)\"; sync")?;
    let before = sums(lab)?;
    run(lab, INSTALL)?;
    lab.wait(1, "it has joined", PATIENCE, joined).await?;
    lab.prove(1).await?;
    ensure!(changed(lab, &before)? == [STACK], "another disk changed");
    Ok(())
}

/// A disk that was in use before the machine was powered off.
async fn at_rest(lab: &mut Lab, serial: &str, trace: &str) -> Result<()> {
    lab.machines[0].power_cut();
    lab.server.forget().await?;
    want(lab, serial, &[]).await?;
    let before = sums(lab)?;
    lab.machines[0].power_on()?;
    let why = stops(lab, "FB-2003").await?;
    ensure!(why.contains(trace), "it does not say what it found: {why}");
    lab.machines[0].power_cut();
    ensure!(changed(lab, &before)?.is_empty(), "a disk changed without consent");

    want(lab, serial, &[serial]).await?;
    lab.machines[0].power_on()?;
    lab.wait(1, "it has joined with consent", PATIENCE, joined).await?;
    lab.prove(1).await?;
    ensure!(changed(lab, &before)? == [serial], "another disk changed");
    Ok(())
}
