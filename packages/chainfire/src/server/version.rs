//! Which version this member says it is, and what it says to a wish for an older one.

use super::refusal;
use tonic::Status;

/// The version of etcd whose API this is: clients decide by it what they may use. Cluster and
/// storage say the same, since Chainfire has one format.
pub(crate) const VERSION: &str = "3.7.0";

/// What a downgrade to a version is answered: there is no older format to go to, but a text that
/// names no version is told so, as etcd does.
pub(super) fn downgrade(target: &str) -> Status {
    if names_version(target) {
        Status::from(&refusal::NO_DOWNGRADE)
    } else {
        Status::from(&refusal::NO_VERSION)
    }
}

/// `3.5`, `3.5.1`, `v3.5.0-rc.1`.
fn names_version(text: &str) -> bool {
    let text = text.strip_prefix('v').unwrap_or(text);
    let plain = text.split(['-', '+']).next().unwrap_or(text);
    let parts: Vec<&str> = plain.split('.').collect();
    let number = |part: &&str| (1..=9).contains(&part.len()) && part.parse::<u32>().is_ok();
    (2..=3).contains(&parts.len()) && parts.iter().all(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_are_taken_for_versions() {
        for text in ["3.5", "3.5.1", "v3.6.0", "3.6.0-rc.1", "3.6.0+meta"] {
            let status = downgrade(text);
            assert_eq!(status.message(), "etcdserver: invalid downgrade target version", "{text}");
        }
        for text in ["", "3", "3.", ".5", "3.x", "3.5.1.2", "three", "3.99999999999"] {
            let status = downgrade(text);
            let wrong = "etcdserver: wrong downgrade target version format";
            assert_eq!(status.message(), wrong, "{text}");
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
    }
}
