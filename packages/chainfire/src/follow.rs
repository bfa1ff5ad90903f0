//! Watches over the running member: gates, health, quota, and what must end the process.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::chainfire_internal::command::Request as Command;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::{AlarmRequest, AlarmType, MemberListRequest};
use consensus::{Group, Host, NodeId, NodeInfo, Status};
use fault::{Fault, Kind};
use telemetry::{Gate, Health};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::codes;
use crate::joining::Urls;
use crate::server::{Node, Peers};
use crate::store::Store;

/// A member that has applied so many entries less than were committed does not count as ready.
const LAG_MAX: u64 = 5000;

/// How long one member may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The gates of readiness.
#[derive(Clone)]
pub(crate) struct Gates {
    pub(crate) raft: Gate,
    pub(crate) applied: Gate,
    pub(crate) storage: Gate,
}

impl Gates {
    pub(crate) fn new(health: &Health) -> Gates {
        let gate = |name| health.gate(name);
        Gates { raft: gate("raft"), applied: gate("applied"), storage: gate("storage") }
    }

    /// Opens and closes by what is known; whether all are open.
    fn set(&self, status: &Status, quorum: bool, journal: Option<String>) -> bool {
        let raft = match (status.leader, quorum) {
            (Some(_), true) => None,
            (Some(_), false) => Some("no quorum can be reached".to_owned()),
            (None, _) => Some("no leader".to_owned()),
        };
        let told = [
            (&self.raft, raft),
            (&self.applied, not_applied(status)),
            (&self.storage, journal.or_else(|| status.failure.clone())),
        ];
        let mut all = true;
        for (gate, reason) in told {
            all &= reason.is_none();
            match reason {
                None => gate.open(),
                Some(reason) => gate.close(reason),
            }
        }
        all
    }
}

fn not_applied(status: &Status) -> Option<String> {
    let behind = status.committed.saturating_sub(status.applied);
    if !status.formed() {
        Some("not a member yet".into())
    } else if behind > LAG_MAX {
        Some(format!("{behind} entries behind"))
    } else {
        None
    }
}

/// Keeps gates and gRPC health true, until the member fails or was removed: then it answers why.
pub(crate) async fn follow(
    mut status: watch::Receiver<Status>,
    mut quorum: watch::Receiver<bool>,
    journal: journal::Journal,
    gates: Gates,
    health: HealthReporter,
) -> Fault {
    let mut was_ready = None;
    loop {
        let now = status.borrow_and_update().clone();
        let ready = gates.set(
            &now,
            *quorum.borrow_and_update(),
            journal.failed().map(|error| error.to_string()),
        );
        if was_ready.replace(ready) != Some(ready) {
            let serving = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in ["", "etcdserverpb.KV"] {
                health.set_service_status(service, serving).await;
            }
        }
        if let Some(failure) = now.failure {
            return Fault::new(
                codes::STOPPED,
                Kind::Internal,
                format!("this member has failed: {failure}"),
                "then restart it; if that does not help, remove it and let it join anew",
            );
        }
        if now.removed {
            return removed();
        }
        // The journal says nothing by itself when it fails.
        let alive = tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => true,
            changed = status.changed() => changed.is_ok(),
            changed = quorum.changed() => changed.is_ok(),
        };
        if !alive {
            return Fault::new(codes::STOPPED, Kind::Unavailable, "consensus has stopped", "");
        }
    }
}

fn removed() -> Fault {
    Fault::new(
        codes::NO_MEMBER,
        Kind::Precondition,
        "this member was removed from the cluster",
        "empty its data folder to let it join anew",
    )
}

/// Forgets what is kept of each member once it is none.
pub(crate) async fn forget_removed(
    mut status: watch::Receiver<Status>,
    peers: Arc<Peers>,
    host: Host,
    stop: CancellationToken,
) {
    let ids = |status: &Status| status.members.iter().map(|m| m.id).collect::<BTreeSet<NodeId>>();
    let mut known = ids(&status.borrow());
    let follow = async {
        while status.changed().await.is_ok() {
            if ids(&status.borrow_and_update()) == known {
                continue;
            }
            // what is under way to one that was removed would make it known again
            tokio::time::sleep(ANSWER_MAX).await;
            known = ids(&status.borrow_and_update());
            peers.keep(|id| known.contains(&id));
            host.keep_peers(|id| known.contains(&id));
        }
    };
    tokio::select! { () = follow => {} () = stop.cancelled() => {} }
}

