//! What the boot loaders read, and the kernel's arguments of the installed system.

use crate::disk::ESP;

/// Arguments of the running system that the installed one must not have: they say where this boot
/// came from, or hold for it alone.
const ONCE: [&str; 15] = [
    "BOOT_IMAGE",
    "BOOTIF",
    "initrd",
    "ifname",
    "ip",
    "root",
    "rootflags",
    "plasma.root",
    "plasma.root_sha256",
    "plasma.layer",
    "plasma.layer_sha256",
    "plasma.disk",
    "plasma.target",
    "plasma.rescue",
    "plasma.agent",
];
const MACHINE_ID: &str = "systemd.machine_id";

/// The arguments of the installed system: those of the running one (consoles and what the operator
/// added), with the disk as where everything comes from, and what must be found there. No secret
/// was in them, and none is added.
pub(crate) fn arguments(
    running: &str,
    machine_id: &str,
    root_sha256: &str,
    layer_sha256: &str,
) -> String {
    let mut all: Vec<String> = running
        .split_whitespace()
        .filter(|word| {
            let key = word.split('=').next().unwrap_or_default();
            key != MACHINE_ID && !ONCE.contains(&key)
        })
        // what a loader's file cannot hold on one line is not taken over
        .filter(|word| word.chars().all(|c| c.is_ascii_graphic()))
        .map(str::to_owned)
        .collect();
    all.push(format!("plasma.disk=PARTLABEL={}", ESP));
    all.push(format!("plasma.root_sha256={root_sha256}"));
    all.push(format!("plasma.layer_sha256={layer_sha256}"));
    all.push("plasma.target=lab".to_owned());
    all.push(format!("{MACHINE_ID}={machine_id}"));
    all.join(" ")
}

/// `syslinux.cfg`, for a BIOS.
pub(crate) fn syslinux(arguments: &str) -> String {
    format!(
        "DEFAULT plasma\nPROMPT 0\nTIMEOUT 0\nLABEL plasma\n  LINUX /vmlinuz\n  \
         INITRD /initrd,/ca.cpio\n  APPEND {arguments}\n"
    )
}

/// `loader/loader.conf`, for UEFI.
pub(crate) const LOADER: &str = "timeout 0\ndefault plasma.conf\neditor no\n";

/// `loader/entries/plasma.conf`, for UEFI.
pub(crate) fn entry(node: &str, arguments: &str) -> String {
    format!(
        "title PlasmaCloud {node}\nlinux /vmlinuz\ninitrd /initrd\ninitrd /ca.cpio\noptions {arguments}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_takes_the_place_of_urls_and_consoles_stay() {
        let running = "BOOT_IMAGE=vmlinuz initrd=initrd initrd=ca.cpio console=tty0 \
            console=ttyS0,115200 plasma.root=http://10.20.0.1:8080/boot/images/root.squashfs \
            plasma.root_sha256=ab plasma.layer=http://x plasma.layer_sha256=cd plasma.target=lab \
            systemd.machine_id=00 ifname BOOTIF=01-52-54-00-20-00-11 panic=10 quiet\n";
        let arguments = arguments(running, "0123456789abcdef0123456789abcdef", "12", "34");
        assert_eq!(
            arguments,
            "console=tty0 console=ttyS0,115200 panic=10 quiet plasma.disk=PARTLABEL=plasma-esp \
             plasma.root_sha256=12 plasma.layer_sha256=34 plasma.target=lab systemd.machine_id=0123456789abcdef0123456789abcdef"
        );
        assert!(syslinux(&arguments).lines().all(|line| !line.contains("http")));
        assert!(entry("node01", &arguments).contains("initrd /ca.cpio\n"));
    }
}
