//! Certificates that the boot server makes for itself and its operator, and renews in time.

use std::time::Duration;

use fault::Fault;
use identity::{Authority, KeyPair, San, SpiffeId, TlsFiles, describe_cert, write_file};
use inventory::{Inventory, Node, Role};
use time::OffsetDateTime;

/// What a certificate should say.
pub(crate) struct Wanted {
    pub(crate) id: SpiffeId,
    pub(crate) sans: Vec<San>,
    pub(crate) days: u32,
}

/// Makes the certificate, or renews it when it is due, says something else, or does not fit its
/// key; true if it did. The key stays, so that a reader never sees a key and a certificate of
/// different pairs.
pub(crate) fn ensure(
    authority: &Authority,
    files: &TlsFiles,
    wanted: &Wanted,
) -> Result<bool, Fault> {
    let key = match KeyPair::load(&files.key) {
        Ok(key) => key,
        Err(error) if files.key.exists() => return Err(error.into()),
        Err(_) => {
            if let Some(dir) = files.key.parent() {
                std::fs::create_dir_all(dir)
                    .map_err(|e| crate::folder::storage("create", dir, &e))?;
            }
            let key = KeyPair::create()?;
            key.save(&files.key)?;
            key
        }
    };
    let ca_is_ours = std::fs::read_to_string(&files.ca).is_ok_and(|ca| ca == authority.ca_pem());
    if ca_is_ours && is_good(files, &key, wanted) {
        return Ok(false);
    }
    let cert = authority.sign(&key.csr_pem()?, &wanted.id, &wanted.sans, days(wanted.days))?;
    write_file(&files.ca, authority.ca_pem().as_bytes(), 0o644)?;
    write_file(&files.cert, cert.as_bytes(), 0o644)?;
    Ok(true)
}

fn is_good(files: &TlsFiles, key: &KeyPair, wanted: &Wanted) -> bool {
    let Ok(pem) = std::fs::read_to_string(&files.cert) else { return false };
    let Ok(info) = describe_cert(&pem) else { return false };
    info.spiffe.as_ref() == Some(&wanted.id)
        && info.public_key_hash == key.public_key_hash()
        && wanted.sans.iter().all(|san| info.sans.contains(san))
        && !info.due(OffsetDateTime::now_utc())
}

pub(crate) fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 3600)
}

/// Under which names a node and its services are reached. `localhost` only where the node is
/// processes on one machine: elsewhere it would let one node stand for all.
pub(crate) fn sans_of(inventory: &Inventory, name: &str, node: &Node) -> Vec<San> {
    let mut sans =
        vec![San::Ip(node.address), San::Dns(name.to_owned()), San::Dns(inventory.fqdn(name))];
    if node.process {
        sans.push(San::Dns("localhost".to_owned()));
        sans.push(San::Ip([127, 0, 0, 1].into()));
    }
    sans
}

/// The role that a service needs on its node; `None` for a service that does not exist.
pub(crate) fn role_for(service: &str) -> Option<Role> {
    match service {
        "chainfire" => Some(Role::Control),
        _ => None,
    }
}
