//! How a removed member learns that it is one: nobody replicates its own removal to it, so when it
//! has heard no leader for a while it asks the members it knows.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::raft as pb;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, timeout};

use crate::machine::Machine;
use crate::peers::address;
use crate::raft::LogId;
use crate::shared::Shared;
use crate::types::NodeId;
use crate::wire;

impl<M: Machine> Shared<M> {
    pub(crate) async fn run_standing(self: Arc<Self>) {
        let silence = self.options.election_max + self.options.election_max / 2;
        let mut pause = silence;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
            let quiet = self.heard.lock().elapsed() >= silence;
            if !quiet || self.leader() == Some(self.me) {
                pause = silence;
                continue;
            }
            let removed = tokio::select! {
                removed = self.ask_standing() => removed,
                () = self.stop.cancelled() => return,
            };
            if removed {
                tracing::warn!(group = self.group, "this member was removed from the group");
                self.dismissed.store(true, Ordering::Relaxed);
                self.raft.runtime_config().elect(false);
                self.status.send_replace(self.status());
                return;
            }
            pause = (pause * 2).min(Duration::from_secs(15));
        }
    }

    /// A leader was heard.
    pub(crate) fn hear(&self) {
        *self.heard.lock() = Instant::now();
    }

    /// Whether any member says that this one was removed.
    async fn ask_standing(&self) -> bool {
        let (known, member) = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            let configs = [&metrics.membership_config, &metrics.committed_membership_config];
            let member = configs.iter().any(|config| config.get_node(&self.me).is_some());
            (metrics.membership_config.clone(), member || self.log.was_member())
        };
        // Who never was a member was not let in yet.
        if !member {
            return false;
        }
        let members = known.log_id().as_ref().map(wire::log_id);
        for peer in known.nodes().map(|(id, _)| *id).filter(|id| *id != self.me) {
            let Some(mut client) = self.peers.client(peer) else { continue };
            let address = Some(address(self.group, self.me, peer));
            let request = pb::StandingRequest { address, members };
            let answer = timeout(Duration::from_secs(1), client.standing(request)).await;
            if answer.is_ok_and(|a| a.is_ok_and(|a| a.into_inner().removed)) {
                return true;
            }
        }
        false
    }

    pub(crate) fn serve_standing(
        &self,
        from: NodeId,
        members: Option<LogId>,
    ) -> pb::StandingResponse {
        let committed =
            self.raft.server_metrics().borrow_watched().committed_membership_config.clone();
        // The caller may have its own removal, and not know that it is committed.
        let removed = *committed.log_id() >= members && committed.get_node(&from).is_none();
        pb::StandingResponse { removed }
    }
}
