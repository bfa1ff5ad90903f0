//! The texts that iPXE runs. No secret is in them: they go to whoever asks.
//!
//! The first script asks, for ever; what it gets runs inside it. A script that ends with `exit 1`
//! is asked for again, one that ends with `exit 0` leaves iPXE to the firmware, which goes on to
//! the next entry of its boot order: the disk. The first script itself leaves with a failure, since
//! UEFI firmware takes success for a boot that is over, and shows its menu.

use std::fmt::Write as _;

use inventory::Mac;

use super::decide::{Choice, Decision};
use super::images::Manifest;

/// How long an unknown machine shows that it is unknown, in seconds.
const UNKNOWN_PAUSE: u32 = 10;
/// How long a machine waits before it asks again, in seconds; the first script adds its own.
const WAIT_PAUSE: u32 = 5;

/// The first script: the same for every machine.
pub(crate) fn first(base: &str) -> String {
    format!(
        "#!ipxe\n\
         set pause:int32 1\n\
         :address\n\
         isset ${{netX/ip}} || dhcp || goto later\n\
         chain {base}/boot/script?mac=${{netX/mac}}&serial=${{serial:uristring}}&uuid=${{uuid}}\
         &arch=${{buildarch}}&platform=${{platform}} || goto later\n\
         exit 1\n\
         :later\n\
         echo PlasmaCloud: asking again in ${{pause}} s\n\
         sleep ${{pause}}\n\
         iseq ${{pause}} 8 || inc pause ${{pause}}\n\
         goto address\n"
    )
}

/// What the scripts of one machine are made from.
pub(crate) struct Parts<'a> {
    /// `http://10.20.0.1:8080`
    pub(crate) base: &'a str,
    /// What can be booted, when it can.
    pub(crate) manifest: Option<&'a Manifest>,
    /// From the settings.
    pub(crate) extra_args: &'a [String],
    /// 32 hex digits.
    pub(crate) machine_id: &'a str,
    /// The card that asks.
    pub(crate) mac: Option<Mac>,
}

/// The script of one machine.
pub(crate) fn render(choice: &Choice, parts: &Parts<'_>) -> String {
    let mut text = String::from("#!ipxe\n");
    let who = choice.node.as_deref().unwrap_or("this machine");
    // writing to a String cannot fail
    let _ = writeln!(text, "echo PlasmaCloud: {}: {}", said(who), choice.decision.name());
    for reason in &choice.reasons {
        let _ = writeln!(text, "echo {}", said(reason));
    }
    match (choice.decision, parts.manifest) {
        (Decision::Install | Decision::Rescue, Some(manifest)) => {
            boot(&mut text, choice.decision, manifest, parts);
        }
        (Decision::Install | Decision::Rescue | Decision::Wait, _) => {
            let _ = writeln!(text, "sleep {WAIT_PAUSE}\nexit 1");
        }
        (Decision::LocalDisk, _) => disk(&mut text),
        (Decision::Unknown, _) => {
            let _ = writeln!(text, "sleep {UNKNOWN_PAUSE}");
            disk(&mut text);
        }
    }
    text
}

fn boot(text: &mut String, decision: Decision, manifest: &Manifest, parts: &Parts<'_>) {
    let base = parts.base;
    let args = arguments(decision, manifest, parts).join(" ");
    let _ = write!(
        text,
        "imgfree\n\
         kernel --name vmlinuz {base}/boot/images/vmlinuz {args} || exit 1\n\
         initrd --name initrd {base}/boot/images/initrd || exit 1\n\
         initrd --name ca.cpio {base}/boot/ca.cpio || exit 1\n\
         boot || exit 1\n"
    );
}

/// The kernel's arguments.
pub(crate) fn arguments(decision: Decision, manifest: &Manifest, parts: &Parts<'_>) -> Vec<String> {
    let base = parts.base;
    let mut args = vec!["initrd=initrd".to_owned(), "initrd=ca.cpio".to_owned()];
    args.extend(["console=tty0", "console=ttyS0,115200"].map(str::to_owned));
    args.extend(manifest.cmdline.clone());
    for (key, name) in [("root", "root.squashfs"), ("layer", "plasma.squashfs")] {
        let Some(file) = manifest.files.get(name) else { continue };
        args.push(format!("plasma.{key}={base}/boot/images/{name}"));
        args.push(format!("plasma.{key}_sha256={}", file.sha256));
    }
    args.push(format!("plasma.target={}", manifest.target));
    args.push(format!("systemd.machine_id={}", parts.machine_id));
    if decision == Decision::Rescue {
        args.push("plasma.rescue=1".to_owned());
    }
    if let Some(mac) = parts.mac {
        args.push(format!("BOOTIF=01-{}", mac.to_string().replace(':', "-")));
    }
    args.extend(parts.extra_args.iter().cloned());
    args
}