/// Returns if this member was let in and removed again before it had heard anything: it knows no
/// other member that could tell it, and asks those that it joined by after every such silence.
pub(crate) async fn dropped(
    me: NodeId,
    cluster_id: u64,
    mut status: watch::Receiver<Status>,
    peers: Arc<Peers>,
    join: Vec<String>,
    silence: Duration,
) -> Fault {
    loop {
        let heard = tokio::time::timeout(silence, status.wait_for(Status::formed)).await.is_ok();
        if heard {
            return std::future::pending().await;
        }
        tracing::info!("let in, but no leader was heard yet");
        for url in &join {
            // Everything that was decided before is in the answer, this member's join for one.
            let mut request = tonic::Request::new(MemberListRequest { linearizable: true });
            request.set_timeout(ANSWER_MAX);
            let Ok(channel) = peers.to_url(url) else { continue };
            let mut client = ClusterClient::new(channel);
            let answer = tokio::time::timeout(ANSWER_MAX, client.member_list(request)).await;
            let Ok(Ok(answer)) = answer else { continue };
            let answer = answer.into_inner();
            let ours = answer.header.is_some_and(|header| header.cluster_id == cluster_id);
            if ours && answer.members.iter().all(|member| member.id != me) {
                return removed();
            }
        }
    }
}

/// Says whether a leader with a quorum can be reached. A member takes the last leader for the
/// leader until it hears of another, so that is not enough: something must have been applied, or
/// a majority have answered this leader, or a read barrier must pass. Short gaps do not count.
pub(crate) async fn watch_quorum(
    group: Group<Store>,
    quorum: watch::Sender<bool>,
    election: Duration,
) {
    let mut status = group.watch_status();
    let mut applied = 0;
    let mut reached = Instant::now();
    loop {
        let (has_leader, fresh) = {
            let now = status.borrow_and_update();
            let moved = now.applied > std::mem::replace(&mut applied, now.applied);
            (now.leader.is_some(), moved || is_answered(&now, election))
        };
        let passes = async {
            let barrier = tokio::time::timeout(2 * election, group.read_index());
            matches!(barrier.await, Ok(Ok(_)))
        };
        let has = if has_leader && (fresh || passes.await) {
            reached = Instant::now();
            true
        } else {
            *quorum.borrow() && reached.elapsed() < 3 * election
        };
        quorum.send_if_modified(|told| std::mem::replace(told, has) != has);
        let pause = tokio::time::sleep(if has { election } else { election / 8 });
        if has {
            pause.await;
        } else {
            tokio::select! {
                () = pause => {}
                changed = status.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Whether this member leads and a majority of the voters, itself among them, answered lately.
fn is_answered(status: &Status, within: Duration) -> bool {
    let voters = status.members.iter().filter(|member| member.voter);
    let lately = |at: Instant| at.elapsed() < within;
    let (mut all, mut fresh) = (0, 0);
    for voter in voters {
        all += 1;
        fresh += usize::from(voter.id == status.me || voter.last_ack.is_some_and(lately));
    }
    status.leads() && 2 * fresh > all
}

/// Raises the NOSPACE alarm when the store is over its quota. Lowering it is the operator's.
pub(crate) async fn watch_quota(node: Weak<Node>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(node) = node.upgrade() else { return };
        let full = node.quota_bytes > 0 && node.reader.db_size_in_use() > node.quota_bytes;
        if node.full.swap(full, Ordering::Relaxed) != full && full {
            tracing::warn!(
                quota = node.quota_bytes,
                used = node.reader.db_size_in_use(),
                code = codes::NO_SPACE.0,
                "the store is over its quota: delete and compact, then disarm the alarm"
            );
        }
        let (alarm, member_id) = (AlarmType::Nospace as i32, node.me());
        let raised =
            |a: &api::etcdserverpb::AlarmMember| a.alarm == alarm && a.member_id == member_id;
        if full && !node.reader.alarms().iter().any(raised) {
            let action = AlarmAction::Activate as i32;
            let request = AlarmRequest { action, member_id, alarm };
            if let Err(error) = node.propose(Command::Alarm(request)).await {
                tracing::debug!(%error, "alarm not raised yet");
            }
        }
    }
}

/// Tells the cluster if this member's addresses are not what the cluster knows.
pub(crate) async fn advertise(node: Arc<Node>, name: String, urls: Urls, stop: CancellationToken) {
    let me = node.me();
    let mut status = node.group.watch_status();
    loop {
        let ready = status.wait_for(|now| now.leader.is_some() && now.member(me).is_some());
        let known = tokio::select! {
            () = stop.cancelled() => return,
            now = ready => match now {
                Ok(now) => now.member(me).map(|member| member.info.clone()),
                Err(_) => return,
            },
        };
        let Some(known) = known else { continue };
        let wanted = NodeInfo {
            name: name.clone(),
            peer_urls: urls.peer.clone(),
            client_urls: urls.client.clone(),
            ..known.clone()
        };
        if wanted == known {
            return;
        }
        match node.group.update(me, wanted).await {
            Ok(()) => tracing::info!(peer = ?urls.peer, client = ?urls.client, "addresses told"),
            Err(error) => tracing::debug!(%error, "addresses not told yet"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
