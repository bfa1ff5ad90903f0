//! The Raft library's own tests of a storage, run on ours. Left out are those that build a
//! snapshot and install it in another machine (our snapshots only exist while they are sent, which
//! `tests/groups/snapshot.rs` covers), and the one that applies entries with a hole between them,
//! which ours refuses.

use std::sync::Arc;

use bytes::Bytes;
use engine::{Engine, Memory};
use journal::lossy::LossyDisk;
use journal::{Journal, Options};
use openraft::testing::log::{StoreBuilder, Suite};

use crate::apply::{Apply, Progress};
use crate::error::Fatal;
use crate::figures::Figures;
use crate::log::Log;
use crate::machine::{Applied, MARK_SPACE, Machine, Mark, Persist, SnapshotSource};
use crate::propose::Waiters;
use crate::raft::Types;
use crate::spool::Spool;
use crate::thread::{Identity, Thread};

/// Keeps nothing but its marks.
struct Marks(Engine);

impl Machine for Marks {
    type Response = ();

    fn applied(&self) -> Applied {
        Applied::read(&*self.0, 1).unwrap()
    }

    fn apply(&mut self, _: u64, requests: &[Bytes], mark: Mark) -> Result<Vec<()>, Fatal> {
        self.mark(mark)?;
        Ok(vec![(); requests.len()])
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Fatal> {
        let mut batch = engine::Batch::new();
        mark.put(&mut batch);
        Ok(self.0.write(batch)?)
    }

    fn persist(&mut self) -> Result<Persist, Fatal> {
        Ok(Box::new(|| Ok(())))
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, Fatal> {
        Ok(Box::new(Empty))
    }

    fn install(
        &mut self,
        _: &mut dyn Iterator<Item = Result<Bytes, Fatal>>,
        mark: Mark,
    ) -> Result<(), Fatal> {
        self.mark(mark)
    }
}

struct Empty;

impl SnapshotSource for Empty {
    fn next(&mut self) -> Result<Option<Bytes>, Fatal> {
        Ok(None)
    }
}

struct Builder;

impl StoreBuilder<Types, Log, Apply<Marks>, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, Log, Apply<Marks>), openraft::StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let options =
            Options { segment_bytes: 1 << 20, prepare_ahead: false, ..Options::default() };
        let journal = Journal::open(Arc::new(LossyDisk::new(1)), options).unwrap();
        let log = Log::open(journal, 1, 0, false).unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let machine = Marks(Arc::new(Memory::new(&[MARK_SPACE])));
        let identity = Identity { group: 1, me: 0, boot: 1 };
        let (thread, position) = Thread::start(machine, identity, &spool).unwrap();
        let progress = Arc::new(Progress::new(position, 1 << 20));
        let figures = Arc::new(Figures::new());
        let apply = Apply { thread, progress, waiters: Arc::new(Waiters::new()), spool, figures };
        Ok((dir, log, apply))
    }
}

macro_rules! suite {
    ($($name:ident)*) => {$(
        #[tokio::test]
        async fn $name() {
            type Tests = Suite<Types, Log, Apply<Marks>, Builder, tempfile::TempDir>;
            let (_dir, log, apply) = Builder.build().await.unwrap();
            Tests::$name(log, apply).await.unwrap();
        }
    )*};
}

suite! {
    last_membership_in_log_initial
    last_membership_in_log
    last_membership_in_log_multi_step
    get_membership_initial
    get_membership_from_log_and_empty_sm
    get_membership_from_empty_log_and_sm
    get_membership_from_log_le_sm_last_applied
    get_membership_from_log_gt_sm_last_applied_1
    get_membership_from_log_gt_sm_last_applied_2
    get_initial_state_without_init
    get_initial_state_membership_from_empty_log_and_sm
    get_initial_state_membership_from_sm_inlog_is_smaller
    get_initial_state_membership_from_log_insm_is_smaller
    get_initial_state_with_state
    get_initial_state_last_log_gt_sm
    get_initial_state_last_log_lt_sm
    get_initial_state_inverted_log_order
    get_initial_state_conflict_at_same_index
    get_initial_state_log_ids
    get_initial_state_re_apply_committed
    save_vote
    get_log_entries
    limited_get_log_entries
    leader_bounded_stream
    entries_stream
    try_get_log_entry
    log_reader_reads_new_entries
    initial_logs
    get_log_state
    get_log_id
    last_id_in_log
    purge_logs_upto_0
    purge_logs_upto_5
    purge_logs_upto_20
    delete_logs_after_11
    delete_logs_after_5
    delete_logs_after_0
    delete_logs_after_none
    append_to_log
    snapshot_meta_optional
    apply_single
    apply_multiple
}
