//! etcd's own snapshots: the file that `etcdctl snapshot save` writes, read as records of a store.

mod bolt;
mod import;

pub(super) use import::{Import, open};

/// Whether a file that begins like this is a database of etcd.
pub(super) fn is(start: &[u8]) -> bool {
    bolt::Bolt::is(start)
}
