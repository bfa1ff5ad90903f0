//! What the kernel says of this boot: its arguments, and how long it runs.

use std::fs;
use std::time::Duration;

use crate::MachineSettings;

/// The value of the last argument `name=value`; an argument without a value has an empty one.
pub(crate) fn argument(machine: &MachineSettings, name: &str) -> Option<String> {
    let line = fs::read_to_string(machine.path("/proc/cmdline")).unwrap_or_default();
    value(&line, name)
}

fn value(line: &str, name: &str) -> Option<String> {
    line.split_whitespace().rev().find_map(|word| match word.split_once('=') {
        Some((key, value)) => (key == name).then(|| value.to_owned()),
        None => (word == name).then(String::new),
    })
}

/// Whether this boot is for rescue alone: the boot server said so to the boot loader.
pub(crate) fn is_rescue(machine: &MachineSettings) -> bool {
    argument(machine, "plasma.rescue").is_some_and(|value| value != "0")
}

/// The folder from which the root was fetched; empty when it came from a disk.
pub(crate) fn images(machine: &MachineSettings) -> String {
    let root = argument(machine, "plasma.root").unwrap_or_default();
    root.rsplit_once('/').map(|(folder, _)| folder.to_owned()).unwrap_or_default()
}

/// The MAC of the card that booted, as the boot loader passed it: `BOOTIF=01-52-54-…`.
pub(crate) fn booted_from(machine: &MachineSettings) -> Option<String> {
    let value = argument(machine, "BOOTIF")?.to_lowercase();
    let mac = value.strip_prefix("01-").unwrap_or(&value).replace('-', ":");
    (mac.len() == 17).then_some(mac)
}

/// Since the kernel's start.
pub(crate) fn uptime(machine: &MachineSettings) -> Duration {
    let text = fs::read_to_string(machine.path("/proc/uptime")).unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_whole_and_the_last_one_counts() {
        let line = "initrd=x plasma.root=http://10.20.0.1:8080/boot/images/root.squashfs a=1 a=2 \
                    plasma.rescue BOOTIF=01-52-54-00-AB-cd-01\n";
        assert_eq!(value(line, "a").as_deref(), Some("2"));
        assert_eq!(value(line, "plasma.rescue").as_deref(), Some(""));
        assert_eq!(value(line, "plasma.roo"), None);
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(dir.path().join("proc")).expect("proc");
        std::fs::write(dir.path().join("proc/cmdline"), line).expect("cmdline");
        std::fs::write(dir.path().join("proc/uptime"), "12.34 20.00\n").expect("uptime");
        let machine = MachineSettings { root: dir.path().into(), tools: None };
        assert_eq!(images(&machine), "http://10.20.0.1:8080/boot/images");
        assert_eq!(booted_from(&machine).as_deref(), Some("52:54:00:ab:cd:01"));
        assert!(is_rescue(&machine));
        assert_eq!(uptime(&machine), Duration::from_millis(12_340));
    }
}
