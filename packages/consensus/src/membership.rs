//! Changes of the members. They are decided on the leader, one at a time; any member forwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::raft as pb;
use api::raft::change_request::Change;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::metrics::RaftServerMetrics;
use tokio::time::{Instant, timeout_at};

use crate::error::MembershipError as Error;
use crate::machine::Machine;
use crate::peers::{address, surely_not_received};
use crate::propose::Patience;
use crate::raft::{Types, count, count_of};
use crate::shared::Shared;
use crate::types::{Member, NodeId, NodeInfo, Status};
use crate::unbroken::unbroken;
use crate::wire;

/// Why a change was not made on this node.
enum Here {
    /// This node does not lead; nothing happened.
    NotLeader,
    Error(Error),
}

impl From<Error> for Here {
    fn from(e: Error) -> Self {
        Here::Error(e)
    }
}

impl<M: Machine> Shared<M> {
    pub(crate) async fn form(&self, me: NodeInfo) -> Result<(), Error> {
        if let Some(ended) = self.ended() {
            return Err(ended.membership_error());
        }
        let (raft, members) = (self.raft.clone(), BTreeMap::from([(self.me, me)]));
        match unbroken(async move { raft.initialize(members).await }).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                // Ask the core: right after a start the metrics do not know the log yet. Nor is
                // there anything to wait for: a node that is a member already may be one of many,
                // whose leader cannot reach it before the caller serves.
                let me = self.me;
                let here = self.raft.with_raft_state(move |state| {
                    state.membership_state.effective().membership().get_node(&me).is_some()
                });
                return match here.await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(Error::Formed),
                    Err(e) => Err(Error::Failed(e.to_string())),
                };
            }
            Err(RaftError::APIError(e)) => return Err(Error::Failed(e.to_string())),
            Err(RaftError::Fatal(e)) => return Err(Error::Failed(e.to_string())),
        }
        let limit = self.options.request_timeout;
        let deadline = Instant::now() + limit;
        while self.leader().is_none() {
            if Instant::now() >= deadline {
                return Err(Error::TimedOut(limit));
            }
            if let Some(ended) = self.ended() {
                return Err(ended.membership_error());
            }
            self.leader_change_or(None, Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Makes a change wherever the leader is. Tries again only while it was surely not tried.
    pub(crate) async fn change(&self, change: Change) -> Result<(), Error> {
        let limit = self.options.request_timeout;
        let deadline = Instant::now() + limit;
        let mut patience = Patience::new();
        loop {
            if let Some(ended) = self.ended() {
                return Err(ended.membership_error());
            }
            let leader = self.leader();
            if let Some(leader) = leader {
                let made = if leader == self.me {
                    timeout_at(deadline, self.change_here(change.clone())).await
                } else {
                    timeout_at(deadline, self.change_at(leader, change.clone())).await
                };
                match made {
                    Ok(Ok(index)) => {
                        // Whoever looks at the status here from now on finds the change.
                        let _ = timeout_at(deadline, self.members_reach(index)).await;
                        return Ok(());
                    }
                    Ok(Err(Here::NotLeader)) => {}
                    Ok(Err(Here::Error(e))) => return Err(e),
                    Err(_) => return Err(Error::TimedOut(limit)),
                }
            }
            if Instant::now() >= deadline {
                return Err(Error::NoLeader { hint: self.leader_hint() });
            }
            self.leader_change_or(leader, patience.next()).await;
        }
    }

    async fn change_at(&self, leader: NodeId, change: Change) -> Result<u64, Here> {
        use pb::change_response::Outcome;
        let mut client = self.peers.client(leader).ok_or(Here::NotLeader)?;
        let request = pb::ChangeRequest {
            address: Some(address(self.group, self.me, leader)),
            change: Some(change),
        };
        match client.change(request).await {
            Ok(response) => match response.into_inner().outcome {
                Some(Outcome::Done(done)) => Ok(done.index),
                Some(Outcome::Refused(_)) => Err(Here::NotLeader),
                Some(Outcome::Error(e)) => Err(self.refused_with(e).into()),
                None => Err(Error::LeaderChanged.into()),
            },
            Err(status) if surely_not_received(&status) => Err(Here::NotLeader),
            Err(_) => Err(Error::LeaderChanged.into()),
        }
    }

    /// Serves another member's change.
    pub(crate) async fn serve_change(&self, change: Change) -> pb::ChangeResponse {
        use pb::change_response::Outcome;
        let limit = self.options.request_timeout;
        let made = timeout_at(Instant::now() + limit, self.change_here(change)).await;
        let outcome = match made {
            Ok(Ok(index)) => Outcome::Done(pb::Done { index }),
            Ok(Err(Here::NotLeader)) => Outcome::Refused(self.refusal(pb::refused::Why::NotLeader)),
            Ok(Err(Here::Error(e))) => Outcome::Error(to_wire(&e)),
            Err(_) => Outcome::Error(to_wire(&Error::TimedOut(limit))),
        };
        pb::ChangeResponse { outcome: Some(outcome) }
    }

    async fn change_here(&self, change: Change) -> Result<u64, Here> {
        let _one = self.changing.lock().await;
        if self.leader() != Some(self.me) {
            return Err(Here::NotLeader);
        }
        tracing::info!(group = self.group, change = %Named(&change), "changing the members");
        let left = self.finish_change().await?;
        let status = self.status();
        match change {
            Change::AddLearner(node) => {
                let info = wire::from_info(node.info.unwrap_or_default());
                match status.member(node.id) {
                    Some(known) if known.info == info => return Ok(0),
                    Some(_) => return Err(Error::Exists(node.id).into()),
                    None => {}
                }
                self.commit(ChangeMembers::AddNodes(BTreeMap::from([(node.id, info)]))).await
            }
            Change::Promote(id) => {
                let member = status.member(id).ok_or(Error::NotFound(id))?;
                if member.voter {
                    return left.ok_or(Error::NotLearner(id).into());
                }
                self.judge(|status, asked| {
                    self.caught_up(status, id)?;
                    self.quorum(status, asked, |m| m.voter || m.id == id)
                })
                .await?;
                self.commit(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
            }
            Change::Remove(id) => {
                let member = status.member(id).ok_or(Error::NotFound(id))?;
                let ids = BTreeSet::from([id]);
                if !member.voter {
                    return self.commit(ChangeMembers::RemoveNodes(ids)).await;
                }
                self.judge(|status, asked| self.quorum(status, asked, |m| m.voter && m.id != id))
                    .await?;
                self.commit(ChangeMembers::RemoveVoters(ids)).await
            }
            Change::Update(node) => {
                let info = wire::from_info(node.info.unwrap_or_default());
                match status.member(node.id) {
                    None => return Err(Error::NotFound(node.id).into()),
                    Some(known) if known.info == info => return Ok(0),
                    Some(_) => {}
                }
                self.commit(ChangeMembers::SetNodes(BTreeMap::from([(node.id, info)]))).await
            }
            Change::Transfer(to) => self.transfer_here(&status, to).await.map(|()| 0),
        }
    }

    /// Finishes what a leader that was lost between the two steps of a change has left half done:
    /// until then both the old and the new voters must have a majority. Returns the index of the
    /// entry, if there was anything to finish.
    async fn finish_change(&self) -> Result<Option<u64>, Here> {
        if !is_joint(&self.raft.server_metrics().borrow_watched()) {
            return Ok(None);
        }
        tracing::info!(group = self.group, "finishing a change of members");
        // Adding nobody leaves the newer of the two sets of voters.
        self.commit(ChangeMembers::AddVoterIds(BTreeSet::new())).await.map(Some)
    }

    /// On the leader: finishes changes that nobody drives any more.
    pub(crate) async fn run_finish_changes(self: Arc<Self>) {
        let mut metrics = self.raft.server_metrics();
        let finish = async {
            loop {
                let stuck = {
                    let now = metrics.borrow_and_update();
                    now.current_leader == Some(self.me) && is_joint(&now)
                };
                if stuck {
                    // A change that is driven from here is done once this is held.
                    let _one = self.changing.lock().await;
                    if self.leader() == Some(self.me)
                        && let Err(Here::Error(error)) = self.finish_change().await
                    {
                        tracing::warn!(group = self.group, %error, "a change of members is half done");
                    }
                }
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = finish => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Commits a change and returns the index of its entry. What is refused since another change,
    /// or the leader's first entry, is not committed yet, is tried again until the caller's deadline.
    async fn commit(&self, change: ChangeMembers<u64, NodeInfo>) -> Result<u64, Here> {
        loop {
            self.members_settle().await;
            match self.try_commit(change.clone()).await {
                Err(Here::Error(Error::InProgress)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(index) => {
                    self.members_reach(index).await;
                    return Ok(index);
                }
                other => return other,
            }
        }
    }

    async fn try_commit(&self, change: ChangeMembers<u64, NodeInfo>) -> Result<u64, Here> {
        type Failed = RaftError<Types, ClientWriteError<Types>>;
        let raft = self.raft.clone();
        match unbroken(async move { raft.change_membership(change, false).await }).await {
            Ok(response) => Ok(count(&response.log_id)),
            Err(Failed::APIError(e)) => Err(match e {
                ClientWriteError::ForwardToLeader(_) => Here::NotLeader,
                ClientWriteError::LogEntryDiscarded(_) => Error::LeaderChanged.into(),
                ClientWriteError::ChangeMembershipError(e) => from_library(e).into(),
                ClientWriteError::PreconditionFailed(_) => Error::InProgress.into(),
            }),
            Err(Failed::Fatal(e)) => Err(match self.ended() {
                Some(ended) => ended.membership_error().into(),
                None => Error::Failed(e.to_string()).into(),
            }),
        }
    }

    /// Waits until no change is under way, or this node does not lead any more.
    async fn members_settle(&self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let settled = {
                let now = metrics.borrow_and_update();
                now.membership_config == now.committed_membership_config
                    || now.current_leader != Some(self.me)
            };
            if settled || metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the status of this node shows the members of that entry, or later ones.
    async fn members_reach(&self, index: u64) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let known = metrics.borrow_and_update().committed_membership_config.clone();
            if count_of(known.log_id().as_ref()) >= index {
                return;
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn transfer_here(&self, status: &Status, to: NodeId) -> Result<(), Here> {
        if to == self.me {
            return Ok(());
        }
        let member = status.member(to).ok_or(Error::NotFound(to))?;
        if !member.voter {
            return Err(Error::NotVoter(to).into());
        }
        // A leader that hands over takes no proposals, so it must not wait for a dead one.
        self.judge(|status, asked| {
            self.caught_up(status, to)?;
            match status.member(to).is_some_and(|m| self.answered(m, asked)) {
                true => Ok(()),
                false => Err(Error::Quorum(format!("member {} does not answer", member.info.name))),
            }
        })
        .await?;
        let raft = self.raft.clone();
        let asked = unbroken(async move { raft.trigger().transfer_leader(to).await });
        if asked.await.is_err() {
            return Err(Error::Stopped.into());
        }
        // Somebody else may win: then this was no transfer.
        self.leader_is_no_more(self.me).await;
        loop {
            match self.leader() {
                Some(leader) if leader == to => return Ok(()),
                Some(leader) if leader != self.me => return Err(Error::LeaderChanged.into()),
                other => self.leader_change_or(other, Duration::from_millis(100)).await,
            }
            if let Some(ended) = self.ended() {
                return Err(ended.membership_error().into());
            }
        }
    }

    /// Waits until a judgement on the members is good, for a moment: a new leader, or one that
    /// has just lost a member, must hear from the others first. `asked` is when the change was.
    async fn judge(
        &self,
        judge: impl Fn(&Status, Instant) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let asked = Instant::now();
        loop {
            let verdict = judge(&self.status(), asked);
            let hopeless = matches!(&verdict, Err(Error::NotReady { matched, .. }) if *matched > 0);
            if verdict.is_ok() || hopeless || asked.elapsed() > self.options.election_min {
                return verdict;
            }
            tokio::time::sleep(self.options.heartbeat / 4).await;
        }
    }

    fn caught_up(&self, status: &Status, id: NodeId) -> Result<(), Error> {
        let matched = status.member(id).and_then(|m| m.matched).unwrap_or(0);
        if matched > 0 && matched + self.options.promote_lag >= status.last_index {
            return Ok(());
        }
        Err(Error::NotReady { id, matched, last: status.last_index })
    }

    /// Whether those who would vote afterwards have a majority that has answered since.
    fn quorum(
        &self,
        status: &Status,
        since: Instant,
        votes: impl Fn(&Member) -> bool,
    ) -> Result<(), Error> {
        let voters: Vec<&Member> = status.members.iter().filter(|m| votes(m)).collect();
        let alive = voters.iter().filter(|m| self.answered(m, since)).count();
        if voters.is_empty() {
            return Err(Error::Quorum("no voter would be left".into()));
        }
        if alive <= voters.len() / 2 {
            return Err(Error::Quorum(format!("{alive} of {} voters would answer", voters.len())));
        }
        Ok(())
    }

    fn answered(&self, member: &Member, since: Instant) -> bool {
        member.id == self.me || member.last_ack.is_some_and(|at| at >= since)
    }

    fn refused_with(&self, e: pb::ChangeError) -> Error {
        use pb::change_error::Kind;
        match e.kind() {
            Kind::NotFound => Error::NotFound(e.id),
            Kind::Exists => Error::Exists(e.id),
            Kind::NotReady => Error::NotReady { id: e.id, matched: e.matched, last: e.last },
            Kind::NotLearner => Error::NotLearner(e.id),
            Kind::NotVoter => Error::NotVoter(e.id),
            Kind::InProgress => Error::InProgress,
            Kind::Quorum => Error::Quorum(e.detail),
            Kind::TimedOut => Error::TimedOut(self.options.request_timeout),
            Kind::LeaderChanged => Error::LeaderChanged,
            Kind::Unknown => Error::Failed(e.detail),
        }
    }
}

/// Whether the voters are those before and those after a change.
fn is_joint(metrics: &RaftServerMetrics<Types>) -> bool {
    metrics.membership_config.membership().get_joint_config().len() > 1
}

fn from_library(e: ChangeMembershipError<crate::raft::LeaderId, u64>) -> Error {
    use ChangeMembershipError as E;
    match e {
        E::InProgress(_) | E::UncommittedLeaderLog(_) => Error::InProgress,
        E::EmptyMembership(_) => Error::Quorum("no voter would be left".into()),
        E::LearnerNotFound(e) => Error::NotFound(e.node_id),
        E::NodeMetadataChanged(e) => Error::Exists(e.node_id),
        E::UnsupportedMembershipTransition(e) => Error::Failed(e.to_string()),
    }
}

fn to_wire(e: &Error) -> pb::ChangeError {
    use pb::change_error::Kind;
    let of =
        |kind: Kind, id: NodeId| pb::ChangeError { kind: kind.into(), id, ..Default::default() };
    match e {
        Error::NotFound(id) => of(Kind::NotFound, *id),
        Error::Exists(id) => of(Kind::Exists, *id),
        Error::NotReady { id, matched, last } => {
            pb::ChangeError { matched: *matched, last: *last, ..of(Kind::NotReady, *id) }
        }
        Error::NotLearner(id) => of(Kind::NotLearner, *id),
        Error::NotVoter(id) => of(Kind::NotVoter, *id),
        Error::InProgress => of(Kind::InProgress, 0),
        Error::Quorum(why) => pb::ChangeError { detail: why.clone(), ..of(Kind::Quorum, 0) },
        Error::TimedOut(_) => of(Kind::TimedOut, 0),
        Error::LeaderChanged => of(Kind::LeaderChanged, 0),
        Error::NoLeader { .. } | Error::Formed | Error::Stopped | Error::Failed(_) => {
            pb::ChangeError { detail: e.to_string(), ..of(Kind::Unknown, 0) }
        }
    }
}

struct Named<'a>(&'a Change);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Change::AddLearner(node) => write!(f, "add learner {:#x}", node.id),
            Change::Promote(id) => write!(f, "promote {id:#x}"),
            Change::Remove(id) => write!(f, "remove {id:#x}"),
            Change::Update(node) => write!(f, "update {:#x}", node.id),
            Change::Transfer(to) => write!(f, "transfer the lead to {to:#x}"),
        }
    }
}
