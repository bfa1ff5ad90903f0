//! dnsmasq's log as ours.

/// A line of dnsmasq's without its own name: `dnsmasq-dhcp: DHCPACK(br0) …` is `DHCPACK(br0) …`.
fn text(line: &str) -> &str {
    match line.split_once(": ") {
        Some((name, rest)) if name.starts_with("dnsmasq") && !name.contains(' ') => rest.trim(),
        _ => line.trim(),
    }
}

/// Who must read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Warn,
    Info,
    Debug,
}

/// dnsmasq writes no level to standard error, so its words decide.
fn level(text: &str) -> Level {
    // firmware asks for a file's size first and breaks that transfer off on purpose
    const CALM: [&str; 3] = ["User aborted", "terminated by client", "file not found"];
    const BAD: [&str; 9] = [
        "fail",
        "error",
        "cannot",
        "warning",
        "no address",
        "unknown",
        "not using",
        "ignor",
        "abandon",
    ];
    const NEWS: [&str; 5] = ["DHCPACK", "DHCPNAK", "DHCPDECLINE", "sent ", "started, version"];
    let lower = text.to_ascii_lowercase();
    if CALM.iter().any(|word| text.contains(word)) {
        Level::Debug
    } else if BAD.iter().any(|word| lower.contains(word)) && !text.starts_with("DHCP") {
        Level::Warn
    } else if NEWS.iter().any(|word| text.starts_with(word)) || text.starts_with("PXE(") {
        Level::Info
    } else {
        Level::Debug
    }
}

/// Logs a line, and says whether it means that dnsmasq serves.
pub(super) fn line(line: &str) -> bool {
    let text = text(line);
    match level(text) {
        Level::Warn => tracing::warn!(said = text, "dnsmasq"),
        Level::Info => tracing::info!(said = text, "dnsmasq"),
        Level::Debug => tracing::debug!(said = text, "dnsmasq"),
    }
    text.starts_with("started, version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_decide_the_level() {
        let table = [
            ("dnsmasq: started, version 2.90 DNS disabled", Level::Info),
            ("dnsmasq-dhcp: DHCPACK(br0) 10.20.0.11 52:54:00:20:00:11 node01", Level::Info),
            ("dnsmasq-dhcp: DHCPDISCOVER(br0) 52:54:00:20:00:11", Level::Debug),
            (
                "dnsmasq-dhcp: DHCP, IP range 10.20.0.100 -- 10.20.0.199, lease time 1h",
                Level::Debug,
            ),
            ("dnsmasq-tftp: sent /run/x/undionly.kpxe to 10.20.0.11", Level::Info),
            ("dnsmasq-tftp: error 8 User aborted the transfer received from 1.2.3.4", Level::Debug),
            ("dnsmasq-dhcp: no address range available for DHCP request via br0", Level::Warn),
            ("dnsmasq: warning: interface br7 does not currently exist", Level::Warn),
            ("dnsmasq: failed to create listening socket for port 67: in use", Level::Warn),
        ];
        for (line, expected) in table {
            assert_eq!(level(text(line)), expected, "{line}");
        }
        assert!(super::line(table[0].0) && !super::line(table[1].0));
    }
}
