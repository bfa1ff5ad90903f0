//! chainfire.v1 Local: reads of what this one member has applied.
//!
//! The levels of reading, from the strongest to the cheapest:
//!
//! | level | asks | sees |
//! |---|---|---|
//! | linearizable | a majority, once for all reads that wait | every write acknowledged before it |
//! | serializable | any member, and the next one if that fails | a past state; an older one perhaps where the next answer is another member's |
//! | local | one member, and no other | a past state, never an older one than this process showed before; at least the revision that the reader names, by waiting for it |
//!
//! The last two need no leader. A bound on how old the state may be in time is absent on purpose: a
//! member that follows a deposed leader cannot know it.

use std::sync::Arc;

use api::chainfire::local_server::Local;
use api::chainfire::{LocalRangeRequest, LocalRangeResponse};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::kv_server::Kv;
use tonic::{Request, Response, Status};

use super::kv::KvService;
use super::node::Node;
use super::refusal;

pub(crate) struct LocalService(pub(crate) Arc<Node>);

impl LocalService {
    /// Until the revision is applied here, but not longer than a request may take.
    async fn applied(&self, revision: i64) -> Result<(), Status> {
        let node = &self.0;
        let mut changes = node.reader.subscribe();
        let reached = async {
            while node.reader.revision() < revision {
                // what was passed over counts as well
                let _ = changes.next().await;
            }
        };
        let waited = tokio::time::timeout(node.timeout(), reached).await;
        waited.map_err(|_| Status::from(&refusal::BEHIND))
    }
}

#[tonic::async_trait]
impl Local for LocalService {
    async fn range(
        &self,
        request: Request<LocalRangeRequest>,
    ) -> Result<Response<LocalRangeResponse>, Status> {
        let node = &self.0;
        let (metadata, extensions, request) = request.into_parts();
        let range = RangeRequest { serializable: true, ..request.range.unwrap_or_default() };
        if node.reader.revision() < request.at_least_revision {
            // nobody waits here for what will be refused
            let caller = node.caller_of(&metadata, &extensions).await?;
            node.allow(&caller, |guard| guard.range(&range)).await?;
            self.applied(request.at_least_revision).await?;
        }
        // the same way as any range, so that the same callers may read the same keys
        let range = Request::from_parts(metadata, extensions, range);
        let answer = KvService(node.clone()).range(range).await?.into_inner();
        let status = node.group.status();
        Ok(Response::new(LocalRangeResponse {
            range: Some(answer),
            in_quorum: *node.quorum.borrow(),
            applied_index: status.applied,
            committed_index: status.committed,
        }))
    }
}