fn disk(text: &mut String) {
    text.push_str(
        "iseq ${platform} efi && exit 0 ||\n\
         sanboot --no-describe --drive 0x80 ||\n\
         echo The local disk does not boot\n\
         exit 1\n",
    );
}

/// Reasons hold what strangers sent: nothing that iPXE would expand or run may be left in them.
fn said(text: &str) -> String {
    let plain = |c: char| {
        let fine = c.is_ascii_alphanumeric() || " .,:_-/()[]'".contains(c);
        if fine { c } else { ' ' }
    };
    text.chars().take(300).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = |digit: &str| format!("{{\"sha256\":\"{}\",\"bytes\":7}}", digit.repeat(64));
        Manifest::parse(
            format!(
                "{{\"version\":1,\"target\":\"lab\",\"kernel_release\":\"6.1\",\"files\":{{\
                 \"vmlinuz\":{},\"initrd\":{},\"root.squashfs\":{},\"plasma.squashfs\":{}}}}}",
                file("1"),
                file("2"),
                file("a"),
                file("b")
            )
            .as_bytes(),
        )
        .unwrap()
    }

    fn script(decision: Decision, reason: &str) -> String {
        let manifest = manifest();
        let parts = Parts {
            base: "http://10.20.0.1:8080",
            manifest: Some(&manifest),
            extra_args: &["quiet".to_owned()],
            machine_id: "0123456789abcdef0123456789abcdef",
            mac: Mac::parse("52:54:00:20:00:11"),
        };
        let node = Some("node01".to_owned());
        render(&Choice { decision, node, reasons: vec![reason.to_owned()] }, &parts)
    }

    #[test]
    fn the_install_script_is_the_contract_with_the_image() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let wanted = format!(
            "#!ipxe\n\
             echo PlasmaCloud: node01: install\n\
             echo it is not enrolled yet\n\
             imgfree\n\
             kernel --name vmlinuz http://10.20.0.1:8080/boot/images/vmlinuz initrd=initrd \
             initrd=ca.cpio console=tty0 console=ttyS0,115200 \
             plasma.root=http://10.20.0.1:8080/boot/images/root.squashfs plasma.root_sha256={a} \
             plasma.layer=http://10.20.0.1:8080/boot/images/plasma.squashfs \
             plasma.layer_sha256={b} plasma.target=lab \
             systemd.machine_id=0123456789abcdef0123456789abcdef BOOTIF=01-52-54-00-20-00-11 \
             quiet || exit 1\n\
             initrd --name initrd http://10.20.0.1:8080/boot/images/initrd || exit 1\n\
             initrd --name ca.cpio http://10.20.0.1:8080/boot/ca.cpio || exit 1\n\
             boot || exit 1\n"
        );
        assert_eq!(script(Decision::Install, "it is not enrolled yet"), wanted);
    }

    #[test]
    fn only_install_and_rescue_load_anything() {
        for decision in [Decision::LocalDisk, Decision::Wait, Decision::Unknown] {
            let text = script(decision, "x");
            assert!(!text.contains("kernel") && !text.contains("initrd"), "{text}");
        }
        assert!(script(Decision::Rescue, "x").contains(" plasma.rescue=1 "));
        assert!(!script(Decision::Install, "x").contains("plasma.rescue"));
    }

    #[test]
    fn strangers_words_run_nothing() {
        let text = script(Decision::Wait, "${cls} && shell || \"x\"\nshell ; exit");
        assert!(!text.contains('$') && !text.contains('&') && !text.contains(';'), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn a_nixos_image_brings_its_own_arguments() {
        let mut manifest = manifest();
        manifest.files.retain(|name, _| matches!(name.as_str(), "vmlinuz" | "initrd"));
        manifest.target = "nixos".to_owned();
        manifest.cmdline = Some("init=/nix/store/x/init".to_owned());
        let parts = Parts {
            base: "http://b",
            manifest: Some(&manifest),
            extra_args: &[],
            machine_id: "0",
            mac: None,
        };
        let args = arguments(Decision::Install, &manifest, &parts);
        assert!(args.contains(&"init=/nix/store/x/init".to_owned()));
        assert!(!args.iter().any(|arg| arg.starts_with("plasma.root")), "{args:?}");
    }
}
