//! The small values: DNS labels, MAC addresses, WWNs, SSH keys.

use std::fmt;

use serde::{Serialize, Serializer};

/// The address of one network card, kept as six bytes so that spellings compare equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `52:54:00:20:00:11`, with `:` or `-`, in either case; no broadcast, group or zero.
    pub fn parse(text: &str) -> Option<Mac> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0u8; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next()?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let one_card = bytes[0] & 1 == 0 && bytes != [0; 6];
        (parts.next().is_none() && one_card).then_some(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A DNS label in lower case: letters, digits and inner hyphens, at most 63.
pub(crate) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    matches!(bytes.len(), 1..=63)
        && bytes.iter().all(|b| inner(*b))
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// Labels with dots between, at most 190 bytes so that a node's label still fits before it.
pub(crate) fn is_domain(text: &str) -> bool {
    text.len() <= 190 && text.split('.').all(is_label)
}

/// A WWN without what different tools put before it.
pub(crate) fn bare_wwn(wwn: &str) -> String {
    let lower = wwn.trim().to_lowercase();
    let mut rest = lower.as_str();
    for prefix in ["wwn-", "nvme-", "naa.", "eui.", "0x"] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    rest.to_owned()
}

/// One line `type base64 [comment]` of a public key; a private key is none.
pub(crate) fn is_ssh_key(text: &str) -> bool {
    const KINDS: [&str; 4] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
    let mut words = text.split(' ');
    let (Some(kind), Some(body)) = (words.next(), words.next()) else { return false };
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    KINDS.iter().any(|k| kind.starts_with(k))
        && body.starts_with("AAAA")
        && body.len() >= 40
        && body.bytes().all(base64)
        && !text.chars().any(char::is_control)
}

/// A serial or WWN: printable ASCII without blanks or quotes, since it is compared and logged.
pub(crate) fn is_serial(text: &str) -> bool {
    matches!(text.len(), 1..=128)
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!(Mac::parse("52:54:00:20:00:11"), Mac::parse("52-54-00-20-00-11"));
        assert_eq!(Mac::parse("52:54:00:AB:00:11").unwrap().to_string(), "52:54:00:ab:00:11");
        for bad in
            ["", "52:54:00:20:00", "52:54:00:20:00:11:12", "5:54:00:20:00:11", "zz:54:00:20:00:11"]
        {
            assert_eq!(Mac::parse(bad), None, "{bad}");
        }
        for not_a_card in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"] {
            assert_eq!(Mac::parse(not_a_card), None, "{not_a_card}");
        }
        assert_eq!(Mac::parse("+2:54:00:20:00:11"), None);
    }

    #[test]
    fn disks_are_named_by_all_that_is_given() {
        let which = |serial: Option<&str>, wwn: Option<&str>| crate::DiskMatch {
            serial: serial.map(str::to_owned),
            wwn: wwn.map(str::to_owned),
        };
        let (serial, wwn) = (Some("S1"), Some("wwn-0x5000C500A1B2C3D4"));
        for good in [
            which(serial, None),
            which(None, Some("naa.5000c500a1b2c3d4")),
            which(serial, Some("0x5000c500a1b2c3d4")),
        ] {
            assert!(good.names(serial, wwn), "{good:?}");
        }
        for bad in [
            which(None, None),
            which(Some("S2"), None),
            which(Some("S2"), wwn),
            which(serial, Some("0x5000c500a1b2c3d5")),
        ] {
            assert!(!bad.names(serial, wwn), "{bad:?}");
        }
        assert!(!which(serial, None).names(None, wwn) && !which(None, wwn).names(serial, None));
    }

    #[test]
    fn labels() {
        for good in ["a", "node01", "n-1", &"x".repeat(63)] {
            assert!(is_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "Node", "a.b", "a_b", "ä", &"x".repeat(64)] {
            assert!(!is_label(bad), "{bad}");
        }
        assert!(is_domain("plasma.internal") && is_domain("local"));
        assert!(!is_domain("plasma..internal") && !is_domain(".x") && !is_domain(""));
    }

    #[test]
    fn ssh_keys() {
        let body = format!("AAAAC3NzaC1lZDI1NTE5{}", "A".repeat(48));
        assert!(is_ssh_key(&format!("ssh-ed25519 {body} me@home")));
        assert!(is_ssh_key(&format!("ssh-ed25519 {body}")));
        assert!(!is_ssh_key("-----BEGIN OPENSSH PRIVATE KEY-----"));
        assert!(!is_ssh_key("ssh-ed25519"));
        assert!(!is_ssh_key(&format!("ssh-ed25519 {body}\nssh-rsa evil")));
    }
}
