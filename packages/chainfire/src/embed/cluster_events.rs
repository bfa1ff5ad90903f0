//! Who leads, who is a member, which members answer.

use std::future::Future;
use std::sync::Arc;

use consensus::{NodeId, Status};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gossip::{NodeState, Nodes};

/// What happened in the cluster, as this member knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterEvent {
    /// Another member leads, or nobody is known to.
    LeaderChanged {
        /// Who leads.
        leader: Option<NodeId>,
        /// In which term.
        term: u64,
    },
    /// A member was added; the first events tell all that are there.
    MemberJoined {
        /// Its id.
        member: NodeId,
        /// Its name; empty for one that was added by its address and has not started.
        name: String,
        /// It has no vote.
        learner: bool,
    },
    /// A learner votes from now on, or a name came to light.
    MemberChanged {
        /// Its id.
        member: NodeId,
        /// Its name.
        name: String,
        /// It has no vote.
        learner: bool,
    },
    /// A member was removed.
    MemberLeft {
        /// Its id.
        member: NodeId,
        /// Its name.
        name: String,
    },
    /// A member answers, by gossip. Only where gossip is on.
    MemberUp {
        /// Its id.
        member: NodeId,
        /// Its name.
        name: String,
    },
    /// A member that was up does not answer, by gossip. It informs: the member may well lead.
    MemberDown {
        /// Its id.
        member: NodeId,
        /// Its name.
        name: String,
    },
}

/// Is told what happens in the cluster.
pub trait ClusterEventHandler: Send + 'static {
    /// Called with one event after the other. What changes while it runs is told afterwards, as the
    /// difference to what it was told last: a leader that came and went in between is passed over.
    fn handle(&mut self, event: ClusterEvent) -> impl Future<Output = ()> + Send;
}

/// What was told last.
#[derive(Debug, Clone, Default)]
struct Told {
    leader: Option<NodeId>,
    /// Id, name, whether it is a learner; in order of id.
    members: Vec<(NodeId, String, bool)>,
    /// Those that were told to be up.
    up: Vec<(NodeId, String)>,
    begun: bool,
}

impl Told {
    /// What to tell now. Who leaves was down before it left.
    fn next(&mut self, status: &Status, nodes: Option<&Nodes>) -> Vec<ClusterEvent> {
        let mut events = Vec::new();
        let members: Vec<_> =
            status.members.iter().map(|m| (m.id, m.info.name.clone(), !m.voter)).collect();
        let up: Vec<(NodeId, String)> = match nodes {
            // who is suspected may still refute it
            Some(nodes) => {
                let was = |id| self.up.iter().any(|(up, _)| *up == id);
                let is_up = |state, id| {
                    state == NodeState::Alive || (state == NodeState::Suspect && was(id))
                };
                let up = nodes.nodes.iter().filter(|node| is_up(node.state, node.member_id));
                up.map(|node| (node.member_id, node.name.clone())).collect()
            }
            None => Vec::new(),
        };
        for (member, name) in &self.up {
            if !up.iter().any(|(id, _)| id == member) {
                events.push(ClusterEvent::MemberDown { member: *member, name: name.clone() });
            }
        }
        for (member, name, _) in &self.members {
            if !members.iter().any(|(id, ..)| id == member) {
                events.push(ClusterEvent::MemberLeft { member: *member, name: name.clone() });
            }
        }
        for (member, name, learner) in &members {
            let (member, name, learner) = (*member, name.clone(), *learner);
            match self.members.iter().find(|(id, ..)| *id == member) {
                None => events.push(ClusterEvent::MemberJoined { member, name, learner }),
                Some((_, was_called, was)) if *was != learner || *was_called != name => {
                    events.push(ClusterEvent::MemberChanged { member, name, learner });
                }
                Some(_) => {}
            }
        }
        for (member, name) in &up {
            if !self.up.iter().any(|(id, _)| id == member) {
                events.push(ClusterEvent::MemberUp { member: *member, name: name.clone() });
            }
        }
        if self.leader != status.leader || !self.begun {
            let (leader, term) = (status.leader, status.term);
            events.push(ClusterEvent::LeaderChanged { leader, term });
        }
        *self = Told { leader: status.leader, members, up, begun: true };
        events
    }
}

