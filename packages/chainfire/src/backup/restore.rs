//! Makes the data folder of the first member of a new cluster out of a file.
//!
//! The folder is filled, opened, led and read by the same code that runs a member, and only then
//! told whose it is: a restore that was cut leaves a folder that no member starts from. The other
//! members join the new cluster as ever, with empty folders.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Dialer, Host, HostOptions, NodeId, NodeInfo};
use fault::{Fault, Kind};
use serde::Serialize;

use super::inspect::{Inspected, Source};
use crate::codes;
use crate::data_dir::DataDir;
use crate::run::{GROUP, group_options, open_at};
use crate::server::new_id;
use crate::settings::{Initial, Settings};
use crate::store::transfer::Turn;

/// How long a lone voter may take until it leads.
const LEADS: Duration = Duration::from_secs(60);

/// How a restore differs from the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Added to the revision, so that it is beyond what clients have seen of the old cluster.
    pub bump_revision: i64,
    /// Everything up to the new revision counts as compacted, so that watches which start earlier
    /// are cancelled and their clients read anew. Needed with `bump_revision`.
    pub mark_compacted: bool,
    /// The new cluster may have the id of the old one.
    pub keep_cluster_id: bool,
    /// A copy of etcd's database without a checksum is taken, too.
    pub skip_hash_check: bool,
    /// etcd's users and roles are left behind, and with them what they protected.
    pub without_auth: bool,
}

/// A finished restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The new cluster's revision.
    pub revision: i64,
    /// Its compaction revision; -1 without any.
    pub compacted: i64,
    /// Live keys.
    pub keys: u64,
    /// Leases.
    pub leases: u64,
    /// The first member's new id, in hexadecimal.
    pub member_id: String,
    /// What it was made of.
    pub from: Inspected,
}

/// Makes the data folder that `settings` name out of a file. The folder must be empty or absent.
pub async fn restore(
    file: &Path,
    settings: &Settings,
    options: RestoreOptions,
) -> Result<Restored, Fault> {
    settings.check()?;
    check(settings, options)?;
    let from = {
        let file = file.to_owned();
        let reading = move || Source::open(&file, options.skip_hash_check)?.inspect();
        blocking(reading).await?
    };
    fits(&from, settings, options)?;
    let data = DataDir::open(&settings.data_dir)?;
    let made = fill(file, settings, options, &data, from).await;
    if made.is_err() {
        for part in ["journal", "engine", "spool"] {
            let _ = std::fs::remove_dir_all(data.join(part));
        }
    }
    made
}

fn refuse<T>(what: String, hint: &str) -> Result<T, Fault> {
    Err(Fault::new(codes::RESTORE, Kind::Precondition, what, hint))
}

