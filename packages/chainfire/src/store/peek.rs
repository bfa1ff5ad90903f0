//! What an engine batch of the store means, for tests that look over the engine's shoulder.

use api::mvccpb::{Event, KeyValue};
use engine::Change;

use super::layout::{self, META, Version};

/// One applied entry of the log.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Its position in the log, as consensus marks it.
    pub(crate) position: bytes::Bytes,
    /// The whole state was replaced by a snapshot that ends there.
    pub(crate) installed: bool,
    pub(crate) events: Vec<Event>,
    /// Leases, and whether they are there from now on.
    pub(crate) leases: Vec<(i64, bool)>,
    pub(crate) compacted: Option<i64>,
}

/// What an engine batch applies; none if it applies no entry.
pub(crate) fn applied(changes: &[Change]) -> Option<Applied> {
    let mut applied = Applied::default();
    let is_position = |key: &[u8]| key.starts_with(b"raft/") && key.ends_with(b"/position");
    let mut versions = Vec::new();
    for Change { space, key, value } in changes {
        match (space.as_bytes()[0], value) {
            _ if *space == META && is_position(key) => {
                applied.position = value.clone().unwrap_or_default();
            }
            _ if *space == META && key == layout::GENERATION_KEY => applied.installed = true,
            (b'v', Some(record)) => {
                let at = layout::version_position(key).unwrap();
                let key = layout::unescape(layout::escaped_part(key).unwrap());
                versions.push((at, key, Version::decode(record).unwrap()));
            }
            (b's', value) if key.starts_with(b"lease/") => {
                let id = layout::read_number(&key[6..]).unwrap();
                applied.leases.push((id, value.is_some()));
            }
            (b's', Some(value)) if key == layout::COMPACTED_KEY => {
                applied.compacted = Some(layout::read_number(value).unwrap());
            }
            _ => {}
        }
    }
    versions.sort_by_key(|(at, ..)| *at);
    applied.events =
        versions.into_iter().map(|((at, _), key, version)| event(key, at, version)).collect();
    (!applied.position.is_empty()).then_some(applied)
}

fn event(key: bytes::Bytes, mod_revision: i64, version: Version) -> Event {
    let kv = KeyValue { key, mod_revision, ..Default::default() };
    match version {
        Version::Live { create, version, lease, value } => {
            let kv = KeyValue { create_revision: create, version, lease, value, ..kv };
            Event { r#type: 0, kv: Some(kv), prev_kv: None }
        }
        Version::Tombstone => Event { r#type: 1, kv: Some(kv), prev_kv: None },
    }
}