/// Tells a handler until `stop`.
pub(super) async fn tell(
    mut handler: impl ClusterEventHandler,
    mut status: watch::Receiver<Status>,
    mut nodes: Option<watch::Receiver<Arc<Nodes>>>,
    stop: CancellationToken,
) {
    let mut told = Told::default();
    loop {
        let now = status.borrow_and_update().clone();
        let seen = nodes.as_mut().map(|nodes| nodes.borrow_and_update().clone());
        for event in told.next(&now, seen.as_deref()) {
            handler.handle(event).await;
            if stop.is_cancelled() {
                return;
            }
        }
        let by_gossip = async {
            match &mut nodes {
                Some(nodes) => nodes.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        let alive = tokio::select! {
            () = stop.cancelled() => false,
            changed = status.changed() => changed.is_ok(),
            alive = by_gossip => alive,
        };
        if !alive {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use consensus::{Member, NodeInfo, Role};

    use super::*;
    use crate::gossip::Node;

    fn status(leader: Option<u64>, members: &[(u64, bool)]) -> Status {
        let member = |&(id, voter): &(u64, bool)| Member {
            id,
            info: NodeInfo { name: format!("n{id}"), ..NodeInfo::default() },
            voter,
            matched: None,
            last_ack: None,
        };
        Status {
            group: 1,
            me: 1,
            term: 7,
            leader,
            role: Role::Follower,
            last_index: 0,
            committed: 0,
            applied: 0,
            persisted: 0,
            purged: 0,
            members: members.iter().map(member).collect(),
            removed: false,
            failure: None,
        }
    }

    fn nodes(states: &[(u64, NodeState)]) -> Nodes {
        let node = |&(member_id, state): &(u64, NodeState)| Node {
            member_id,
            name: format!("n{member_id}"),
            state,
            since: SystemTime::UNIX_EPOCH,
            about: None,
        };
        Nodes { nodes: states.iter().map(node).collect() }
    }

    fn said(events: Vec<ClusterEvent>) -> Vec<String> {
        use ClusterEvent as E;
        let text = |event| match event {
            E::LeaderChanged { leader, .. } => format!("leader {}", leader.unwrap_or(0)),
            E::MemberJoined { member, learner, .. } => format!("joined {member} {learner}"),
            E::MemberChanged { member, learner, .. } => format!("changed {member} {learner}"),
            E::MemberLeft { member, .. } => format!("left {member}"),
            E::MemberUp { member, .. } => format!("up {member}"),
            E::MemberDown { member, .. } => format!("down {member}"),
        };
        events.into_iter().map(text).collect()
    }

    #[test]
    fn what_is_told_is_the_difference_to_what_was_told() {
        use NodeState::{Alive, Down, Suspect, Unknown};
        let mut told = Told::default();
        let mut next = |status: Status, nodes: Nodes| said(told.next(&status, Some(&nodes)));
        let one = status(Some(1), &[(1, true)]);
        assert_eq!(next(one.clone(), nodes(&[(1, Alive)])), ["joined 1 false", "up 1", "leader 1"]);
        assert!(next(one, nodes(&[(1, Alive)])).is_empty());
        let two = status(Some(1), &[(1, true), (2, false)]);
        assert_eq!(next(two, nodes(&[(1, Alive), (2, Unknown)])), ["joined 2 true"]);
        let two = status(Some(2), &[(1, true), (2, true)]);
        assert_eq!(
            next(two.clone(), nodes(&[(1, Alive), (2, Alive)])),
            ["changed 2 false", "up 2", "leader 2"]
        );
        assert!(next(two.clone(), nodes(&[(1, Alive), (2, Suspect)])).is_empty());
        assert_eq!(next(two.clone(), nodes(&[(1, Alive), (2, Down)])), ["down 2"]);
        // suspected again, and never up since
        assert!(next(two, nodes(&[(1, Alive), (2, Suspect)])).is_empty());
        let alone = status(None, &[(1, true)]);
        assert_eq!(next(alone, nodes(&[(1, Alive)])), ["left 2", "leader 0"]);
    }

    #[test]
    fn nobody_leading_is_told_too() {
        let mut told = Told::default();
        assert_eq!(said(told.next(&status(None, &[]), None)), ["leader 0"]);
        assert!(said(told.next(&status(None, &[]), None)).is_empty());
    }
}
