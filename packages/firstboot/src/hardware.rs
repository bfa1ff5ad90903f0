//! What the machine is made of, for the boot server and its operators. It informs: nothing here
//! decides which disk is used (see `disk`), and what cannot be read is left empty.

use std::fs;
use std::path::Path;

use bootserver::wire::{DiskSeen, Hardware, Nic};

use crate::MachineSettings;

/// Firmware and disks may say anything: no text is longer, no list has more.
const TEXT_MAX: usize = 128;
const LIST_MAX: usize = 64;

/// All that can be seen; the disks as the step disk sees them.
pub(crate) fn seen(machine: &MachineSettings, disks: Vec<DiskSeen>) -> Hardware {
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
        disks,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_shows_is_reported_and_what_it_does_not_is_empty() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let machine = MachineSettings { root: dir.path().into(), tools: None };
        let empty = seen(&machine, Vec::new());
        assert_eq!(empty, Hardware { firmware: "bios".into(), ..Hardware::default() });
        let long = format!("PLASMA\u{7}{}", "x".repeat(500));
        for (path, text) in [
            ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
            ("sys/class/dmi/id/product_name", &long),
            ("sys/class/dmi/id/product_uuid", "AB-CD\n"),
            ("sys/class/net/ens3/address", "52:54:00:AA:00:01\n"),
            ("sys/class/net/ens3/carrier", "1\n"),
            ("sys/class/net/ens3/device/driver/x", ""),
            ("sys/class/net/lo/address", "00:00:00:00:00:00\n"),
            ("sys/class/tpm/tpm0/x", ""),
            ("sys/firmware/efi/x", ""),
            ("proc/cpuinfo", "processor : 0\nmodel name : a cpu\nprocessor : 1\n"),
            ("proc/meminfo", "MemTotal:  1024 kB\nMemFree: 1 kB\n"),
        ] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        let seen = seen(&machine, Vec::new());
        assert_eq!((seen.vendor.as_str(), seen.serial), ("QEMU", None));
        assert_eq!((seen.product.len(), seen.product.contains('\u{7}')), (TEXT_MAX, false));
        assert_eq!((seen.uuid.as_deref(), seen.firmware.as_str()), (Some("ab-cd"), "uefi"));
        assert_eq!((seen.cpu.as_str(), seen.cpus, seen.memory_bytes), ("a cpu", 2, 1 << 20));
        assert!(seen.tpm);
        let [nic] = seen.nics.as_slice() else { panic!("{:?}", seen.nics) };
        assert_eq!((nic.mac.as_str(), nic.link), ("52:54:00:aa:00:01", true));
    }
}