/// What can be refused before the file is read.
fn check(settings: &Settings, options: RestoreOptions) -> Result<(), Fault> {
    if options.bump_revision < 0 || options.bump_revision > i64::MAX / 4 {
        let hint = "etcd's advice is 1000000000";
        return refuse("the revision can only be raised, and not beyond all bounds".into(), hint);
    }
    if (options.bump_revision > 0) != options.mark_compacted {
        let hint = "give --bump-revision and --mark-compacted together, as etcdutl wants it";
        return refuse("a raised revision must be compacted, or nobody would notice".into(), hint);
    }
    if settings.initial != Initial::Form {
        let hint = "restore on one machine, with initial = \"form\"; the others join it";
        return refuse("the settings say that this member joins".into(), hint);
    }
    let folder = &settings.data_dir;
    let taken = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.any(|entry| {
            let known = entry.map(|entry| entry.file_name());
            known.is_ok_and(|name| name != "lock" && name != "lost+found")
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => {
            return refuse(format!("{} cannot be read: {e}", folder.display()), "check its rights");
        }
    };
    match taken {
        true => refuse(
            format!("the data folder {} is not empty", folder.display()),
            "move it away, and keep it until the restored cluster is proved good",
        ),
        false => Ok(()),
    }
}

/// What can be refused once the file is known.
fn fits(from: &Inspected, settings: &Settings, options: RestoreOptions) -> Result<(), Fault> {
    let id = format!("{:x}", crate::assembly::short_id(settings.cluster_id));
    // only a backup says which cluster it is of
    let same = from.head.as_ref().is_some_and(|head| head.cluster_id == id);
    if same && !options.keep_cluster_id {
        return refuse(
            format!("the settings name the cluster that the backup is of ({id})"),
            "mint a new cluster_id; or, if no member of the old one will ever run again, pass \
             --keep-cluster-id",
        );
    }
    if from.etcd_auth && !options.without_auth {
        return refuse(
            "etcd's authentication is on in this snapshot, and its users are not taken over".into(),
            "pass --without-auth, and set up users before clients are let in",
        );
    }
    Ok(())
}

async fn fill(
    file: &Path,
    settings: &Settings,
    options: RestoreOptions,
    data: &DataDir,
    from: Inspected,
) -> Result<Restored, Fault> {
    let me = new_id();
    let mut owner = data.fresh_owner(settings.cluster_id, &settings.name);
    let urls = |end: Option<&crate::settings::Endpoint>| {
        end.and_then(|end| end.advertise.clone()).into_iter().collect()
    };
    let info = NodeInfo {
        name: settings.name.clone(),
        // Where they are missing the member adds them when it starts.
        peer_urls: urls(Some(&settings.peer)),
        client_urls: urls(settings.client.as_ref()),
        nonce: Bytes::copy_from_slice(owner.nonce.as_bytes()),
        auto_promote: true,
    };
    let turn = Turn { bump: options.bump_revision, compact: options.mark_compacted };
    let (spool, file) = (data.join("spool"), file.to_owned());
    let bare = options.skip_hash_check;
    blocking(move || {
        let source = Source::open(&file, bare)?;
        source
            .chunks(turn, |chunks| consensus::offline::seed(&spool, GROUP, me, info, chunks))?
            .map_err(Fault::from)
    })
    .await?;

    let (journal_dir, engine_dir) = (data.join("journal"), data.join("engine"));
    let cache = settings.storage.cache_bytes;
    let (journal, store, reader) =
        blocking(move || open_at(&journal_dir, &engine_dir, cache)).await?;
    let options = HostOptions::new(data.join("spool"));
    let host = Host::new(journal.clone(), Arc::new(Nobody), options)?;
    let group = host.start(GROUP, me, store, group_options(settings)).await?;
    let mut status = group.watch_status();
    let leads = status.wait_for(|status| status.leads() || status.failure.is_some());
    let leads = match tokio::time::timeout(LEADS, leads).await {
        Ok(Ok(status)) => status.leads(),
        _ => false,
    };
    let restored = Restored {
        revision: reader.revision(),
        compacted: reader.compacted(),
        keys: reader.keys() as u64,
        leases: reader.lease_count() as u64,
        member_id: format!("{me:x}"),
        from,
    };
    host.shutdown().await;
    blocking(move || {
        journal.close();
        Ok(())
    })
    .await?;
    let expected = restored.from.summary.revision + turn.bump;
    if !leads || restored.revision != expected || restored.keys != restored.from.summary.keys {
        return refuse(
            format!(
                "the new store is not what was to be made: revision {} of {expected}, {} keys of {}",
                restored.revision, restored.keys, restored.from.summary.keys
            ),
            "report this, with the file",
        );
    }
    owner.member_id = Some(me);
    (owner.formed, owner.started) = (true, true);
    data.keep_owner(&owner)?;
    Ok(restored)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| refuse(e.to_string(), "report this"))
}

/// A restored member has no peers yet.
struct Nobody;

impl Dialer for Nobody {
    fn dial(&self, _: NodeId, _: &NodeInfo) -> Result<tonic::transport::Channel, Fault> {
        refuse("there are no other members".into(), "report this")
    }
}

#[cfg(test)]
mod tests {
    use consensus::Fatal;

    use super::*;

    /// As much as a power failure leaves behind: what stands is there, and nobody cleans up.
    #[test]
    fn no_member_starts_from_a_restore_that_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let owner = data.fresh_owner(uuid::Uuid::new_v4(), "a");
        let chunks = [Ok(Bytes::from_static(b"half")), Err(Fatal::new("cut"))];
        let (spool, info) = (data.join("spool"), NodeInfo::default());
        consensus::offline::seed(&spool, GROUP, 7, info, &mut chunks.into_iter()).unwrap_err();
        let fault = data.owner(owner.cluster_id, "a").unwrap_err();
        assert_eq!(fault.code, codes::FOREIGN_DATA, "{fault}");
        assert!(fault.hint.contains("repeat the restore"), "{fault}");
    }
}
