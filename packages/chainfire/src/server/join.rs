//! chainfire.v1 Membership: how a starting process becomes a member, and a learner a voter.

use std::sync::Arc;
use std::time::Duration;

use api::chainfire::membership_client::MembershipClient;
use api::chainfire::membership_server::Membership;
use api::chainfire::{JoinRequest, JoinResponse};
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::{Member as Shown, MemberListRequest};
use consensus::{Member, NodeId, NodeInfo};
use rpc::Peer;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::cluster::{is_url, new_id, shown};
use super::node::{FORWARDED, Leader, Node, forwarded};
use super::refusal;

/// A member that answered the leader within this time is alive. A leader that is younger than this
/// does not know yet who is.
pub(crate) const ALIVE: Duration = Duration::from_secs(5);
/// How long a member that seems dead may take to say that it is not.
const PROBE: Duration = Duration::from_secs(2);
/// How often the leader looks for learners that can vote.
const LOOK: Duration = Duration::from_millis(250);
const NONCE_BYTES: usize = 16;

pub(crate) struct MembershipService {
    node: Arc<Node>,
    /// One join at a time: two newcomers of one name must not both be let in.
    one: Mutex<()>,
}

impl MembershipService {
    pub(crate) fn new(node: Arc<Node>) -> MembershipService {
        MembershipService { node, one: Mutex::default() }
    }
}

/// What to do about a newcomer, decided from the members alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in already.
    In(NodeId),
    /// It was added by its address and takes its place.
    Fill(NodeId),
    /// It is new.
    Add,
    /// It comes in place of one that is dead.
    Replace(NodeId),
    /// One of its name is alive.
    Alive,
    /// Whether the one of its name is alive will be known later.
    AskAgain,
    /// One of its addresses belongs to another member.
    AddressTaken,
}

/// Decides; `alive` says whether a member answered lately, `knows` whether there was time for that.
pub(crate) fn verdict(
    members: &[Member],
    request: &JoinRequest,
    alive: impl Fn(&Member) -> bool,
    knows: bool,
) -> Verdict {
    let same_address =
        |member: &Member| member.info.peer_urls.iter().any(|url| request.peer_urls.contains(url));
    if let Some(member) = members.iter().find(|member| member.info.name == request.name) {
        if member.info.nonce == request.nonce {
            return Verdict::In(member.id);
        }
        return match (alive(member), knows) {
            (true, _) => Verdict::Alive,
            (false, true) => Verdict::Replace(member.id),
            (false, false) => Verdict::AskAgain,
        };
    }
    match members.iter().find(|member| same_address(member)) {
        Some(member) if member.info.name.is_empty() => Verdict::Fill(member.id),
        Some(_) => Verdict::AddressTaken,
        None => Verdict::Add,
    }
}

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let node = &self.node;
        let (metadata, extensions, request) = request.into_parts();
        let caller = node.peers.member(extensions.get::<Peer>())?;
        if let Some(caller) = caller
            && !may_ask(caller, &request.name, metadata.contains_key(FORWARDED), &node.members())
        {
            return Err(refusal::denied(format!(
                "chainfire: the certificate of {caller} may not join as {}",
                shortened(&request.name)
            )));
        }
        if request.cluster_id != node.cluster_id.to_string() {
            return Err(Status::from(&refusal::WRONG_CLUSTER));
        }
        let urls = request.peer_urls.iter().chain(&request.client_urls);
        if request.name.is_empty()
            || request.name.len() > 63
            || request.nonce.len() != NONCE_BYTES
            || request.peer_urls.is_empty()
            || request.peer_urls.len() + request.client_urls.len() > 32
            || !urls.into_iter().all(|url| is_url(url))
        {
            return Err(Status::from(&refusal::BAD_NAME));
        }
        if let Leader::There(channel) = node.leader(&metadata).await? {
            let request = forwarded(request, node.timeout() * 3);
            return MembershipClient::new(channel).join(request).await;
        }
        let _one = self.one.lock().await;
        node.barrier().await?;
        let member_id = self.admit(request).await?;
        let members = node.group.status().members.iter().map(shown).collect();
        Ok(Response::new(JoinResponse { member_id, members }))
    }
}

impl MembershipService {
    /// On the leader, one at a time.
    async fn admit(&self, request: JoinRequest) -> Result<NodeId, Status> {
        let group = &self.node.group;
        let status = group.status();
        let alive = |member: &Member| {
            member.id == status.me || member.last_ack.is_some_and(|at| at.elapsed() < ALIVE)
        };
        let knows = self.node.lessor.since().is_some_and(|since| since.elapsed() >= ALIVE);
        let mut verdict = verdict(&status.members, &request, alive, knows);
        // One that installs a snapshot answers no heartbeats.
        if let Verdict::Replace(old) = verdict
            && self.answers(old).await
        {
            verdict = Verdict::Alive;
        }
        let info = NodeInfo {
            name: request.name,
            // Out of the message's buffer, which is larger.
            nonce: bytes::Bytes::copy_from_slice(&request.nonce),
            peer_urls: request.peer_urls,
            client_urls: request.client_urls,
            auto_promote: true,
        };
        tracing::info!(name = info.name, ?verdict, "asked to join");
        match verdict {
            Verdict::In(id) => {
                let known = status.member(id).map(|member| &member.info);
                if known.is_some_and(|known| {
                    (&known.peer_urls, &known.client_urls) != (&info.peer_urls, &info.client_urls)
                }) {
                    group.update(id, info).await.map_err(refusal::membership)?;
                }
                Ok(id)
            }
            Verdict::Fill(id) => {
                let auto_promote = status.member(id).is_some_and(|member| member.info.auto_promote);
                let info = NodeInfo { auto_promote, ..info };
                group.update(id, info).await.map_err(refusal::membership)?;
                Ok(id)
            }
            Verdict::Alive => Err(refusal::alive(&info.name)),
            Verdict::AskAgain => Err(refusal::ask_again(&info.name)),
            Verdict::AddressTaken => Err(Status::from(&refusal::PEER_URL_EXISTS)),
            Verdict::Replace(old) => {
                group.remove(old).await.map_err(refusal::membership)?;
                self.add(info).await
            }
            Verdict::Add => self.add(info).await,
        }
    }

