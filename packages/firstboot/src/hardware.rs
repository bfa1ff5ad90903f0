//! What the machine is made of, for the boot server and its operators. It informs: nothing here
//! decides which disk is used (see `disk`), and what cannot be read is left empty.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bootserver::wire::{DiskSeen, Hardware, Nic};
use serde::Deserialize;

use crate::{MachineSettings, command};

/// Firmware and disks may say anything: no text is longer, no list has more.
const TEXT_MAX: usize = 128;
const LIST_MAX: usize = 64;

/// All that can be seen.
pub(crate) async fn seen(machine: &MachineSettings) -> Hardware {
    let dmi = |name: &str| word(&machine.path("/sys/class/dmi/id").join(name));
    let processors = fs::read_to_string(machine.path("/proc/cpuinfo")).unwrap_or_default();
    let memory = fs::read_to_string(machine.path("/proc/meminfo")).unwrap_or_default();
    let uefi = machine.path("/sys/firmware/efi").exists();
    Hardware {
        vendor: dmi("sys_vendor").unwrap_or_default(),
        product: dmi("product_name").unwrap_or_default(),
        serial: dmi("product_serial"),
        uuid: dmi("product_uuid").map(|uuid| uuid.to_lowercase()),
        firmware: if uefi { "uefi" } else { "bios" }.to_owned(),
        cpu: field(&processors, "model name").map(bounded).unwrap_or_default(),
        cpus: processors.lines().filter(|line| line.starts_with("processor")).count() as u32,
        memory_bytes: field(&memory, "MemTotal").and_then(kibibytes).unwrap_or_default(),
        disks: disks(machine).await,
        nics: nics(machine),
        tpm: machine.path("/sys/class/tpm/tpm0").exists(),
    }
}

fn bounded(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}

/// A file's one line; `None` when it is missing or empty.
fn word(path: &Path) -> Option<String> {
    let text = bounded(&fs::read_to_string(path).ok()?);
    (!text.is_empty()).then_some(text)
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

/// Real network cards, by name: virtual ones have no device behind them.
pub(crate) fn nics(machine: &MachineSettings) -> Vec<Nic> {
    let Ok(cards) = fs::read_dir(machine.path("/sys/class/net")) else { return Vec::new() };
    let mut nics: Vec<Nic> = cards
        .filter_map(Result::ok)
        .filter(|card| card.path().join("device").exists())
        .filter_map(|card| {
            let (path, name) = (card.path(), card.file_name().into_string().ok()?);
            let driver = fs::canonicalize(path.join("device/driver")).ok();
            Some(Nic {
                name: bounded(&name),
                mac: word(&path.join("address"))?.to_lowercase(),
                driver: driver
                    .and_then(|driver| Some(bounded(driver.file_name()?.to_str()?)))
                    .unwrap_or_default(),
                // a card that is down has no carrier to read
                link: word(&path.join("carrier")).as_deref() == Some("1"),
            })
        })
        .collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics.truncate(LIST_MAX);
    nics
}

#[derive(Deserialize)]
struct Listed {
    blockdevices: Vec<Block>,
}

#[derive(Deserialize)]
struct Block {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    size: Option<u64>,
    serial: Option<String>,
    wwn: Option<String>,
    model: Option<String>,
    rota: Option<bool>,
    fstype: Option<String>,
    pttype: Option<String>,
    #[serde(default)]
    children: Vec<Block>,
}

async fn disks(machine: &MachineSettings) -> Vec<DiskSeen> {
    const COLUMNS: &str = "NAME,TYPE,SIZE,SERIAL,WWN,MODEL,ROTA,FSTYPE,PTTYPE";
    let args = ["--json", "--bytes", "--output", COLUMNS];
    let listed = command::run(&machine.tool("lsblk"), &args).await.and_then(|text| {
        serde_json::from_str::<Listed>(&text).map_err(|error| format!("lsblk: {error}"))
    });
    match listed {
        Ok(listed) => listed
            .blockdevices
            .iter()
            .filter(|block| block.kind == "disk" && block.size.is_some_and(|bytes| bytes > 0))
            .take(LIST_MAX)
            .map(|block| disk(machine, block))
            .collect(),
        Err(why) => {
            tracing::warn!(%why, "disks are not reported");
            Vec::new()
        }
    }
}

fn disk(machine: &MachineSettings, block: &Block) -> DiskSeen {
    let text = |value: &Option<String>| value.as_deref().map(bounded).filter(|t| !t.is_empty());
    let mut traces = Vec::new();
    find_traces(block, &mut traces);
    if has_claim(&machine.path("/dev").join(&block.name)) {
        traces.push("plasma-claim".to_owned());
    }
    traces.truncate(LIST_MAX);
    DiskSeen {
        name: bounded(&block.name),
        bytes: block.size.unwrap_or_default(),
        serial: text(&block.serial),
        wwn: text(&block.wwn),
        model: text(&block.model),
        rotational: block.rota.unwrap_or_default(),
        traces,
    }
}

/// Partition table and signatures, of the disk and of what lies in it; each once.
fn find_traces(block: &Block, traces: &mut Vec<String>) {
    for trace in [&block.pttype, &block.fstype].into_iter().flatten() {
        let trace = bounded(trace);
        if !trace.is_empty() && !traces.contains(&trace) {
            traces.push(trace);
        }
    }
    for child in &block.children {
        find_traces(child, traces);
    }
}

/// Whether the disk bears a claim of some cluster; whose, the step disk reads.
fn has_claim(device: &Path) -> bool {
    let mut magic = [0; 12];
    let read = File::open(device).and_then(|file| file.read_exact_at(&mut magic, 2047 * 512));
    read.is_ok() && &magic == b"PLASMACLAIM1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_disk_is_listed_once() {
        let text = r#"{"blockdevices":[{"name":"vda","type":"disk","size":8,"serial":" S1 ",
            "wwn":null,"model":"","rota":true,"fstype":null,"pttype":"gpt","children":[
            {"name":"vda1","type":"part","size":4,"rota":true,"fstype":"LVM2_member","pttype":"gpt",
             "children":[{"name":"vg-a","type":"lvm","size":4,"fstype":"ext4"}]},
            {"name":"vda2","type":"part","size":4,"fstype":"LVM2_member","pttype":"gpt"}]}]}"#;
        let listed: Listed = serde_json::from_str(text).expect("lsblk's words");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let machine = MachineSettings { root: dir.path().into(), tools: None };
        let seen = disk(&machine, &listed.blockdevices[0]);
        assert_eq!(seen.traces, ["gpt", "LVM2_member", "ext4"]);
        assert_eq!(seen.serial.as_deref(), Some("S1"));
        assert_eq!(seen.model, None);
        std::fs::create_dir(dir.path().join("dev")).expect("dev");
        let mut bytes = vec![0; 2048 * 512];
        bytes[2047 * 512..2047 * 512 + 12].copy_from_slice(b"PLASMACLAIM1");
        std::fs::write(dir.path().join("dev/vda"), bytes).expect("a disk");
        let seen = disk(&machine, &listed.blockdevices[0]);
        assert_eq!(seen.traces.last().map(String::as_str), Some("plasma-claim"));
    }
}
