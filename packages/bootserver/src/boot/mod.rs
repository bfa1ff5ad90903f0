//! Netboot: which node is a machine, what does it boot, and the files for it.
//!
//! [`find`] and [`decide`] are pure: inventory, registry and what the machine says go in, a decision
//! with its reasons comes out. The same decision answers iPXE, the agent and the operator, so that
//! nobody can be told to install by one route and to boot its disk by another.

pub mod cpio;
mod decide;
mod fit;
pub(crate) mod images;
pub(crate) mod machines;
pub(crate) mod range;
pub(crate) mod script;
pub(crate) mod serve;
pub(crate) mod streams;

pub use decide::{Choice, Decision, Facts, Known, Moment, decide, decide_node};
pub use fit::{Asking, Fit, find};

/// A node's machine id: the same in installer and system, and after a new install.
pub fn machine_id(cluster_id: &str, node: &str) -> String {
    let text = format!("machine-id of {node} in {cluster_id}");
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_stable_and_its_own() {
        let one = machine_id("01900000-0000-7000-8000-000000000000", "node01");
        assert_eq!(one, machine_id("01900000-0000-7000-8000-000000000000", "node01"));
        assert_ne!(one, machine_id("01900000-0000-7000-8000-000000000000", "node02"));
        assert_ne!(one, machine_id("01900000-0000-7000-8000-000000000001", "node01"));
        assert!(one.len() == 32 && one.bytes().all(|b| b.is_ascii_hexdigit()), "{one}");
    }
}