    /// Whether a process answers for the member: not just any, but the one of this id.
    async fn answers(&self, id: NodeId) -> bool {
        let Ok(member) = self.node.member(id) else { return false };
        let Ok(channel) = self.node.peers.channel(id, &member.info) else { return false };
        let mut request = Request::new(MemberListRequest { linearizable: false });
        request.set_timeout(PROBE);
        let mut client = ClusterClient::new(channel);
        let answer = tokio::time::timeout(PROBE, client.member_list(request)).await;
        let Ok(Ok(answer)) = answer else { return false };
        answer.into_inner().header.is_some_and(|header| header.member_id == id)
    }

    async fn add(&self, info: NodeInfo) -> Result<NodeId, Status> {
        let id = new_id();
        self.node.group.add_learner(id, info).await.map_err(refusal::membership)?;
        Ok(id)
    }
}

/// While this member leads, gives learners that want to vote their vote once they have caught up.
pub(crate) async fn promote_learners(node: std::sync::Weak<Node>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = wait_for_learners(&node) => {}
        }
        let Some(strong) = node.upgrade() else { return };
        let status = strong.group.status();
        for member in status.members.iter().filter(|member| wants_vote(member)) {
            if member.matched.is_none_or(|matched| matched + 100 < status.committed) {
                continue;
            }
            match strong.group.promote(member.id).await {
                Ok(()) => tracing::info!(name = member.info.name, "learner votes now"),
                Err(error) => tracing::debug!(name = member.info.name, %error, "not promoted yet"),
            }
        }
        drop(strong);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Sleeps as long as this member does not lead, or nobody wants a vote.
async fn wait_for_learners(node: &std::sync::Weak<Node>) {
    let Some(mut status) = node.upgrade().map(|node| node.group.watch_status()) else { return };
    let any = status.wait_for(|status| status.leads() && status.members.iter().any(wants_vote));
    if any.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A learner whose process was here at least once.
fn wants_vote(member: &Member) -> bool {
    !member.voter && member.info.auto_promote && !member.info.name.is_empty()
}

/// A machine asks for itself; a member also passes on what others ask.
fn may_ask(caller: &str, name: &str, was_forwarded: bool, members: &[Shown]) -> bool {
    caller == name || (was_forwarded && members.iter().any(|member| member.name == caller))
}

fn shortened(name: &str) -> &str {
    &name[..name.floor_char_boundary(64)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, nonce: &'static str, url: &str) -> Member {
        let info = NodeInfo {
            name: name.into(),
            nonce: nonce.into(),
            peer_urls: vec![url.into()],
            ..Default::default()
        };
        Member { id, info, voter: true, matched: None, last_ack: None }
    }

    fn request(name: &str, nonce: &'static str, url: &str) -> JoinRequest {
        JoinRequest {
            name: name.into(),
            nonce: nonce.into(),
            peer_urls: vec![url.into()],
            ..Default::default()
        }
    }

    #[test]
    fn only_members_ask_for_others() {
        let members = [shown(&member(1, "a", "n1", "https://a:1"))];
        assert!(may_ask("b", "b", false, &members));
        assert!(may_ask("a", "b", true, &members));
        assert!(!may_ask("a", "b", false, &members));
        assert!(!may_ask("c", "b", true, &members), "the mark alone proves nothing");
    }

    #[test]
    fn a_newcomer_never_displaces_a_live_member() {
        let members = [member(1, "a", "n1", "https://a:1"), member(2, "", "", "https://waiting:1")];
        let table = [
            (request("a", "n1", "https://a:1"), true, Verdict::In(1)),
            (request("a", "n2", "https://a:1"), true, Verdict::Alive),
            (request("a", "n2", "https://a:1"), false, Verdict::Replace(1)),
            (request("b", "n3", "https://b:1"), true, Verdict::Add),
            (request("b", "n3", "https://a:1"), true, Verdict::AddressTaken),
            (request("b", "n3", "https://a:1"), false, Verdict::AddressTaken),
            (request("c", "n4", "https://waiting:1"), false, Verdict::Fill(2)),
        ];
        for (request, alive, expected) in table {
            assert_eq!(verdict(&members, &request, |_| alive, true), expected, "{request:?}");
            // A leader that is new displaces nobody, and is as sure of all else.
            let now = verdict(&members, &request, |_| alive, false);
            let expected = match expected {
                Verdict::Replace(_) => Verdict::AskAgain,
                other => other,
            };
            assert_eq!(now, expected, "{request:?}");
        }
    }
}
