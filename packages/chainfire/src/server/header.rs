//! The header of every answer.

use api::etcdserverpb::ResponseHeader;
use consensus::Status;
use tokio::sync::watch;

/// Knows who this is, and the term.
#[derive(Clone)]
pub(crate) struct Headers {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) status: watch::Receiver<Status>,
}

impl Headers {
    /// A header at a revision.
    pub(crate) fn at(&self, revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.status.borrow().term,
        })
    }

    /// Completes the header that the store made, which has the revision only.
    pub(crate) fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = self.at(revision);
    }
}
